"""Whole runs on layouts that cut the network: the same figures as one process, and checkpoints that move between layouts."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_model import save_checkpoint, tiny_llama
from tests.train.rank_runs import RankRun, started
from tests.train.run_processes import events, steps_done
from tinyllama import files
from tinyllama.checkpoint.checkpoint_format import WEIGHTS, newest_valid
from tinyllama.checkpoint.save_load import load_tensors
from tinyllama.exchange.open_model import open_model
from tinyllama.parallel.layout import ParallelConfig

STEPS = 40
COMMON = {  # two stages have 3 layers and 1, three have 1, 2 and 1: the head is worth 1.3
    "model__n_layers": 4,
    "train__steps": STEPS, "train__micro_batch_size": 1, "train__tokens_per_step": 256, "train__max_grad_norm": 0.5,
    "train__save_every_steps": 4, "train__validate_every_steps": 10, "model__dropout": 0.1, "parallel__threads": 1,
    "parallel__timeout_seconds": 120.0,
}  # fmt: skip


def keys(**layout: Any) -> dict[str, Any]:
    return {"parallel__replicate": 1} | {f"parallel__{key}": value for key, value in layout.items()}


def ranks_of(**layout: Any) -> int:
    return ParallelConfig(**layout).world_size


class LayoutRun(RankRun):
    """A run of a number of ranks that is not the number of copies."""

    def begin(self, **layout: Any) -> int:
        ranks = ranks_of(**layout)
        self.start(ranks, **COMMON | keys(**layout))
        return ranks

    def in_layout(self, **layout: Any) -> dict[str, Any]:
        return self.to_its_end(ranks_of(**layout), **COMMON | keys(**layout))

    def until(self, step: int, **layout: Any) -> None:
        """Stopped by a signal to the last rank, some steps after `step`."""
        ranks = self.begin(**layout)
        self.wait_until(lambda: steps_done(self.run_dir) >= step)
        self.processes.send(signal.SIGTERM, [ranks - 1])
        assert self.processes.wait() == [143] * ranks, self.processes.errors(0)


@pytest.fixture(scope="module")
def alone(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and weights of the run of one process."""
    run = LayoutRun(Path(shutil.copytree(prepared_run, tmp_path_factory.mktemp("alone") / "run")))
    run.in_layout()
    return files.read_jsonl(run.run_dir / "metrics.jsonl"), weights(run.run_dir)


@pytest.fixture
def run(prepared_run: Path, tmp_path: Path) -> Iterator[LayoutRun]:
    made = LayoutRun(Path(shutil.copytree(prepared_run, tmp_path / "run")))
    yield made
    made.end()


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    path = newest_valid(run_dir / "checkpoints")
    assert path is not None
    return load_tensors(path / WEIGHTS)


def check(run: LayoutRun, summary: dict[str, Any], alone: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    rows, wanted = files.read_jsonl(run.run_dir / "metrics.jsonl"), alone[0]
    for key in ("loss", "grad_norm", "lr", "accuracy"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in wanted], rel=1e-4, abs=1e-9), key
    for row, other in zip(rows, wanted, strict=True):
        assert row.get("validation") == (
            pytest.approx(other["validation"], rel=1e-4) if "validation" in other else None
        )
    for name, value in weights(run.run_dir).items():
        torch.testing.assert_close(value, alone[1][name], rtol=1e-3, atol=2e-5, msg=name)
    assert summary["step"] == STEPS


def test_a_checkpoint_moves_between_layouts(run: LayoutRun, alone: tuple[list[dict[str, Any]], dict[str, Any]]):
    """Replicate 4, then tensor 2 x pipeline 2, then one process; what any of them saved opens as a model."""
    run.until(4, replicate=4)
    run.until(12, tensor=2, pipeline=2)
    opened = open_model(run.run_dir, "cpu")
    assert opened.state is not None
    assert 12 <= opened.state.step < STEPS
    summary = run.in_layout()
    check(run, summary, alone)
    assert started(run.run_dir) == [4, 4, 1]


@pytest.mark.full
@pytest.mark.parametrize(
    "axes",
    [
        {"shard": 2}, {"shard": 2, "gather": "step"}, {"tensor": 2}, {"pipeline": 2}, {"shard": 2, "tensor": 2},
        {"shard": 2, "pipeline": 2},
        {"replicate": 2, "tensor": 2, "pipeline": 2}, {"replicate": 2, "shard": 2, "tensor": 2}, {"pipeline": 3},
        {"shard": 2, "pipeline": 3},
    ],
    ids=str,
)  # fmt: skip
def test_every_layout_trains_what_one_process_does(
    run: LayoutRun, alone: tuple[list[dict[str, Any]], dict[str, Any]], axes: dict[str, Any]
):
    check(run, run.in_layout(**axes), alone)


@pytest.mark.full
def test_a_checkpoint_moves_between_unequal_stages(run: LayoutRun, alone: tuple[list[dict[str, Any]], dict[str, Any]]):
    """Every layer is on another stage, or on all ranks, after each change."""
    run.until(4, pipeline=3)
    run.until(12, shard=2, pipeline=2)
    run.until(16, shard=2, gather="step")
    run.until(20, pipeline=4)
    check(run, run.in_layout(tensor=2, pipeline=2), alone)
    assert started(run.run_dir) == [3, 4, 2, 4, 4]


@pytest.mark.full
def test_the_others_leave_a_killed_rank(run: LayoutRun, alone: tuple[list[dict[str, Any]], dict[str, Any]]):
    run.begin(tensor=2, pipeline=2)
    run.wait_until(lambda: len(events(run.run_dir, "save")) >= 2)
    run.processes.send(signal.SIGKILL, [3])
    assert run.processes.wait(60) == [69, 69, 69, -9]
    (stop,) = events(run.run_dir, "stop")
    assert "rank 3 is lost" in stop["reason"]
    assert all("Traceback" not in run.processes.errors(rank) for rank in range(4))
    check(run, run.in_layout(shard=2, pipeline=2), alone)


@pytest.mark.full
def test_training_begins_from_a_model_in_any_layout(run: LayoutRun, tmp_path: Path):
    """`init_from` gives each rank its part of the same weights."""
    model = tiny_llama(seed=3)
    save_checkpoint(tmp_path / "first" / "checkpoints", run.run_dir / "tokenizer", model)
    shutil.copytree(run.run_dir / "tokenizer", tmp_path / "first" / "tokenizer")
    changes = COMMON | {
        "train__init_from": str(tmp_path / "first"),
        "train__steps": 2,
        "model__dropout": 0.0,
        "model__n_layers": 2,
        "model__ffn_dim": 48,
        "model__tied_head": False,
    }
    losses = []
    for axes in ({"replicate": 1}, {"shard": 2, "tensor": 2}):
        other = LayoutRun(Path(shutil.copytree(run.run_dir, tmp_path / f"run_{len(losses)}")))
        other.to_its_end(ranks_of(**axes), **changes | keys(**axes))
        losses.append([row["loss"] for row in files.read_jsonl(other.run_dir / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
