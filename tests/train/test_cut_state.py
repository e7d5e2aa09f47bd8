"""What a part of the network says of the whole one."""

from dataclasses import replace

import pytest
import torch

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.train.cut_state import CutState
from tinyllama.train.dry_run import _fake_ranks
from tinyllama.train.train_config import TrainConfig

CPU = torch.device("cpu")
TINY = LlamaConfig(vocab_size=64, seq_len=16, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48)


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("axes", [{"shard": 2}, {"tensor": 2, "pipeline": 2}], ids=str)
def test_room_is_made_for_what_a_save_copies(axes: dict[str, int], tied_head: bool):
    """Alone, before the first save: the same names, shapes and formats as all ranks together give rank 0."""
    train = TrainConfig(seq_len=16, micro_batch_size=1, tokens_per_step=64, optimizer_state="bf16")
    with _fake_ranks(ParallelConfig.model_validate(axes), 0) as ranks:
        state = CutState(replace(TINY, tied_head=tied_head), train, CPU, torch.float32, ranks)
        for rooms, copied in zip(state.rooms(), (state.weights(), state.moments()), strict=True):
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
