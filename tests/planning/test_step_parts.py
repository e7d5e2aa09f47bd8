"""Parts of a step's time that the whole step's tests do not set apart, by hand."""

from dataclasses import replace
from typing import Any

import pytest

from tinyllama.devices import KINDS, GpuKind
from tinyllama.model.llama_config import PRESETS, LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.activations import Activations
from tinyllama.planning.communication import pipeline_seconds, replicate_seconds, shard_seconds, tensor_seconds
from tinyllama.planning.stage_sizes import Stage, stages
from tinyllama.planning.step_time import (
    MicroBatchTime,
    StepTime,
    _added_seconds,
    _exposed_seconds,
    fp8_cast_bytes_per_token,
    matmul_seconds_per_token,
    micro_batch_times,
    step_time,
    traffic_bytes_per_token,
    weight_bytes_per_micro_batch,
)
from tinyllama.train.train_config import TrainConfig

# One layer's products 7,680; a table 16,000; a projection 512. Attention has width 32, keys and values 16.
MODEL = LlamaConfig(
    vocab_size=1000, seq_len=64, dim=32, n_layers=5, n_heads=4, n_kv_heads=2, ffn_dim=48, embedding_dim=16
)
ROUND = GpuKind(
    name="round", memory_bytes=10**9, peak_flops={"bf16": 1e12, "fp16": 1e12, "fp32": 1e11, "fp8": 2e12},
    memory_bandwidth=1e9, link_bandwidth=1e8, network_bandwidth=1e7, matmul_efficiency=0.5, attention_efficiency=0.25,
    efficiency_source="",
)  # fmt: skip
LAYER, TABLE, PROJECTION = 7680, 16_000, 512
START, OWN = 40e-6, 1.2e12


def recipe(tokens: int = 64 * 8, **values: Any) -> TrainConfig:
    return TrainConfig.model_validate({"micro_batch_size": 1, "seq_len": 64, "tokens_per_step": tokens} | values)


def activations(train: TrainConfig, tensor: int = 1, *, on_gpu: bool = True) -> Activations:
    return Activations(MODEL, train, tensor, True, on_gpu)


def whole(tensor: int = 1) -> Stage:
    return Stage(MODEL, 5, True, True, tensor, 0)


# -- products ----------------------------------------------------------------------------------------------------------

OUTSIDE = 6 * (TABLE + 2 * PROJECTION)
ATTENTION = 6 * 5 * 32 * 64
ATTENTION_SHARE = 0.25 * 64 / (64 + 950) * (2048 + 950) / 2048


@pytest.mark.parametrize(
    ("precision", "recompute", "products", "attended"),
    [
        ("bf16", "none", (30 * LAYER + OUTSIDE) / 1e12 / 0.5, ATTENTION / 1e12),
        ("bf16", "selective", (30 * LAYER + 2 * 5 * 2 * 32 * 48 + OUTSIDE) / 1e12 / 0.5, ATTENTION / 1e12),
        ("bf16", "full", (40 * LAYER + OUTSIDE) / 1e12 / 0.5, ATTENTION * 4 / 3 / 1e12),
        ("fp16", "none", (30 * LAYER + OUTSIDE) / 1e12 / (0.5 * 0.95), ATTENTION / 1e12),
        ("fp8", "none", (30 * LAYER / 2e12 + OUTSIDE / 1e12) / 0.5, ATTENTION / 1e12),  # outside of layers bf16
    ],
)
def test_products_and_attention_of_one_token(precision: str, recompute: str, products: float, attended: float):
    found = matmul_seconds_per_token(whole(), ROUND, activations(recipe(precision=precision, recompute=recompute)))
    assert found == pytest.approx(products + attended / ATTENTION_SHARE, rel=1e-9)


def test_scores_that_are_written_are_products_of_the_whole_matrix():
    on_gpu, on_cpu = (activations(recipe(precision="fp32"), on_gpu=on_gpu) for on_gpu in (True, False))
    assert (on_gpu.writes_scores, on_cpu.writes_scores) == (True, False)
    products = (30 * LAYER + OUTSIDE) / 1e11 / 0.5
    assert matmul_seconds_per_token(whole(), ROUND, on_gpu) == pytest.approx(products + 2 * ATTENTION / 1e11 / 0.5)
    fused = products + ATTENTION / 1e11 / ATTENTION_SHARE
    assert matmul_seconds_per_token(whole(), ROUND, on_cpu) == pytest.approx(fused)


def test_stages_and_slices_have_their_share_of_products():
    plain = activations(recipe(), 2)
    first = Stage(MODEL, 2, True, False, 2, 0)  # without the head
    expected = 6 * (2 * LAYER / 2 + PROJECTION) / 1e12 / 0.5 + ATTENTION * 2 / 5 / 2 / 1e12 / ATTENTION_SHARE
    assert matmul_seconds_per_token(first, ROUND, plain) == pytest.approx(expected)


# -- memory traffic ----------------------------------------------------------------------------------------------------


def test_bytes_that_element_wise_kernels_move_for_a_token():
    # kept by a layer: stream and norm twice, queries and output, keys and values, log-sum-exp, 1 / rms, gate up product
    kept = 2 * 128 + 128 + 64 + 16 + 8 + 6 * 48
    ends = 4 * 32 + 4 * 16 + 2 * 1000  # the stream and its norm, the projection's; logits
    assert traffic_bytes_per_token(whole(), activations(recipe())) == 3 * (5 * kept + ends)
    assert traffic_bytes_per_token(Stage(MODEL, 2, True, False, 1, 0), activations(recipe())) == 3 * 2 * kept
    again = kept - 128  # full: what enters a layer is kept
    assert traffic_bytes_per_token(whole(), activations(recipe(recompute="full"))) == 3 * (5 * kept + ends) + 5 * again


def test_bytes_moved_to_make_fp8():
    # inputs: stream twice, attention's output, gate x up; gradients: q k v, gate and up, stream twice
    values = 2 * 32 + 32 + 48 + (32 + 32) + 2 * 48 + 2 * 32
    assert fp8_cast_bytes_per_token(MODEL) == 10 * 5 * values
    assert fp8_cast_bytes_per_token(MODEL, 2) == 10 * 5 * ((values - 128) // 2 + 128)
    short, plain = (
        traffic_bytes_per_token(Stage(MODEL, 2, True, False, 1, 0), activations(recipe(precision=p)))
        for p in ("fp8", "bf16")
    )
    kept_less = 2 * 32 + 2 * 48  # both norms in one byte, the product of gate and up not at all
    assert short - plain == 2 * (10 * values - 3 * kept_less)


@pytest.mark.parametrize(
    ("precision", "sizes", "expected"),
    [
        ("bf16", {}, 12), ("fp32", {"shard": 2}, 24 + 4 + 14), ("bf16", {"shard": 4}, 12 + 4 + 6),
        ("bf16", {"shard": 2, "pipeline": 2}, 12), ("fp16", {"replicate": 4}, 12),
    ],
)  # fmt: skip
def test_bytes_of_weights_in_a_micro_batch(precision: str, sizes: dict[str, int], expected: int):
    assert weight_bytes_per_micro_batch(precision, ParallelConfig.model_validate(sizes)) == expected


# -- a micro-batch, an update ------------------------------------------------------------------------------------------


def test_a_micro_batch_in_seconds():
    train = recipe()
    ((stage, time),) = micro_batch_times(MODEL, ROUND, train, ParallelConfig())
    assert time.activation_traffic == pytest.approx(64 * traffic_bytes_per_token(stage, activations(train)) / 8e8)
    assert time.weight_traffic == pytest.approx(stage.parameters * 12 / 8e8)
    assert time.compute == time.matmul + time.activation_traffic + time.weight_traffic + time.gaps == time.total
    update = step_time(MODEL, ROUND, train)
    assert update.optimizer == pytest.approx(stage.parameters * 34 / 8e8)
    assert step_time(MODEL, ROUND, recipe(precision="fp32")).optimizer == pytest.approx(stage.parameters * 32 / 8e8)
    assert update.matmul == pytest.approx(8 * time.matmul)


@pytest.mark.parametrize(("recompute", "share"), [("none", 1.0), ("selective", 1.1), ("full", 4 / 3)])
def test_the_device_waits_for_the_host_that_starts_its_kernels(recompute: str, share: float):
    """5 layers at 2.8 ms, an eighth of an update's 11 ms; less what the device is busy, and its share of the update."""
    fast = replace(ROUND, memory_bandwidth=1e12)
    train = recipe(recompute=recompute)
    ((stage, time),) = micro_batch_times(MODEL, fast, train, ParallelConfig())
    busy = time.matmul + time.activation_traffic + time.weight_traffic + stage.parameters * 34 / 8e11 / 8
    assert time.gaps == pytest.approx(5 * 2.8e-3 * share + 11e-3 / 8 - busy)
    slow = replace(ROUND, memory_bandwidth=1e6)
    ((_, time),) = micro_batch_times(MODEL, slow, train, ParallelConfig())
    assert time.gaps == pytest.approx(5 * 120e-6)


def test_layers_that_are_not_compiled_move_more():
    def traffic(gpu: GpuKind, how: str) -> float:
        return micro_batch_times(MODEL, gpu, recipe(compile=how), ParallelConfig())[0][1].activation_traffic

    cpu = replace(ROUND, name="CPU")
    assert traffic(ROUND, "auto") == traffic(ROUND, "on") < traffic(ROUND, "off")
    assert traffic(cpu, "auto") == traffic(cpu, "off") > traffic(cpu, "on")


def test_the_step_of_two_stages():
    train = recipe()
    every = micro_batch_times(MODEL, ROUND, train, ParallelConfig(pipeline=2))
    slow, other = sorted((time for _, time in every), key=lambda time: -time.total)
    found = step_time(MODEL, ROUND, train, ParallelConfig(pipeline=2))
    assert slow.total > other.total
    assert found.matmul == pytest.approx(8 * slow.matmul)
    assert found.bubble == pytest.approx(other.total)
    # the stage that holds most makes the update
    held = max(stage.parameters for stage, _ in every)
    assert found.optimizer == pytest.approx(held * 34 / 8e8)
    # what is computed again makes layers dearer beside the head, and so moves one of them
    model = replace(PRESETS["tinyllama-1.1b"], n_layers=9, vocab_size=60_000)
    for how in ("none", "full"):
        times = micro_batch_times(model, KINDS["H100"], recipe(recompute=how), ParallelConfig(pipeline=2))
        assert [stage.n_layers for stage, _ in times] == ([5, 4] if how == "full" else [6, 3])


# -- transfers ---------------------------------------------------------------------------------------------------------


def time_of(compute: float) -> MicroBatchTime:
    """All of it products; messages are no computation."""
    return MicroBatchTime(compute, 0, 0, 0, 100.0, 100.0)


def test_what_a_computation_hides_and_what_it_loses():
    assert _added_seconds(5.0, 10.0) == pytest.approx(0.6 * 5)
    assert _added_seconds(15.0, 10.0) == pytest.approx(5 + 0.6 * 10)
    assert _added_seconds(5.0, 10.0, 2.0) == pytest.approx(2 + 0.6 * 3)
    assert _added_seconds(15.0, 10.0, 2.0) == pytest.approx(5 + 0.6 * 10)


@pytest.mark.parametrize("compute", [1e-9, 1e-3, 10.0])
@pytest.mark.parametrize(
    "sizes",
    [
        {"replicate": 2}, {"shard": 2}, {"shard": 2, "gather": "step"}, {"replicate": 2, "shard": 2},
        {"replicate": 2, "shard": 2, "gather": "step"}, {"shard": 2, "pipeline": 2},
        {"replicate": 2, "shard": 2, "pipeline": 2},
    ],
    ids=str,
)  # fmt: skip
def test_exposed_transfers_of_a_step(sizes: dict[str, Any], compute: float):
    """A third of the computation is the forward pass; each rank has four micro-batches."""
    parallel = ParallelConfig.model_validate(sizes)
    train = recipe(4 * parallel.data_ranks * 64)
    stage = next(iter(stages(MODEL, parallel)))
    copies = replicate_seconds(stage, parallel, ROUND)
    shards = shard_seconds(stage, parallel, ROUND, "bf16")
    tables = copies.total * stage.tables / stage.parameters
    rest = copies.total - tables
    forward, backward = compute / 3, compute * 2 / 3
    if parallel.shard == 1:
        expected = _added_seconds(copies.total, backward, copies.exposed)
    elif parallel.pipeline > 1:
        expected = shards.gathers + shards.reductions + shards.tables + copies.total
    elif parallel.gather == "step":
        expected = (
            shards.tables
            + tables
            + _added_seconds(shards.gathers, forward)
            + _added_seconds(shards.reductions + rest, backward)
        )
    else:
        layers = shards.gathers + shards.reductions
        expected = shards.tables + tables + 3 * _added_seconds(layers, compute) + _added_seconds(layers + rest, compute)
    assert _exposed_seconds(stage, time_of(compute), ROUND, train, parallel) == pytest.approx(expected)


def ring(n_bytes: float, ranks: int) -> float:
    return n_bytes * (ranks - 1) / ranks / 1e8 + n_bytes / ranks / OWN + START


def test_transfers_of_narrow_embeddings_by_hand():
    parallel = ParallelConfig(shard=4)
    found = shard_seconds(whole(), parallel, ROUND, "bf16")
    assert found.gathers == pytest.approx(2 * (5 * ring(2 * LAYER, 4) + ring(2 * 2 * PROJECTION, 4)))
    assert found.reductions == pytest.approx(5 * ring(4 * LAYER, 4) + ring(4 * 2 * PROJECTION, 4))
    assert found.tables == pytest.approx(2 * ring(4 * 2 * TABLE, 4))
    inner = Stage(MODEL, 3, False, False, 1, 1)  # has neither table nor projection: no transfer begins for them
    assert shard_seconds(inner, parallel, ROUND, "fp32").gathers == pytest.approx(2 * 3 * ring(4 * LAYER, 4))
    assert shard_seconds(inner, parallel, ROUND, "bf16").tables == 0


def test_the_last_gradients_of_a_stage_are_hidden_by_nothing():
    parallel = ParallelConfig(replicate=4)
    for stage, last in ((whole(), TABLE), (Stage(MODEL, 3, False, True, 1, 1), LAYER)):
        assert replicate_seconds(stage, parallel, ROUND).exposed == pytest.approx(2 * 4 * last * 3 / 4 / 1e8 + START)


def test_slices_of_narrow_embeddings_by_hand():
    parallel, train = ParallelConfig(tensor=2), recipe(micro_batch_size=2)
    stream, embedded, loss = ring(2 * 128 * 32, 2), ring(2 * 128 * 16, 2), 3 * 4 * 128 / 1e8 + START
    assert tensor_seconds(whole(2), parallel, ROUND, train) == pytest.approx(5 * 8 * stream + 4 * embedded + loss)
    first, last = Stage(MODEL, 2, True, False, 2, 0), Stage(MODEL, 3, False, True, 2, 1)
    assert tensor_seconds(first, parallel, ROUND, train) == pytest.approx(2 * 8 * stream + 2 * embedded)
    assert tensor_seconds(last, parallel, ROUND, train) == pytest.approx(3 * 8 * stream + 2 * embedded + loss)


def test_a_stream_in_fp32_takes_twice_as_long_between_stages():
    for precision, value_bytes in (("bf16", 2), ("fp16", 4)):
        seconds = pipeline_seconds(MODEL, ParallelConfig(pipeline=2), ROUND, recipe(precision=precision))
        assert seconds == pytest.approx(2 * (value_bytes * 64 * 32 / 1e8 + START))


def test_the_parts_of_a_step_add_up():
    parts = StepTime(1, 2, 4, 8, 16, 32, bubble=64, data_communication=128, optimizer=256)
    assert (parts.compute, parts.total) == (15, 511)
