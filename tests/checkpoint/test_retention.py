from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_model import run_state, tiny_llama
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.checkpoint.retention import Retention, remove_others
from tinyllama.checkpoint.save_load import write_checkpoint

LOSSES = {10: 4.0, 20: 3.0, 30: 2.0, 40: 2.5, 50: 2.5, 60: 3.5}  # by step


def state(step: int, loss: float | None) -> RunState:
    return replace(run_state(tiny_llama(), "t", step), validation=None if loss is None else {"loss": loss})


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(1, best=False), {60}),
        (Retention(2, best=False), {50, 60}),
        (Retention(9, best=False), set(LOSSES)),
        (Retention(1, every_steps=20, best=False), {20, 40, 60}),
        (Retention(1), {30, 60}),
        (Retention(1, every_steps=50), {30, 50, 60}),
        (Retention(1, best=False, safe_steps=10), {50, 60}),
        (Retention(2, best=False, safe_steps=11), {40, 50, 60}),
        (Retention(1, best=False, safe_steps=51), {10, 60}),
    ],
)
def test_last_every_and_best(retention: Retention, kept: set[int]):
    assert retention.kept_steps(state(step, loss) for step, loss in LOSSES.items()) == kept


@pytest.mark.parametrize("safe_steps", [1, 4, 5])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_however_often_a_run_saves_a_checkpoint_grows_old_enough(safe_steps: int, every: int):
    kept: set[int] = set()
    for step in range(every, 60, every):
        kept = Retention(1, best=False, safe_steps=safe_steps).kept_steps(state(one, None) for one in {*kept, step})
        assert step in kept
        assert len(kept) <= 3
        old_enough = [one for one in kept if one <= step - safe_steps]
        assert old_enough or step < every + safe_steps
        assert not old_enough or max(old_enough) > step - 2 * (safe_steps + every)


def test_of_equal_losses_the_earliest_is_the_best():
    states = [state(10, 3.0), state(20, 2.0), state(30, 2.0), state(40, 2.0)]  # 30 and 40 carry the figure of 20
    assert Retention(1).kept_steps(states) == {20, 40}


def test_no_or_no_finite_loss_is_never_the_best():
    assert Retention(1).kept_steps([state(10, None), state(20, float("nan")), state(30, None)]) == {30}
    assert Retention(1).kept_steps([state(10, None), state(20, 5.0), state(30, float("inf"))]) == {20, 30}


def test_others_are_removed_and_what_cannot_be_read_is_left_alone(tmp_path: Path):
    for step, loss in LOSSES.items():
        write_checkpoint(tmp_path, {}, state(step, loss), [])
    (tmp_path / "step_00000020" / form.STATE).write_text("damaged")
    assert sorted(remove_others(tmp_path, Retention(1))) == ["step_00000010", "step_00000040", "step_00000050"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000020", "step_00000030", "step_00000060"]
