"""What the guards of a run see, answer, keep and quarantine, and where the run goes back to: by hand, without a run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.train.run_processes import events
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.errors import InputError, RunStoppedError
from tinyllama.shards.batches import Batches
from tinyllama.shards.quarantine import Quarantined
from tinyllama.train import run_guards
from tinyllama.train.loss_spikes import Spike, SpikeGuard, robust_z, roll_backs_near, steps_to_see, suspect_steps
from tinyllama.train.roll_back import RollBack
from tinyllama.train.run_checkpoints import RunCheckpoints
from tinyllama.train.run_guards import LossSpikeError, RunGuards, SkippedStepsError
from tinyllama.train.train_config import TrainConfig

CALM = [3.0, 3.1, 2.9, 3.0, 3.1, 2.9, 3.0, 3.1]  # median 3; median absolute deviation 0.1
SPIKE = Spike(step=100, in_a_row=3, loss=9.0, median=3.0, score=20.0)  # the last clean step is 95
EIGHT: dict[str, Any] = {"spike_window": 8, "spike_steps_in_a_row": 2, "save_every_steps": 5}


# -- the score ---------------------------------------------------------------------------------------------------------


def test_a_score_at_the_threshold_is_no_spike_and_one_above_it_is():
    at = robust_z(4.0, CALM)
    for threshold, wanted in ((at, None), (math.nextafter(at, 0), 4.0)):
        guard = SpikeGuard(TrainConfig(spike_window=8, spike_steps_in_a_row=1, spike_threshold=threshold))
        seen = [guard.see(step, loss) for step, loss in enumerate([*CALM, 4.0], 1)]
        assert seen[:8] == [None] * 8
        assert (seen[8] and seen[8].loss) == wanted


def test_a_spike_is_told_once_however_long_it_goes_on():
    guard = SpikeGuard(TrainConfig(spike_window=16, spike_steps_in_a_row=3))
    losses = [*CALM, *CALM, *[9.0] * 6]
    spikes = [spike for step, loss in enumerate(losses, 1) if (spike := guard.see(step, loss))]
    assert [(spike.step, spike.in_a_row, spike.loss, spike.median) for spike in spikes] == [(19, 3, 9.0, 3.0)]
    assert guard.state()["in_a_row"] == 6


def test_the_window_is_that_of_the_steps_before_and_no_number_is_left_out():
    guard = SpikeGuard(TrainConfig(spike_window=8, spike_steps_in_a_row=1))
    for step, loss in enumerate([50.0, math.nan, *CALM, math.inf], 1):
        assert guard.see(step, loss) is None
    assert guard.state() == {"losses": [[step, loss] for step, loss in enumerate(CALM, 3)], "in_a_row": 0}
    spike = guard.see(12, 4.0)
    assert spike is not None
    assert (spike.median, spike.score) == (3.0, pytest.approx(1 / 0.14826))
    assert guard.state()["losses"] == [*([step, loss] for step, loss in enumerate(CALM[1:], 4)), [12, 4.0]]


def test_the_least_noise_is_half_a_percent_of_the_median():
    assert robust_z(-2.1, [-2.0] * 8) == pytest.approx(-0.1 / 0.01)
    assert robust_z(1e-12, [0.0] * 8) == pytest.approx(1)
    assert robust_z(2.02, [2.0, 2.001, 1.999] * 3) == pytest.approx(0.02 / 0.01)


def test_the_last_clean_step_is_two_before_the_first_that_stands_out():
    assert [replace(SPIKE, step=step).after_step for step in (4, 5, 6, 7, 100)] == [0, 0, 1, 2, 95]
    assert replace(SPIKE, in_a_row=1).after_step == 97
    assert steps_to_see(TrainConfig(spike_steps_in_a_row=4)) == 6


def test_a_spike_s_words_have_its_numbers():
    said = replace(SPIKE, in_a_row=2, score=7.25).words()
    assert said == "loss 9.000 at step 100, the second in a row far above the median 3.000 (robust z 7.2)"
    counts = [replace(SPIKE, in_a_row=count).words().split("the ")[1].split()[0] for count in (1, 3, 4, 11)]
    assert counts == ["first", "third", "4th", "11th"]


def test_roll_backs_within_the_window_are_near_on_both_sides():
    past = [Quarantined(step, ()) for step in (85, 86, 95, 104, 105)]
    assert roll_backs_near(SPIKE, past, window=10) == 3


def test_half_a_window_more_is_suspected_each_time_up_to_a_twentieth_of_an_epoch():
    ends = [suspect_steps(SPIKE, times, 9, 1000).stop - 1 for times in range(4)]
    assert ends == [100, 104, 109, 113]
    assert [suspect_steps(SPIKE, 9, 99, epoch) for epoch in (19, 20, 59, 60)] == [
        range(96, 101), range(96, 102), range(96, 103), range(96, 104)
    ]  # fmt: skip


# -- the guards of a run -----------------------------------------------------------------------------------------------


def spiked(run_dir: Path, start: int = 1, quarantine: tuple[Quarantined, ...] = (), **changes: Any) -> RunGuards:
    """Guards that have just seen a spike, of two steps, eight steps after `start`."""
    guards = RunGuards(run_dir, TrainConfig(**(EIGHT | changes)))
    guards.quarantine = quarantine
    for step, loss in enumerate([*CALM, 6.0, 6.0], start):
        assert guards.see(step, loss, False) is None
    return guards


@pytest.mark.parametrize(
    ("start", "near", "changes", "answer", "is_limit"),
    [
        (
            1,
            0,
            {"save_every_steps": 7},
            "no checkpoint is old enough yet (train.save_every_steps); training continues",
            None,
        ),
        (1, 0, {"save_every_steps": 6}, "rolling back to a checkpoint before it", False),
        (11, 1, {"max_spike_roll_backs": 1}, "stopping, the run has gone back here too often", True),
        (11, 1, {"max_spike_roll_backs": 2}, "rolling back to a checkpoint before it", False),
        (
            11,
            2,
            {"max_spike_roll_backs": 1, "on_spike_limit": "go_on"},
            "after rolling back 2 times; training continues",
            None,
        ),
        (1, 0, {"spike_guard": "watch"}, "watched only (train.spike_guard)", None),
    ],
)
def test_what_is_answered_to_a_spike(
    tmp_path: Path, start: int, near: int, changes: dict[str, Any], answer: str, is_limit: bool | None
):
    step = start + 9
    past = (Quarantined(step - 4 - 8, ()), *[Quarantined(step - 4 - 7, ())] * near)  # the first one is too far away
    guards = spiked(tmp_path, start, past, **changes)
    if is_limit is None:
        guards.check(step)
    else:
        with pytest.raises(LossSpikeError, match=f"loss 6.000 at step {step}, the second in a row") as error:
            guards.check(step)
        assert error.value.limit_reached == is_limit
        assert error.value.spike.step == step
    (event,) = events(tmp_path, "spike")
    assert (event["step"], event["answer"], event["loss"], event["median"]) == (step, answer, 6.0, 3.05)
    assert event["score"] == round(event["score"], 3) > 6
    assert event["losses"][-1] == [step, 6.0]
    guards.check(step)  # it is answered once
    assert len(events(tmp_path, "spike")) == 1


def test_without_a_spike_guard_no_loss_is_kept(tmp_path: Path):
    guards = spiked(tmp_path, spike_guard="off")
    guards.check(10)
    assert guards.state() == {"skipped_in_a_row": 0, "spikes": {"losses": [], "in_a_row": 0}}
    assert not (tmp_path / "events.jsonl").exists()


def test_a_skipped_step_is_counted_and_enters_no_window(tmp_path: Path):
    guards = spiked(tmp_path, max_skipped_in_a_row=2)
    losses = guards.state()["spikes"]["losses"]
    guards = RunGuards(tmp_path, TrainConfig(**EIGHT, max_skipped_in_a_row=2))
    guards.load({"skipped_in_a_row": 1, "spikes": {"losses": losses, "in_a_row": 1}})
    assert guards.see(11, 9.0, True) == "the gradient is not finite"
    assert guards.state() == {"skipped_in_a_row": 2, "spikes": {"losses": losses, "in_a_row": 1}}
    with pytest.raises(SkippedStepsError, match="2 steps in a row up to step 11"):
        guards.check(11)


def test_taking_up_begins_anew_but_keeps_the_quarantine(tmp_path: Path):
    guards = spiked(tmp_path, quarantine=(Quarantined(3, (1,)),))
    guards.load({})
    guards.check(10)  # the spike is forgotten
    assert guards.state() == {"skipped_in_a_row": 0, "spikes": {"losses": [], "in_a_row": 0}}
    assert guards.quarantine == (Quarantined(3, (1,)),)


class FakeBatches:
    """Step s, from 0, reads windows 2 s and 2 s + 1, and window 7."""

    sequences_per_step, sequences_per_epoch, seq_len = 3, 3 * 80, 16

    class shards:  # noqa: N801
        split = Path("split")

    def windows(self, step: int, start: int, count: int) -> list[int]:
        assert (start, count) == (0, 3)
        return [2 * step + 1, 7, 2 * step]


BATCHES = cast("Batches", FakeBatches())


def test_the_suspects_windows_are_quarantined_once_each_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    monkeypatch.setattr(run_guards, "documents_of_windows", lambda *words: asked.append(words) or ["a", "b"])
    monkeypatch.setattr(run_guards, "MAX_NAMED_WINDOWS", 3)
    guards = RunGuards(tmp_path, TrainConfig(**EIGHT))
    guards.quarantine = (Quarantined(6, (4,)),)
    spike = replace(SPIKE, step=10, in_a_row=2)  # the last clean step is 6; the run went back there: 4 steps more
    guards.quarantine_windows(spike, BATCHES)
    windows = (7, *range(12, 28))  # of steps 7 to 14
    assert guards.quarantine == (Quarantined(6, (4,)), Quarantined(6, windows))
    assert asked == [(Path("split"), windows[::6], 16)]  # 17 windows, at most 3 are named
    (event,) = events(tmp_path, "quarantine")
    assert (event["step"], event["reason"], event["after_step"]) == (10, "read by steps 7 to 14", 6)
    assert (event["windows"], event["windows_named"], event["documents"]) == ([*windows], 3, ["a", "b"])


def test_documents_that_cannot_be_named_do_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def refuse(*_: Any) -> None:
        raise InputError("rows: damaged")

    monkeypatch.setattr(run_guards, "documents_of_windows", refuse)
    guards = RunGuards(tmp_path, TrainConfig(**EIGHT))
    guards.quarantine_windows(replace(SPIKE, step=10, in_a_row=2), BATCHES)
    assert guards.quarantine == (Quarantined(6, (7, *range(12, 20))),)
    assert events(tmp_path, "quarantine")[0]["documents"] == []
    assert "cannot be named: rows: damaged" in " ".join(capfd.readouterr().err.split())


# -- going back --------------------------------------------------------------------------------------------------------

FOUND = RunState(6, 600, {}, {}, "t", "s", 5, {}, guards={"skipped_in_a_row": 4, "spikes": {"in_a_row": 1}})


class FakeCheckpoints:
    def __init__(self, found: RunState | None) -> None:
        self.found, self.asked = found, []

    def resume(self) -> RunState | None:
        self.asked.append("newest")
        return self.found

    def go_back(self, last_step: int) -> RunState | None:
        self.asked.append(last_step)
        return self.found


def roll_back_to(found: RunState | None, run_dir: Path) -> tuple[RollBack, FakeCheckpoints]:
    train, checkpoints = TrainConfig(**EIGHT, max_spike_roll_backs=2), FakeCheckpoints(found)
    return RollBack(run_dir, train, cast("RunCheckpoints", checkpoints), RunGuards(run_dir, train)), checkpoints


def stop_of(run_dir: Path) -> tuple[int, str, int]:
    (event,) = events(run_dir, "stop")
    return event["step"], event["reason"], event["exit_code"]


def test_after_skipped_steps_the_run_goes_back_once(tmp_path: Path):
    roll_back, checkpoints = roll_back_to(FOUND, tmp_path)
    trouble = SkippedStepsError(9, 3)
    found = roll_back.answer(trouble, BATCHES)
    assert found == replace(FOUND, guards={"skipped_in_a_row": 0, "spikes": {"in_a_row": 1}})
    assert checkpoints.asked == ["newest"]
    with pytest.raises(RunStoppedError, match=r"after rolling back once; lower train\.peak_lr") as error:
        roll_back.answer(trouble, BATCHES)
    assert error.value.exit_code == 1
    assert checkpoints.asked == ["newest"]
    assert stop_of(tmp_path) == (9, f"{trouble}, after rolling back once", 1)


def test_without_a_checkpoint_skipped_steps_end_the_run(tmp_path: Path):
    roll_back, _ = roll_back_to(None, tmp_path)
    with pytest.raises(RunStoppedError, match="there is no checkpoint to roll back to"):
        roll_back.answer(SkippedStepsError(9, 3), BATCHES)
    assert stop_of(tmp_path)[0] == 9
    assert roll_back.has_skipped_back


def test_before_a_spike_the_data_around_it_are_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_guards, "documents_of_windows", lambda *_: [])
    roll_back, checkpoints = roll_back_to(FOUND, tmp_path)
    spike = replace(SPIKE, step=10, in_a_row=2)
    for _ in range(2):  # more than once
        assert roll_back.answer(LossSpikeError(spike, limit_reached=False), BATCHES) is FOUND
    assert checkpoints.asked == [6, 6]
    assert [entry.after_step for entry in roll_back.guards.quarantine] == [6, 6]
    assert not roll_back.has_skipped_back


@pytest.mark.parametrize(("limit_reached", "found"), [(True, FOUND), (False, None)])
def test_where_it_cannot_go_back_it_ends_and_quarantines_nothing(
    tmp_path: Path, limit_reached: bool, found: RunState | None
):
    roll_back, checkpoints = roll_back_to(found, tmp_path)
    with pytest.raises(RunStoppedError) as error:
        roll_back.answer(LossSpikeError(SPIKE, limit_reached=limit_reached), BATCHES)
    why = (
        ", after rolling back 2 times near it (train.on_spike_limit=go_on would continue)"
        if limit_reached
        else ", and no checkpoint of step 95 or before it is whole"
    )
    assert stop_of(tmp_path) == (100, SPIKE.words() + why, 1)
    assert str(error.value).startswith(SPIKE.words() + why + "; lower train.peak_lr")
    assert checkpoints.asked == ([] if limit_reached else [95])
    assert roll_back.guards.quarantine == ()
