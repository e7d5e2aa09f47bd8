"""The training state of one rank of a layout."""

from dataclasses import replace

import pytest
import torch

from tests.instruments.dry_run import _fake_ranks
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.loss import LossSums
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState

CPU = torch.device("cpu")
TINY = LlamaConfig(vocab_size=64, seq_len=16, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48)


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("axes", [{"shard": 2}, {"tensor": 2, "pipeline": 2}], ids=str)
def test_room_is_made_for_what_a_save_copies(axes: dict[str, int], tied_head: bool):
    """Alone, before the first save: the same names, shapes and formats as all ranks together give rank 0."""
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, optimizer_state="bf16")
    with _fake_ranks(ParallelConfig.model_validate(axes), 0) as ranks:
        state = TrainState(replace(TINY, tied_head=tied_head), train, CPU, torch.float32, ranks)
        for rooms, copied in zip(state.state_shapes(), (state.weights(), state.moments()), strict=True):
            found = {name: (value.shape, value.dtype, value.device) for name, value in rooms}
            assert found == {name: (value.shape, value.dtype, value.device) for name, value in copied}
            assert all(value.untyped_storage().nbytes() <= 4 for _, value in rooms), "no memory of the device"


def test_what_gathering_once_would_take_is_said():
    """16 bits of each weight and fp32 of its gradient, all but this rank's half of it."""
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, precision="bf16")
    config = replace(
        TINY, dim=2048, n_layers=1, n_heads=32, n_kv_heads=4, head_dim=64, ffn_dim=5632
    )  # a layer of tinyllama-1.1b
    for layout, expected in (({"shard": 2}, "gather=step, faster, 0.18 GB more"), ({"shard": 2, "gather": "step"}, "")):
        with _fake_ranks(ParallelConfig.model_validate(layout), 0) as ranks:
            said = TrainState(config, train, CPU, torch.float32, ranks).describe(train)
        assert expected in said
        assert ("gather=step" in said) == bool(expected)


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_a_rank_holds_the_whole_or_its_part(dtype: torch.dtype | None):
    """In fp32 unless said otherwise."""
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, precision="fp32")
    alone = TrainState(TINY, train, CPU) if dtype is None else TrainState(TINY, train, CPU, dtype)
    with _fake_ranks(ParallelConfig(tensor=2), 1) as ranks:
        half = TrainState(TINY, train, CPU, dtype or torch.float32, ranks)
    sizes = [sum(parameter.master.numel() for parameter in state.network.packed) for state in (alone, half)]
    assert sizes[0] / 2 < sizes[1] < sizes[0], "all but the norms are shared out"
    for state in (alone, half):
        assert {parameter.master.dtype for parameter in state.network.packed} == {dtype or torch.float32}


@pytest.mark.parametrize(
    ("layout", "changes", "expected"),
    [
        ({"pipeline": 2}, {}, "2 ranks (pipeline 2), stages of 1 + 1 layers"),
        ({"tensor": 2}, {"recompute": "full"}, "2 ranks (tensor 2), recompute full"),
        ({"shard": 2, "gather": "step"}, {}, "2 ranks (shard 2 by step)"),
        ({"shard": 2, "pipeline": 2}, {}, "4 ranks (shard 2 x pipeline 2), stages of 1 + 1 layers"),
    ],
)
def test_the_layout_is_said(layout: dict, changes: dict, expected: str):
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, precision="fp32", **changes)
    with _fake_ranks(ParallelConfig.model_validate(layout), 0) as ranks:
        said = TrainState(TINY, train, CPU, torch.float32, ranks).describe(train)
    assert said.startswith("precision fp32, not compiled, PyTorch attention, PyTorch loss and optimizer, ")
    assert said.endswith(expected)


@pytest.mark.parametrize(
    ("layout", "counting"),
    [({"tensor": 2}, [0]), ({"pipeline": 2}, [1]), ({"shard": 2}, [0, 1]), ({"tensor": 2, "pipeline": 2}, [2])],
    ids=str,
)
def test_one_rank_counts_each_micro_batch(layout: dict, counting: list[int]):
    """The others give zeros beside it, and all give their requests."""
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, precision="fp32")
    sums = LossSums(*(torch.tensor(value) for value in (4.0, 9.0, 2, 3)))
    found = []
    for rank in range(ParallelConfig.model_validate(layout).world_size):
        with _fake_ranks(ParallelConfig.model_validate(layout), rank) as ranks:
            ranks.requests = lambda rank=rank: [0.0, float(rank)]
            step = TrainState(TINY, train, CPU, torch.float32, ranks).passes
            row = step._totals(sums).tolist()
            assert row[3:] == [0.0, float(rank)]
            assert step._totals(None).tolist()[:3] == [0.0, 0.0, 0.0]
            found += [rank] if row[:3] == [4.0, 2.0, 3.0] else []
            assert row[:3] in ([4.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert found == counting


def test_totals_are_loss_correct_count_and_requests_in_this_order():
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, precision="fp32")
    passes = TrainState(TINY, train, CPU).passes
    sums = LossSums(torch.tensor(7.5), torch.tensor(99.0), torch.tensor(3), torch.tensor(32))
    assert passes._totals(sums).tolist() == [7.5, 3.0, 32.0]
    passes._ranks.requests = lambda: [0.0, 1.0, 0.0]
    assert passes._totals(sums).tolist() == [7.5, 3.0, 32.0, 0.0, 1.0, 0.0]
    passes._ranks.requests = lambda: [0.0, 0.0]
    assert passes._totals(sums).tolist() == [7.5, 3.0, 32.0, 0.0, 0.0]
