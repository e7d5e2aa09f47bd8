"""The plan's memory beside a dry run of the training code: one step of one rank of 16, storage by storage."""

import pytest

from tinyllama.model.llama_config import PRESETS
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.memory import WORKSPACE_BYTES, allocated_bytes, memory_parts
from tinyllama.train.train_config import TrainConfig

# replicate, shard, tensor, pipeline
SIXTEEN = [
    (16, 1, 1, 1), (8, 2, 1, 1), (1, 16, 1, 1), (8, 1, 2, 1), (4, 1, 4, 1), (8, 1, 1, 2), (4, 2, 2, 1), (2, 4, 2, 1),
    (1, 4, 4, 1), (4, 2, 1, 2), (4, 1, 2, 2), (2, 2, 2, 2), (1, 4, 2, 2),
]  # fmt: skip
UNEVEN = [(5, 1, 1, 3), (1, 4, 1, 4), (1, 2, 2, 4), (3, 1, 1, 5), (1, 1, 2, 8)]  # stages of 22 layers


def agrees(
    name: str, sizes: tuple[int, int, int, int], micro_batch_size: int, recompute: str, micro_batches: int = 4,
    precision: str = "bf16", gather: str = "layer",
) -> None:  # fmt: skip
    """`micro_batches`: of each data rank."""
    from tests.instruments.dry_run import dry_run

    replicate, shard, tensor, pipeline = sizes
    parallel = ParallelConfig.model_validate({
        "replicate": replicate, "shard": shard, "tensor": tensor, "pipeline": pipeline, "gather": gather,
    })  # fmt: skip
    model = PRESETS[name]
    tokens = micro_batches * parallel.data_ranks * micro_batch_size * model.seq_len
    train = TrainConfig.model_validate({
        "micro_batch_size": micro_batch_size, "seq_len": model.seq_len, "tokens_per_step": tokens, "recompute": recompute,
        "precision": precision,
    })  # fmt: skip
    of_a_stage = replicate * shard * tensor
    ranks = range(0, parallel.world_size, of_a_stage)
    counted = max((dry_run(model, train, parallel, rank) for rank in ranks), key=lambda parts: parts["peak"])
    planned = memory_parts(model, train, parallel)
    assert allocated_bytes(planned) - WORKSPACE_BYTES == pytest.approx(counted["peak"], rel=0.03)
    for part in ("weights", "compute_copy", "optimizer"):
        assert planned[part] == pytest.approx(counted[part], rel=0.001)


@pytest.mark.parametrize("sizes", [(16, 1, 1, 1), (8, 2, 1, 1), (4, 2, 2, 1), (2, 2, 2, 2), (2, 1, 1, 3)], ids=str)
def test_a_small_network_on_sixteen_devices(sizes: tuple[int, int, int, int]):
    agrees("small-120m", sizes, micro_batch_size=4, recompute="none")


@pytest.mark.parametrize("sizes", [(1, 16, 1, 1), (4, 2, 2, 1)], ids=str)
def test_a_small_network_gathered_once_a_step(sizes: tuple[int, int, int, int]):
    agrees("small-120m", sizes, micro_batch_size=4, recompute="none", gather="step")


@pytest.mark.full
@pytest.mark.parametrize("sizes", [(1, 16, 1, 1), (8, 2, 1, 1), (2, 4, 2, 1)], ids=str)
@pytest.mark.parametrize(
    ("micro_batch_size", "recompute", "micro_batches"), [(4, "none", 4), (8, "full", 2), (2, "selective", 1)]
)
def test_tinyllama_gathered_once_a_step(
    sizes: tuple[int, int, int, int], micro_batch_size: int, recompute: str, micro_batches: int
):
    agrees("tinyllama-1.1b", sizes, micro_batch_size, recompute, micro_batches, gather="step")


@pytest.mark.parametrize("sizes", [(16, 1, 1, 1), (4, 2, 2, 1)], ids=str)
def test_a_small_network_in_fp8(sizes: tuple[int, int, int, int]):
    agrees("small-120m", sizes, micro_batch_size=4, recompute="none", precision="fp8")


@pytest.mark.full
@pytest.mark.parametrize("recompute", ["none", "full", "selective"])
@pytest.mark.parametrize("sizes", [(16, 1, 1, 1), (1, 16, 1, 1), (4, 1, 4, 1), (2, 2, 2, 2)], ids=str)
def test_tinyllama_in_fp8(sizes: tuple[int, int, int, int], recompute: str):
    agrees("tinyllama-1.1b", sizes, micro_batch_size=4, recompute=recompute, precision="fp8")


@pytest.mark.full
@pytest.mark.parametrize("sizes", SIXTEEN, ids=str)
@pytest.mark.parametrize(("micro_batch_size", "recompute"), [(4, "none"), (8, "full"), (2, "selective")])
def test_tinyllama_on_sixteen_devices(sizes: tuple[int, int, int, int], micro_batch_size: int, recompute: str):
    agrees("tinyllama-1.1b", sizes, micro_batch_size, recompute)


@pytest.mark.full
@pytest.mark.parametrize("sizes", UNEVEN, ids=str)
@pytest.mark.parametrize(
    ("micro_batch_size", "recompute", "more"), [(4, "none", 0), (8, "full", 2), (2, "selective", 2)]
)
def test_tinyllama_in_unequal_stages(
    sizes: tuple[int, int, int, int], micro_batch_size: int, recompute: str, more: int
):
    """With as many micro-batches as stages the first ones hold most before there are sums of gradients."""
    agrees("tinyllama-1.1b", sizes, micro_batch_size, recompute, micro_batches=sizes[3] + more)
