import pytest

from tinyllama.devices import KINDS
from tinyllama.model.llama_config import PRESETS
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.communication import (
    COLLECTIVE_SECONDS,
    LOCAL_COPY_BYTES_PER_SECOND,
    all_reduce_seconds,
    pipeline_seconds,
    replicate_seconds,
    ring_seconds,
    shard_seconds,
    tensor_seconds,
)
from tinyllama.planning.stage_sizes import stages
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, H100 = PRESETS["tinyllama-1.1b"], KINDS["H100"]  # 360 GB/s in a node
TRAIN = TrainConfig(micro_batch_size=4)  # bf16, 4 x 2048 tokens
TABLE, MATRICES = 65_536_000, 44_040_192
START, OWN = COLLECTIVE_SECONDS, LOCAL_COPY_BYTES_PER_SECOND


def only_stage(parallel: ParallelConfig):
    (stage,) = stages(TINYLLAMA, parallel)
    return stage


def test_rings_by_hand():
    assert ring_seconds(8e9, 4, 100e9) == pytest.approx(0.06 + 2e9 / OWN + START)
    assert ring_seconds(8e9, 1, 100e9) == all_reduce_seconds(8e9, 1, 100e9) == 0
    assert all_reduce_seconds(8e9, 4, 100e9) == pytest.approx(0.12 + START)


# Two H200, NCCL of torch 2.11 without multicast, bf16: microseconds of a gather, a scatter and an all-reduce of so much.
@pytest.mark.parametrize(
    ("mebibytes", "gather", "scatter", "all_reduce"),
    [(1, 41, 40, 47), (64, 160, 184, 253), (128, 297, 313, 476), (512, 1058, 1099, 1709), (2048, 3844, 3901, 6315)],
)
def test_the_collectives_measured_between_two_h200(mebibytes: int, gather: int, scatter: int, all_reduce: int):
    n_bytes, link = mebibytes * 2**20, KINDS["H200"].link_bandwidth
    ring, whole = (seconds(n_bytes, 2, link) * 1e6 for seconds in (ring_seconds, all_reduce_seconds))
    assert ring == pytest.approx((gather + scatter) / 2, rel=0.1)
    assert whole == pytest.approx(all_reduce, rel=0.15)


def test_replicated_gradients_by_hand():
    parallel = ParallelConfig(replicate=8)
    all_gradients, last = replicate_seconds(only_stage(parallel), parallel, H100)
    assert all_gradients == pytest.approx(2 * 4 * 1_100_048_384 * 7 / 8 / 360e9 + START)
    assert last == pytest.approx(2 * 4 * TABLE * 7 / 8 / 360e9 + START)
    across = ParallelConfig(replicate=16)  # 8 adapters of 50 GB/s are as fast as the links
    assert replicate_seconds(only_stage(across), across, H100)[0] == pytest.approx(
        2 * 4 * 1_100_048_384 * 15 / 16 / 360e9 + START
    )


def test_replicas_of_shards_sum_a_shard_each():
    parallel = ParallelConfig(replicate=2, shard=8)
    assert replicate_seconds(only_stage(parallel), parallel, H100)[0] == pytest.approx(
        2 * 4 * 1_100_048_384 / 8 / 2 / 50e9 + START
    )


def by_hand(value_bytes: int, parameters: int, ranks: int = 8) -> float:
    """One gather or scatter inside a node."""
    own = value_bytes * parameters / ranks
    return own * (ranks - 1) / 360e9 + own / OWN + START


def test_sharded_weights_by_hand():
    parallel = ParallelConfig(shard=8)
    gathers, sums, tables = shard_seconds(only_stage(parallel), parallel, H100, "bf16")
    assert gathers == pytest.approx(22 * 2 * by_hand(2, MATRICES))  # before a layer's forward and its backward pass
    assert sums == pytest.approx(22 * by_hand(4, MATRICES))
    assert tables == pytest.approx(2 * by_hand(4, 2 * TABLE))  # embedding and head, gathered and scattered in fp32
    by_step = ParallelConfig(shard=8, gather="step")
    once = shard_seconds(only_stage(by_step), by_step, H100, "bf16")
    assert once == pytest.approx((gathers / 2, sums, tables))
    assert once.layers == pytest.approx(gathers / 2 + sums)


def test_sharded_stages_gather_once_a_step():
    parallel = ParallelConfig(shard=4, pipeline=2)
    first, _ = stages(TINYLLAMA, parallel)
    gathers, sums, tables = shard_seconds(first, parallel, H100, "bf16")
    assert gathers == pytest.approx(11 * by_hand(2, MATRICES, 4))
    assert sums == pytest.approx(11 * by_hand(4, MATRICES, 4))
    assert tables == pytest.approx(2 * by_hand(4, TABLE, 4))


@pytest.mark.parametrize(("recompute", "collectives"), [("none", 8), ("selective", 9), ("full", 12)])
def test_slices_by_hand(recompute: str, collectives: int):
    parallel = ParallelConfig(tensor=4)
    train = TRAIN.model_copy(update={"recompute": recompute})
    own = 2 * 8192 * 2048 / 4
    stream = own * 3 / 360e9 + own / OWN + START
    loss = 2 * 3 * 4 * 8192 * 3 / 4 / 360e9 + START
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
    assert shard_seconds(only_stage(alone), alone, H100, "bf16") == (0, 0, 0)
    assert tensor_seconds(only_stage(alone), alone, H100, TRAIN) == 0
    assert pipeline_seconds(TINYLLAMA, alone, H100, TRAIN) == 0
