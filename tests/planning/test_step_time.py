from typing import Any

import pytest

from tinyllama.devices import KINDS
from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import PRESETS, LlamaConfig, preset
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.communication import replicate_seconds, shard_seconds
from tinyllama.planning.stage_sizes import stages
from tinyllama.planning.step_time import OVERLAP_COST, attention_efficiency, step_time, weight_bytes_per_micro_batch
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, TINY = PRESETS["tinyllama-1.1b"], PRESETS["tiny-2m"]


def time_of(model: LlamaConfig, kind: str, sizes: dict[str, Any] | None = None, **changes: Any):
    values: dict[str, Any] = {"micro_batch_size": 8, **changes}
    train = TrainConfig(**values)
    return step_time(model, KINDS[kind], train, ParallelConfig(**(sizes or {})))


def test_parts_by_hand():
    time = time_of(TINYLLAMA, "A100-40G")
    products = 6 * (22 * 44_040_192 + 65_536_000)
    attention = 6 * 22 * 2048 * 2048
    assert time.matmul == pytest.approx(2_097_152 * (products / (312e12 * 0.74) + attention / (312e12 * 0.25)))
    assert time.activation_traffic == pytest.approx(2_097_152 * 3 * (22 * 59_528 + 8192 + 2 * 32_000) / (1555e9 * 0.8))
    assert time.weight_traffic == pytest.approx(128 * 12 * 1_100_048_384 / (1555e9 * 0.8))
    assert time.gaps == pytest.approx(128 * 22 * 120e-6)
    assert time.optimizer == pytest.approx(1_100_048_384 * 34 / (1555e9 * 0.8))
    assert time.tensor_communication == time.pipeline_communication == time.data_communication == time.bubble == 0
    assert time.total == pytest.approx(sum(vars(time).values()))


def test_attention_is_faster_on_longer_sequences():
    h100 = KINDS["H100"]
    assert attention_efficiency(h100, 2048) == pytest.approx(h100.attention_efficiency)
    # T / (T + 950), by hand
    assert attention_efficiency(h100, 8192) / attention_efficiency(h100, 1024) == pytest.approx(
        8192 / 9142 / (1024 / 1974)
    )


# This network, layers compiled, micro-batches of 16 sequences, torch 2.11, one H100 80GB HBM3.
@pytest.mark.parametrize(
    ("tokens_per_step", "precision", "measured"),
    [(32_768, "bf16", 77_949), (2_097_152, "bf16", 80_178), (32_768, "fp8", 90_765)],
)
def test_the_speeds_measured_on_an_h100(tokens_per_step: int, precision: str, measured: int):
    time = time_of(TINYLLAMA, "H100", tokens_per_step=tokens_per_step, micro_batch_size=16, precision=precision)
    assert tokens_per_step / time.total == pytest.approx(measured, rel=0.03)


def test_what_is_computed_again_takes_time():
    plain, selective, full = (time_of(TINYLLAMA, "H100", recompute=how) for how in ("none", "selective", "full"))
    in_layers, gate_up = 22 * 44_040_192, 22 * 2 * 2048 * 5632
    assert selective.matmul - plain.matmul == pytest.approx(2_097_152 * 2 * gate_up / (989e12 * 0.74))
    again = 2_097_152 * (2 * in_layers / (989e12 * 0.74) + 2 * 22 * 2048 * 2048 / (989e12 * 0.25))
    assert full.matmul - plain.matmul == pytest.approx(again)
    # one more pass over what is not kept
    passes = [time.activation_traffic - plain.activation_traffic for time in (selective, full)]
    assert passes == pytest.approx([2_097_152 * 22 * size / (3350e9 * 0.8) for size in (33_792, 51_336)])


def test_fp8_is_refused_where_the_chip_has_none():
    with pytest.raises(RecipeError, match=r"train.precision: A100-40G has no 'fp8' matmuls; 'bf16' would work"):
        time_of(TINYLLAMA, "A100-40G", precision="fp8")


def test_weight_traffic_by_hand():
    replicated, sharded, by_step = (
        ParallelConfig(replicate=2),
        ParallelConfig(shard=2),
        ParallelConfig(shard=2, gather="step"),
    )
    assert weight_bytes_per_micro_batch("bf16", replicated) == 2 + 2 + 8
    assert weight_bytes_per_micro_batch("fp32", replicated) == 4 + 4 + 8
    # copied out twice; gradient written and made fp32; a half of: added to the sum, and made short twice
    assert weight_bytes_per_micro_batch("bf16", sharded) == 2 * (2 + 2) + 2 + (2 + 4) + (12 + 2 * (4 + 2)) // 2
    assert weight_bytes_per_micro_batch("bf16", by_step) == 2 + 2 + 8


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


def test_unequal_stages_wait_for_the_slowest_by_hand():
    """11 layers and the head on the last of two stages, 11 on the other."""
    time = time_of(TINYLLAMA, "H100", {"pipeline": 2}, tokens_per_step=8 * 8 * 2048)
    layer, head = 6 * 44_040_192 / (989e12 * 0.74), 6 * 65_536_000 / (989e12 * 0.74)
    attention = 6 * 2048 * 2048 / (989e12 * 0.25)
    assert time.matmul == pytest.approx(8 * 8 * 2048 * (11 * (layer + attention) + head))
    first = 8 * 2048 * 11 * (layer + attention)
    assert time.bubble > first  # the other stage's passes of one micro-batch, its traffic and messages too
    assert time.bubble < (time.total - time.optimizer) / 8
    # where the head is worth more than all layers, its stage has one of them and is the slowest
    small = preset("small-120m", n_layers=4, vocab_size=128_000)
    (first, last) = stages(small, ParallelConfig(pipeline=2))
    assert (first.n_layers, last.n_layers) == (3, 1)
    slow = time_of(small, "H100", {"pipeline": 2}, tokens_per_step=8 * 8 * 1024, seq_len=1024)
    head = 6 * 128_000 * 768 / (989e12 * 0.74)
    assert slow.matmul > 8 * 8 * 1024 * head


def test_what_the_computation_hides():
    """Replicated: all but the embedding's sum behind the last backward pass; over a slow network, what is left of it.
    What is hidden takes 0.6 of its time from the computation."""
    parallel = ParallelConfig(replicate=8)
    (stage,) = stages(TINYLLAMA, parallel)
    hidden = time_of(TINYLLAMA, "H100", {"replicate": 8}, micro_batch_size=16)
    total, alone = replicate_seconds(stage, parallel, KINDS["H100"])
    assert hidden.data_communication == pytest.approx(alone + 0.6 * (total - alone))
    time = time_of(TINYLLAMA, "L40S", {"replicate": 8}, micro_batch_size=1, tokens_per_step=8 * 2048)
    compute = time.matmul + time.activation_traffic + time.weight_traffic + time.gaps
    whole = replicate_seconds(stage, parallel, KINDS["L40S"]).total
    assert time.data_communication == pytest.approx(whole - compute * 2 / 3 + 0.6 * compute * 2 / 3)


def test_small_micro_batches_do_not_hide_sharded_weights():
    parallel = ParallelConfig(shard=8)
    (stage,) = stages(TINYLLAMA, parallel)
    transfer = shard_seconds(stage, parallel, KINDS["L40S"], "bf16")
    slow = time_of(TINYLLAMA, "L40S", {"shard": 8}, micro_batch_size=1, tokens_per_step=8 * 2048)
    compute = slow.matmul + slow.activation_traffic + slow.weight_traffic + slow.gaps
    assert slow.data_communication == pytest.approx(transfer.layers - compute + 0.6 * compute + transfer.tables)
    fast = time_of(TINYLLAMA, "L40S", {"shard": 8}, micro_batch_size=16)  # 8 micro-batches
    assert fast.data_communication == pytest.approx(8 * 0.6 * transfer.layers + transfer.tables)


def test_shards_gathered_once_hide_their_transfers_once():
    parallel = ParallelConfig(shard=8, gather="step")
    (stage,) = stages(TINYLLAMA, parallel)
    transfer = shard_seconds(stage, parallel, KINDS["H100"], "bf16")
    time = time_of(TINYLLAMA, "H100", {"shard": 8, "gather": "step"}, micro_batch_size=16)
    assert time.data_communication == pytest.approx(OVERLAP_COST * transfer.layers + transfer.tables)
    assert time.total < time_of(TINYLLAMA, "H100", {"shard": 8}, micro_batch_size=16).total


def test_a_tiny_network_waits_for_the_host_on_a_gpu_and_not_on_a_cpu():
    shapes = {"tokens_per_step": 16_384, "micro_batch_size": 1, "seq_len": 256, "precision": "fp32"}
    gpu = time_of(TINY, "B200", **shapes)
    assert gpu.total == pytest.approx(64 * 4 * 2.8e-3 + 11e-3)  # 64 micro-batches of 4 layers, one update
    assert time_of(TINY, "CPU", **shapes).gaps == 0
