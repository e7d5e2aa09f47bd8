"""What a part of the network says of the whole one."""

from dataclasses import replace

import pytest
import torch

from tests.instruments.dry_run import _fake_ranks
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.loss import LossSums
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.cut_state import CutState
from tinyllama.train.rank_state import state_of
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
        state = CutState(replace(TINY, tied_head=tied_head), train, CPU, torch.float32, ranks)
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
            said = CutState(config, train, CPU, torch.float32, ranks).describe(train)
        assert expected in said
        assert ("gather=step" in said) == bool(expected)


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_a_rank_holds_the_whole_or_its_part(dtype: torch.dtype | None):
    """In fp32 unless said otherwise; a layout of copies alone has no mesh."""
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, precision="fp32")
    given = () if dtype is None else (dtype,)
    alone = state_of(TINY, train, CPU, Ranks(), *given)
    assert type(alone) is TrainState
    with _fake_ranks(ParallelConfig(tensor=2), 1) as ranks:
        part = state_of(TINY, train, CPU, ranks, *given)
    assert type(part) is CutState
    for state in (alone, part):
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
        said = CutState(TINY, train, CPU, torch.float32, ranks).describe(train)
    assert said.startswith("fp32 products, layers as they are, attention by PyTorch, ")
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
            step = CutState(TINY, train, CPU, torch.float32, ranks).cut_step
            row = step._figures(sums).tolist()
            assert row[3:] == [0.0, float(rank)]
            assert step._figures(None).tolist()[:3] == [0.0, 0.0, 0.0]
            found += [rank] if row[:3] == [4.0, 2.0, 3.0] else []
            assert row[:3] in ([4.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert found == counting
