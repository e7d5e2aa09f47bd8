"""A step without a finite loss or gradient changes nothing; many of them end the run, after one try from the last save."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import overrides
from tests.train.run_processes import events
from tinyllama import api, files
from tinyllama.errors import RunStoppedError
from tinyllama.train import trainer
from tinyllama.train.run_guards import LOSS_SCALE_SEARCH, SkippedStepsError, StepGuard
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_step import StepResult, train_step


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """`poison(steps, times, where)`: these steps (from 1) have a NaN as loss, or an infinite gradient, so many times."""

    def apply(steps: range, times: int = 9, where: str = "loss") -> list[int]:
        met: list[int] = []

        def poisoned(state, micro_batches, train, *, step: int, lr: float) -> StepResult:
            is_met = step + 1 in steps and met.count(step + 1) < times
            if not is_met:
                return train_step(state, micro_batches, train, step=step, lr=lr)
            met.append(step + 1)
            before = state.model.norm.weight.detach().clone()
            if where == "loss":
                state.model.norm.weight.data[0] = torch.nan
            else:
                state.gradients.norm = lambda: torch.tensor(torch.inf)
            weights = {name: value.detach().clone() for name, value in state.model.named_parameters()}
            result = train_step(state, micro_batches, train, step=step, lr=lr)
            assert result.is_skipped.item() == 1
            for name, value in state.model.named_parameters():
                assert torch.equal(value.nan_to_num(), weights[name].nan_to_num()), f"{name} was updated"
            state.gradients.__dict__.pop("norm", None)
            state.model.norm.weight.data.copy_(before)
            return result

        monkeypatch.setattr(trainer, "train_step", poisoned)
        return met

    return apply


def test_a_poisoned_step_is_left_out(run_dir: Path, poison: Callable[..., list[int]]):
    poison(range(5, 7))
    summary = api.pretrain("small-120m", run_dir, overrides()).to_dict()
    rows = files.read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("skipped")] == [5, 6]
    assert [row["loss"] is None for row in rows] == [row["step"] in (5, 6) for row in rows]
    assert [(row["step"], row["reason"]) for row in events(run_dir, "skip")] == [
        (5, "the loss is not finite"),
        (6, "the loss is not finite"),
    ]
    assert (summary["step"], summary["skipped_steps"]) == (12, 2)
    assert all(row["grad_norm"] > 0 for row in rows if row["step"] not in (5, 6))


def test_many_in_a_row_go_back_once(run_dir: Path, poison: Callable[..., list[int]], capfd: pytest.CaptureFixture[str]):
    words = overrides(train__max_skipped_in_a_row=3)
    met = poison(range(7, 10), times=1)
    summary = api.pretrain("small-120m", run_dir, words).to_dict()
    assert met == [7, 8, 9]
    assert [row["step"] for row in events(run_dir, "roll_back")] == [6]
    assert "3 steps in a row up to step 9" in " ".join(capfd.readouterr().err.split())
    assert [row["step"] for row in files.read_jsonl(run_dir / "metrics.jsonl")] == list(range(1, 13))
    assert summary["skipped_steps"] == 0


def test_the_second_time_ends_the_run(run_dir: Path, poison: Callable[..., list[int]]):
    met = poison(range(7, 13))
    with pytest.raises(RunStoppedError, match=r"after rolling back once; lower train\.peak_lr") as stop:
        api.pretrain("small-120m", run_dir, overrides(train__max_skipped_in_a_row=3))
    assert stop.value.exit_code == 1
    assert met.count(7) == 2
    assert len(events(run_dir, "roll_back")) == len(events(run_dir, "stop")) == 1


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(run_dir: Path, poison: Callable[..., list[int]]):
    poison(range(1, 13))
    with pytest.raises(RunStoppedError, match="there is no checkpoint to roll back to"):
        api.pretrain("small-120m", run_dir, overrides(train__max_skipped_in_a_row=2))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_without_a_finite_norm_is_left_out_too(
    run_dir: Path, poison: Callable[..., list[int]], precision: str
):
    poison(range(5, 6), where="gradient")
    api.pretrain("small-120m", run_dir, overrides(train__precision=precision))
    assert [(row["step"], row["reason"]) for row in events(run_dir, "skip")] == [(5, "the gradient is not finite")]


def test_the_search_of_the_loss_scale_is_no_fault():
    guard = StepGuard(TrainConfig(precision="fp16", max_skipped_in_a_row=1))
    for step in range(1, LOSS_SCALE_SEARCH + 1):
        assert guard.see(step, 3.0, is_skipped=True) == "overflow in fp16, the loss scale is halved"
        guard.check(step)
    guard.see(LOSS_SCALE_SEARCH + 1, 3.0, is_skipped=True)
    with pytest.raises(SkippedStepsError, match="33 steps in a row"):
        guard.check(LOSS_SCALE_SEARCH + 1)


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 3), ("bf16", 3), ("fp16", 35)])
def test_so_many_in_a_row_are_too_many_and_a_good_one_begins_anew(precision: str, allowed: int):
    guard = StepGuard(TrainConfig.model_validate({"precision": precision, "max_skipped_in_a_row": 3}))
    for start in (0, 100):
        for step in range(start, start + allowed - 1):
            assert guard.see(step, math.inf, is_skipped=True) == "the loss is not finite"
            guard.check(step)
        assert guard.in_a_row == allowed - 1
        assert guard.see(start + 60, math.nan, is_skipped=False) is None  # what counts is whether the update was made
        assert guard.in_a_row == 0
        guard.check(start + 60)
    for step in range(allowed):
        guard.see(step, 2.0, is_skipped=True)
    with pytest.raises(SkippedStepsError, match=f"{allowed} steps in a row up to step 77 had") as error:
        guard.check(77)
    assert error.value.step == 77


def test_the_reason_of_a_skip_is_told_by_loss_and_format():
    reasons = {
        precision: StepGuard(TrainConfig.model_validate({"precision": precision})).see(1, 2.0, is_skipped=True)
        for precision in ("fp16", "bf16", "fp32")
    }
    assert reasons["bf16"] == reasons["fp32"] == "the gradient is not finite"
    assert reasons["fp16"] == "overflow in fp16, the loss scale is halved"
    assert StepGuard(TrainConfig(precision="fp16")).see(1, math.nan, is_skipped=True) == "the loss is not finite"
