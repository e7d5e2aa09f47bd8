"""Several ranks train what one does: to the bit with one order of sums, near it without; lost ranks are named."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.train.rank_runs import RankRun, started
from tests.train.run_processes import events, outcome, steps_done, untimed
from tests.train.test_loss_spikes import SPIKING, poisoned_run
from tinyllama import files

COMMON = {
    "train__steps": 24, "train__micro_batch_size": 1, "train__tokens_per_step": 256, "train__max_grad_norm": 0.5,
    "model__dropout": 0.1, "model__attention_dropout": 0.1, "parallel__threads": 1, "parallel__timeout_seconds": 60.0,
}  # fmt: skip
ONE_ORDER = COMMON | {"train__deterministic_reduction": True}


@pytest.fixture
def run(prepared_run: Path, tmp_path: Path) -> Iterator[RankRun]:
    made = RankRun(Path(shutil.copytree(prepared_run, tmp_path / "run")))
    yield made
    made.end()


@pytest.fixture(scope="module")
def alone(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The outcome of the run with one order of sums, on one rank."""
    run = RankRun(Path(shutil.copytree(prepared_run, tmp_path_factory.mktemp("alone") / "run")))
    return outcome(run.run_dir, run.to_its_end(1, **ONE_ORDER))


@pytest.mark.parametrize("ranks", [2, 4])
def test_one_order_of_sums_gives_the_same_bits_on_any_number_of_ranks(run: RankRun, alone: tuple[Any, ...], ranks: int):
    summary = run.to_its_end(ranks, **ONE_ORDER)
    assert summary["ranks"] == ranks
    assert outcome(run.run_dir, summary) == alone
    assert any(row["grad_norm"] > 0.5 for row in alone[2]), "clipping must be active"
    assert all(run.processes.output(rank) == run.processes.errors(rank) == "" for rank in range(1, ranks))


def test_the_fast_order_is_near_one_ranks(prepared_run: Path, tmp_path: Path):
    rows = []
    for ranks in (1, 2):
        run = RankRun(Path(shutil.copytree(prepared_run, tmp_path / str(ranks))))
        run.to_its_end(ranks, **COMMON)
        rows.append(files.read_jsonl(run.run_dir / "metrics.jsonl"))
    for key in ("loss", "grad_norm"):
        one, two = ([row[key] for row in series] for series in rows)
        assert two == pytest.approx(one, rel=1e-4), key
    assert rows[1][-1]["validation"] == pytest.approx(rows[0][-1]["validation"], rel=1e-5)
    assert untimed(rows[0]) != untimed(rows[1]), "other orders have other bits, else the test above says nothing"


def test_a_signal_to_any_rank_stops_all_after_the_same_step(run: RankRun, alone: tuple[Any, ...]):
    run.start(4, **ONE_ORDER)
    run.wait_until(lambda: steps_done(run.run_dir) >= 5)
    run.processes.send(signal.SIGTERM, [2])
    assert run.processes.wait() == [143] * 4
    (stop,) = events(run.run_dir, "stop")
    assert (stop["reason"], stop["exit_code"]) == ("SIGTERM", 143)
    assert stop["step"] == steps_done(run.run_dir) == events(run.run_dir, "save")[-1]["step"] < 24
    assert "stopped after step" in run.processes.errors(0)
    assert outcome(run.run_dir, run.to_its_end(2, **ONE_ORDER)) == alone
    assert [row["ranks"] for row in events(run.run_dir, "resume")] == [2]


@pytest.mark.parametrize("lost", [0, 2])
def test_the_others_leave_a_killed_rank(run: RankRun, alone: tuple[Any, ...], lost: int):
    run.start(4, **ONE_ORDER)
    run.wait_until(lambda: len(events(run.run_dir, "save")) >= 2)
    run.processes.send(signal.SIGKILL, [lost])
    codes = run.processes.wait(60)
    assert codes == [-9 if rank == lost else 69 for rank in range(4)]
    (stop,) = events(run.run_dir, "stop")
    assert f"rank {lost}" in stop["reason"]
    assert "lost" in stop["reason"]
    said = [rank for rank in range(4) if "tinyllama: rank" in run.processes.errors(rank)]
    assert said
    assert all("Traceback" not in run.processes.errors(rank) for rank in range(4))
    assert outcome(run.run_dir, run.to_its_end(1, **ONE_ORDER)) == alone


def test_a_hung_rank_is_named_after_the_time_limit(run: RankRun):
    run.start(2, **ONE_ORDER | {"parallel__timeout_seconds": 2.0, "train__steps": 5000})
    run.wait_until(lambda: steps_done(run.run_dir) >= 3)
    run.processes.send(signal.SIGSTOP, [1])
    run.processes.processes[0].join(60)
    assert run.processes.exit_codes == [69, None]
    (stop,) = events(run.run_dir, "stop")
    assert stop["reason"].startswith("rank 1 is lost, last seen in ")
    assert "; rank 0 waited in the " in stop["reason"]
    assert stop["reason"] in run.processes.errors(0)


def test_what_rank_0_refuses_ends_all(run: RankRun):
    run.to_its_end(1, **ONE_ORDER)
    run.start(2, **ONE_ORDER | {"train__peak_lr": 0.5})
    assert run.processes.wait(60) == [2, 2]
    assert run.processes.errors(0).count("tinyllama: ") == 1
    assert "-> 0.5" in run.processes.errors(0)
    assert run.processes.errors(1) == ""


def test_a_finished_run_is_finished_on_all(run: RankRun):
    first = run.to_its_end(2, **ONE_ORDER)
    assert run.to_its_end(2, **ONE_ORDER) == first


def test_all_ranks_leave_out_the_same_steps(run: RankRun):
    """A rate beyond all measure makes every later loss no number: all ranks count alike and end alike."""
    run.start(2, **COMMON | {"train__peak_lr": 1e38, "train__max_skipped_in_a_row": 3})
    assert run.processes.wait(60) == [1, 1]
    assert "had a non-finite loss or gradient" in run.processes.errors(0)
    assert run.processes.errors(1) == ""


FORMATS = {
    "bf16": {"train__precision": "bf16"},
    "fp16": {"train__precision": "fp16"},
    "untied": {"model__tied_head": False, "train__optimizer_state": "bf16"},
    "many-lanes": {"train__tokens_per_step": 1024, "train__reduction_lanes": 16},
}


@pytest.mark.full
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_same_bits_on_1_2_4_and_8_ranks(prepared_run: Path, tmp_path: Path, name: str):
    found = []
    for ranks in (1, 2, 4, 8):
        run = RankRun(Path(shutil.copytree(prepared_run, tmp_path / str(ranks))))
        found.append(outcome(run.run_dir, run.to_its_end(ranks, **ONE_ORDER | FORMATS[name])))
    assert found[1:] == found[:1] * 3


@pytest.mark.full
def test_stopped_on_8_ranks_and_gone_on_with_2(run: RankRun, alone: tuple[Any, ...]):
    run.start(8, **ONE_ORDER)
    run.wait_until(lambda: steps_done(run.run_dir) >= 5)
    run.processes.send(signal.SIGINT, [7])
    assert run.processes.wait() == [130] * 8
    assert 5 <= events(run.run_dir, "stop")[0]["step"] < 24
    assert outcome(run.run_dir, run.to_its_end(2, **ONE_ORDER)) == alone
    assert started(run.run_dir) == [8, 2]


@pytest.mark.full
def test_a_spike_is_answered_alike_by_all_ranks(prepared_run: Path, tmp_path: Path):
    changes = SPIKING | {
        "train__deterministic_reduction": True, "train__reduction_lanes": 2, "train__max_spike_roll_backs": 3,
        "parallel__threads": 1,
    }  # fmt: skip
    found = []
    for ranks in (1, 2):
        run_dir, *_ = poisoned_run(prepared_run, tmp_path / str(ranks), **changes)
        run = RankRun(run_dir)
        summary = run.to_its_end(ranks, **changes)
        quarantined = [row["windows"] for row in events(run_dir, "quarantine")]
        assert quarantined
        found.append((outcome(run_dir, summary), quarantined, [row["step"] for row in events(run_dir, "roll_back")]))
    assert found[0] == found[1]
