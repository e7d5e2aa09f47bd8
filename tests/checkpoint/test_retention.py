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
        (Retention(1, best=False, safe_steps=51), {60}),
    ],
)
def test_last_every_and_best(retention: Retention, kept: set[int]):
    assert retention.kept_steps(state(step, loss) for step, loss in LOSSES.items()) == kept


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
