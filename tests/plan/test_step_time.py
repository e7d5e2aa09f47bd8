from typing import Any

import pytest

from tinyllama.errors import RecipeError
from tinyllama.gpu_kinds import KINDS
from tinyllama.model.llama_config import PRESETS, LlamaConfig, preset
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.plan.communication import replicate_seconds, shard_seconds
from tinyllama.plan.stage_sizes import stages
from tinyllama.plan.step_time import step_time, weight_bytes_per_micro_batch
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, TINY = PRESETS["tinyllama-1.1b"], PRESETS["tiny-2m"]


def time_of(model: LlamaConfig, kind: str, sizes: dict[str, int] | None = None, **changes: Any):
    values: dict[str, Any] = {"micro_batch_size": 8, **changes}
    train = TrainConfig(**values)
    return step_time(model, KINDS[kind], train, ParallelConfig(**(sizes or {})))


def test_parts_by_hand():
    time = time_of(TINYLLAMA, "A100-40G")
    products = 6 * (22 * 44_040_192 + 65_536_000)
    attention = 6 * 22 * 2048 * 2048
    assert time.matmul == pytest.approx(2_097_152 * (products / (312e12 * 0.74) + attention / (312e12 * 0.25)))
    kept = 22 * 59_528 + 33_792 + 8192
    assert time.activation_traffic == pytest.approx(2_097_152 * 3 * (kept + 2 * 32_000) / (1555e9 * 0.8))
    assert time.weight_traffic == pytest.approx(128 * 12 * 1_100_048_384 / (1555e9 * 0.8))
    assert time.optimizer == pytest.approx(1_100_048_384 * 34 / (1555e9 * 0.8))
    assert time.tensor_communication == time.pipeline_communication == time.data_communication == 0
    assert time.bubble == time.launches == 0
    assert time.total == pytest.approx(time.matmul + time.activation_traffic + time.weight_traffic + time.optimizer)


# This network, layers compiled, micro-batches of 16 sequences, torch 2.11, one H100 80GB HBM3.
@pytest.mark.parametrize(
    ("tokens_per_step", "precision", "measured"),
    [(32_768, "bf16", 77_949), (2_097_152, "bf16", 80_178), (32_768, "fp8", 90_765)],
)
def test_the_speeds_measured_on_an_h100(tokens_per_step: int, precision: str, measured: int):
    time = time_of(TINYLLAMA, "H100", tokens_per_step=tokens_per_step, micro_batch_size=16, precision=precision)
    assert tokens_per_step / time.total == pytest.approx(measured, rel=0.03)


def test_what_is_computed_again_takes_time():
    def matmul(recompute: str) -> float:
        return time_of(TINYLLAMA, "H100", recompute=recompute).matmul

    in_layers, gate_up = 22 * 44_040_192, 22 * 2 * 2048 * 5632
    again = 2_097_152 * 2 * gate_up / (989e12 * 0.74)
    assert matmul("selective") - matmul("none") == pytest.approx(again)
    attention = 2 * 22 * 2048 * 2048
    again = 2_097_152 * (2 * in_layers / (989e12 * 0.74) + attention / (989e12 * 0.25))
    assert matmul("full") - matmul("none") == pytest.approx(again)


def test_fp8_is_refused_where_the_chip_has_none():
    with pytest.raises(RecipeError, match="'fp8', but A100-40G has no such products; 'bf16' would work"):
        time_of(TINYLLAMA, "A100-40G", precision="fp8")


def test_weight_traffic_by_hand():
    replicated, sharded = ParallelConfig(replicate=2), ParallelConfig(shard=2)
    assert weight_bytes_per_micro_batch("bf16", replicated) == 2 + 2 + 8
    assert weight_bytes_per_micro_batch("fp32", replicated) == 4 + 4 + 8
    assert weight_bytes_per_micro_batch("bf16", sharded) == 4 + 4 + 8


# -- several devices ---------------------------------------------------------------------------------------------------


def test_data_ranks_divide_the_computation():
    whole, portion = time_of(TINYLLAMA, "H100"), time_of(TINYLLAMA, "H100", {"replicate": 4, "shard": 2})
    assert portion.matmul == pytest.approx(whole.matmul / 8)
    assert portion.activation_traffic == pytest.approx(whole.activation_traffic / 8)


def test_slices_divide_the_products():
    whole, sliced = time_of(TINYLLAMA, "H100"), time_of(TINYLLAMA, "H100", {"tensor": 4})
    assert sliced.matmul == pytest.approx(whole.matmul / 4)
    assert sliced.tensor_communication > 0


def test_the_bubble_of_equal_stages_by_hand():
    """(p - 1) / (m + p - 1) of the pipelined time; a head of no weight makes the stages equal."""
    model = preset("tinyllama-1.1b", vocab_size=4, n_layers=32)
    for stages_count, micro_batches in ((2, 8), (4, 16), (4, 4)):
        tokens = micro_batches * 8 * 2048
        time = time_of(model, "H100", {"pipeline": stages_count}, tokens_per_step=tokens)
        pipelined = time.total - time.optimizer - time.data_communication
        expected = (stages_count - 1) / (micro_batches + stages_count - 1)
        assert time.bubble / pipelined == pytest.approx(expected, rel=0.01)


def test_unequal_stages_wait_for_the_one_with_the_head():
    time = time_of(TINYLLAMA, "H100", {"pipeline": 2}, tokens_per_step=8 * 8 * 2048)
    in_layers, head = 6 * 11 * 44_040_192, 6 * 65_536_000
    attention = 6 * 11 * 2048 * 2048 / (989e12 * 0.25)
    assert time.matmul == pytest.approx(8 * 8 * 2048 * ((in_layers + head) / (989e12 * 0.74) + attention))
    first = 8 * 2048 * (in_layers / (989e12 * 0.74) + attention)
    assert time.bubble > first  # the other stage's passes of one micro-batch, its traffic and messages too
    assert time.bubble < (time.total - time.optimizer) / 8


def test_what_the_computation_hides():
    """Replicated: all but the embedding's sum behind the last backward pass; with a micro-batch too small, the rest."""
    parallel = ParallelConfig(replicate=8)
    (stage,) = stages(TINYLLAMA, parallel)
    whole, last = replicate_seconds(stage, parallel, KINDS["H100"])
    hidden = time_of(TINYLLAMA, "H100", {"replicate": 8}, micro_batch_size=16)
    assert hidden.data_communication == pytest.approx(last)
    short = time_of(TINYLLAMA, "H100", {"replicate": 8}, micro_batch_size=1, seq_len=128, tokens_per_step=1024)
    compute = short.matmul + short.activation_traffic + short.weight_traffic + short.launches
    assert short.data_communication == pytest.approx(whole - compute * 2 / 3)


def test_small_micro_batches_do_not_hide_sharded_weights():
    parallel = ParallelConfig(shard=16)
    (stage,) = stages(TINYLLAMA, parallel)
    whole, alone = shard_seconds(stage, parallel, KINDS["A100-40G"], "bf16")
    slow = time_of(TINYLLAMA, "A100-40G", {"shard": 16}, micro_batch_size=1, seq_len=128, tokens_per_step=2048)
    compute = slow.matmul + slow.activation_traffic + slow.weight_traffic + slow.launches
    assert slow.data_communication == pytest.approx(whole - compute)
    fast = time_of(TINYLLAMA, "A100-40G", {"shard": 16}, micro_batch_size=8)
    assert fast.data_communication == pytest.approx(8 * alone)


def test_a_tiny_network_waits_for_launches_on_a_gpu_and_not_on_a_cpu():
    shapes = {"tokens_per_step": 16_384, "micro_batch_size": 1, "seq_len": 256, "precision": "fp32"}
    gpu = time_of(TINY, "B200", **shapes)
    assert gpu.launches > 0
    assert gpu.matmul + gpu.activation_traffic + gpu.weight_traffic + gpu.launches == pytest.approx(64 * 4 * 60 * 5e-6)
    assert time_of(TINY, "CPU", **shapes).launches == 0
