import pytest

from tinyllama.gpu_kinds import KINDS
from tinyllama.model.llama_config import PRESETS
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.plan.communication import (
    COLLECTIVE_SECONDS,
    pipeline_seconds,
    replicate_seconds,
    ring_seconds,
    shard_seconds,
    tensor_seconds,
)
from tinyllama.plan.stage_sizes import stages
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, H100 = PRESETS["tinyllama-1.1b"], KINDS["H100"]  # 360 GB/s in a node
TRAIN = TrainConfig(micro_batch_size=4)  # bf16, 4 x 2048 tokens
TABLE, MATRICES = 65_536_000, 44_040_192
START = COLLECTIVE_SECONDS


def only_stage(parallel: ParallelConfig):
    (stage,) = stages(TINYLLAMA, parallel)
    return stage


def test_rings_by_hand():
    assert ring_seconds(8e9, 4, 100e9) == pytest.approx(0.06 + START)
    assert ring_seconds(8e9, 1, 100e9) == 0


def test_replicated_gradients_by_hand():
    parallel = ParallelConfig(replicate=8)
    all_gradients, last = replicate_seconds(only_stage(parallel), parallel, H100)
    assert all_gradients == pytest.approx(2 * (4 * 1_100_048_384 * 7 / 8 / 360e9 + START))
    assert last == pytest.approx(2 * (4 * TABLE * 7 / 8 / 360e9 + START))
    across = ParallelConfig(replicate=16)  # 8 adapters of 50 GB/s are as fast as the links
    assert replicate_seconds(only_stage(across), across, H100)[0] == pytest.approx(
        2 * (4 * 1_100_048_384 * 15 / 16 / 360e9 + START)
    )


def test_replicas_of_shards_sum_a_shard_each():
    parallel = ParallelConfig(replicate=2, shard=8)
    assert replicate_seconds(only_stage(parallel), parallel, H100)[0] == pytest.approx(
        2 * (4 * 1_100_048_384 / 8 / 2 / 50e9 + START)
    )


def by_hand(value_bytes: int, parameters: int, ranks: int = 8) -> float:
    """One gather or scatter inside a node."""
    return value_bytes * parameters * (ranks - 1) / ranks / 360e9 + START


def test_sharded_weights_by_hand():
    parallel = ParallelConfig(shard=8)
    layers, tables = shard_seconds(only_stage(parallel), parallel, H100, "bf16")
    assert layers == pytest.approx(22 * (2 * by_hand(2, MATRICES) + by_hand(4, MATRICES)))
    assert tables == pytest.approx(2 * by_hand(4, 2 * TABLE))  # embedding and head, gathered and scattered in fp32


def test_sharded_stages_gather_once_a_step():
    parallel = ParallelConfig(shard=4, pipeline=2)
    first, _ = stages(TINYLLAMA, parallel)
    layers, tables = shard_seconds(first, parallel, H100, "bf16")
    assert layers == pytest.approx(12 * (by_hand(2, MATRICES, 4) + by_hand(4, MATRICES, 4)))
    assert tables == pytest.approx(2 * by_hand(4, TABLE, 4))


@pytest.mark.parametrize(("recompute", "collectives"), [("none", 8), ("selective", 9), ("full", 12)])
def test_slices_by_hand(recompute: str, collectives: int):
    parallel = ParallelConfig(tensor=4)
    train = TRAIN.model_copy(update={"recompute": recompute})
    stream = 2 * 8192 * 2048 * 3 / 4 / 360e9 + START
    loss = 2 * (3 * 4 * 8192 * 3 / 4 / 360e9 + START)
    seconds = tensor_seconds(only_stage(parallel), parallel, H100, train)
    assert seconds == pytest.approx((22 * collectives + 4) * stream + loss)


def test_stages_by_hand():
    parallel = ParallelConfig(pipeline=2)
    assert pipeline_seconds(TINYLLAMA, parallel, H100, TRAIN) == pytest.approx(2 * (2 * 8192 * 2048 / 360e9 + START))
    sliced = ParallelConfig(pipeline=2, tensor=4)
    assert pipeline_seconds(TINYLLAMA, sliced, H100, TRAIN) == pytest.approx(2 * (2 * 2048 * 2048 / 360e9 + START))


def test_one_device_sends_nothing():
    alone = ParallelConfig()
    assert replicate_seconds(only_stage(alone), alone, H100) == (0, 0)
    assert shard_seconds(only_stage(alone), alone, H100, "bf16") == (0, 0)
    assert tensor_seconds(only_stage(alone), alone, H100, TRAIN) == 0
    assert pipeline_seconds(TINYLLAMA, alone, H100, TRAIN) == 0
