"""Updates on two ranks against the same on one, in float64, so that rounding is no excuse; and short formats."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.test_train_step import batch, make_model, parts
from tinyllama.drill.rank_processes import LOADED, free_port
from tinyllama.parallel import reductions
from tinyllama.parallel.launch import join
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import train_step

STEPS = 3
MODELS: dict[str, dict[str, Any]] = {
    "tied": {"dropout": 0.2, "attention_dropout": 0.2},
    "untied": {"tied_head": False, "embedding_dim": 16},
}


def updates(ranks: Ranks | None, dtype: torch.dtype, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Weights after some updates, and each one's loss and norm."""
    torch.set_num_threads(1)
    train = TrainConfig(seq_len=16, tokens_per_step=16 * 8, micro_batch_size=1, max_grad_norm=0.1, **changes)
    model = make_model(dtype=dtype, **MODELS[name])
    state = TrainState(model.config, train, torch.device("cpu"), dtype, ranks)
    state.model.load_state_dict(model.state_dict())
    state.network.refresh()
    figures = []
    for step in range(STEPS):
        all_parts = parts(batch(8, seed=step), 8)
        own = [all_parts[number] for number in train.layout(state.ranks.size).of_rank(state.ranks.rank)]
        result = train_step(state, own, train, step=step, lr=1e-3)
        figures.append(torch.stack([result.loss, result.accuracy, result.grad_norm]).double())
    weights = {key: value.detach().clone() for key, value in state.model.named_parameters()}
    return weights | {"figures": torch.stack(figures)}


def on_rank(rank: int, size: int, port: int, path: str, dtype: torch.dtype, name: str, changes: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    reductions.BUCKET_BYTES = 20_000  # several buckets, even of a network this small
    with join(ParallelConfig(replicate=size, timeout_seconds=60)) as ranks:
        assert ranks is not None
        ranks.connect(torch.device("cpu"))
        torch.save(updates(ranks, dtype, name, **changes), f"{path}.{rank}")
        ranks.stop_watching()


def on_ranks(size: int, path: Path, dtype: torch.dtype, name: str, **changes: Any) -> list[dict[str, torch.Tensor]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    port = free_port()
    arguments = [(rank, size, port, str(path), dtype, name, changes) for rank in range(size)]
    processes = [context.Process(target=on_rank, args=words) for words in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * size
    return [torch.load(f"{path}.{rank}", weights_only=True) for rank in range(size)]


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_in_float64(tmp_path: Path, name: str):
    alone = updates(None, torch.float64, name, precision="fp32")
    first, second = on_ranks(2, tmp_path / "result", torch.float64, name, precision="fp32")
    assert alone["figures"][:, 2].min() > 0.1, "clipping must be active"
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), f"{key}: the ranks drift apart"
        torch.testing.assert_close(first[key], value, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_formats_are_summed_in_fp32_over_ranks(tmp_path: Path, precision: Any):
    """One micro-batch a rank: each gives a 16-bit gradient, whose sum over the ranks must not be made in 16 bits."""
    changes = {"precision": precision, "deterministic_reduction": True}
    alone = updates(None, torch.float32, "untied", **changes)
    for found in on_ranks(8, tmp_path / "tree", torch.float32, "untied", **changes):
        assert all(torch.equal(found[key], value) for key, value in alone.items())
    for found in on_ranks(8, tmp_path / "fast", torch.float32, "untied", precision=precision):
        torch.testing.assert_close(found["figures"], alone["figures"], rtol=1e-5, atol=0)
