from dataclasses import replace

import pytest

from tinyllama.model.llama_config import PRESETS, preset
from tinyllama.plan.memory import CONTEXT_BYTES, activation_bytes_per_token, logits_bytes, memory_parts

TINYLLAMA, TINY = PRESETS["tinyllama-1.1b"], preset("tiny-2m", dim=256, ffn_dim=704)


def test_parameters_by_hand():
    # embedding and head 2 x 32000 x 2048
    # a layer: q o 2 x 2048 x 2048, k v 2 x 2048 x 256, feed-forward 3 x 2048 x 5632, norms 2 x 2048
    layer = 8_388_608 + 1_048_576 + 34_603_008 + 4_096
    assert TINYLLAMA.n_parameters == 2 * 65_536_000 + 22 * layer + 2048 == 1_100_048_384
    assert TINYLLAMA.n_matmul_parameters == 1_100_048_384 - 65_536_000 == 1_034_512_384
    # article: embeddings 2 x 32000 x 1536, projections 2 x 3072 x 1536, head_dim 192
    article = 2 * 49_152_000 + 2 * 4_718_592 + 24 * (3072 * 192 * 40 + 3 * 3072 * 1920 + 6144) + 3072
    assert PRESETS["article-1.1b"].n_parameters == article == 1_098_796_032


def test_activations_by_hand():
    # 4 D + 4 H K + 4 G K + 4 H + 4 D + 8 + 6 F = 8192 + 8192 + 1024 + 128 + 8192 + 8 + 33792; at work: 6 F + 4 D
    assert activation_bytes_per_token(TINYLLAMA, 2048, "bf16") == 22 * 59_528 + 33_792 + 8192
    # fp32: 8 D + 8 H K + 8 G K + 4 H + 8 D + 8 + 12 F; at work: 12 F + 8 D
    assert activation_bytes_per_token(TINY, 256, "fp32") == 4 * (2048 * 3 + 1024 + 16 + 8 + 8448) + 8448 + 2048
    # fp8: inputs of products in one byte, the product of gate and up computed again
    assert activation_bytes_per_token(TINYLLAMA, 2048, "fp8") == 22 * (59_528 - 4096 - 11_264) + 33_792 + 8192


def test_recompute_by_hand():
    # selective: all but the feed-forward's; full: what enters a layer. What is computed again is there once.
    at_work = 33_792 + 8192
    assert activation_bytes_per_token(TINYLLAMA, 2048, "bf16", "selective") == 22 * 25_736 + at_work + 33_792
    assert activation_bytes_per_token(TINYLLAMA, 2048, "bf16", "full") == 22 * 8192 + at_work + 51_336


def test_dropped_attention_keeps_its_scores():
    plain = activation_bytes_per_token(TINY, 256, "bf16")
    assert activation_bytes_per_token(replace(TINY, attention_dropout=0.1), 256, "bf16") == plain + 4 * 10 * 4 * 256
    assert activation_bytes_per_token(replace(TINY, dropout=0.1), 256, "bf16") == plain + 4 * 4 * 256


def test_logits_by_hand():
    assert logits_bytes(TINY, 1000, "fp32") == 4 * (1000 * 4096 + 1000 * 256)
    assert logits_bytes(TINY, 10_000, "bf16") == 2 * (8192 * 4096 + 10_000 * 256)


def test_replicated_parts_by_hand():
    parts = memory_parts(TINYLLAMA, micro_batch_size=4, seq_len=2048, precision="bf16", parallel="replicate", n_gpus=16)
    assert parts == {
        "weights": 4_400_193_536,
        "compute_copy": 2_069_024_768,
        "gradients": 4_400_193_536,
        "optimizer": 8_800_387_072,
        "activations": 8192 * (22 * 59_528 + 33_792 + 8192),
        "logits": 2 * (8192 * 32_000 + 8192 * 2048),
        "context": CONTEXT_BYTES,
    }


def test_sharding_divides_the_state_and_not_the_activations():
    shapes = {"micro_batch_size": 4, "seq_len": 2048, "precision": "bf16"}
    whole = memory_parts(TINYLLAMA, **shapes, parallel="replicate", n_gpus=16)
    shared = memory_parts(TINYLLAMA, **shapes, parallel="shard", n_gpus=16)
    for part in ("weights", "gradients", "optimizer"):
        assert shared[part] == whole[part] // 16
    for part in ("activations", "logits", "context"):
        assert shared[part] == whole[part]
    # gathered: embedding, head and last norm, two layers, bf16; their unreduced gradients: bf16 and fp32
    outside, layer = 131_074_048, 44_044_288
    assert shared["compute_copy"] == 2 * (outside + 2 * layer) + 6 * outside


def test_fp32_makes_no_copy():
    parts = memory_parts(TINY, micro_batch_size=1, seq_len=256, precision="fp32", parallel="replicate", n_gpus=1)
    assert parts["compute_copy"] == 0


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_memory_grows_with_the_micro_batch(parallel):
    totals = [
        sum(
            memory_parts(
                TINYLLAMA, micro_batch_size=size, seq_len=2048, precision="bf16", parallel=parallel, n_gpus=8
            ).values()
        )
        for size in (1, 2, 4, 8)
    ]
    assert totals == sorted(set(totals))


def test_gradients_of_one_micro_batch_take_the_place_of_activations():
    shapes = {"seq_len": 2048, "precision": "bf16", "parallel": "replicate", "n_gpus": 1}
    head = 4 * 32_000 * 2048
    one, two, three = (memory_parts(TINYLLAMA, micro_batch_size=1, micro_batches=n, **shapes) for n in (1, 2, 3))
    assert one["gradients"] == max(head, 2 * 1_100_048_384 - one["activations"])
    assert two["gradients"] == 2 * 1_100_048_384
    assert three["gradients"] == 4 * 1_100_048_384
    assert memory_parts(TINYLLAMA, micro_batch_size=16, micro_batches=1, **shapes)["gradients"] == head


def test_moments_in_bf16_take_half():
    shapes = {"micro_batch_size": 1, "seq_len": 2048, "precision": "bf16", "parallel": "replicate", "n_gpus": 1}
    assert memory_parts(TINYLLAMA, **shapes, optimizer_state="bf16")["optimizer"] == 4 * 1_100_048_384


# tinyllama-1.1b, layers compiled, bf16, torch 2.11, one H100 under the cap of a smaller card's memory: most bytes that
# were allocated (benchmarks/memory_by_setting.py; the last two: `tinyllama bench`).
@pytest.mark.parametrize(
    ("micro_batch_size", "recompute", "optimizer_state", "micro_batches", "measured"),
    [
        (4, "none", "fp32", 2, 29.19e9),
        (8, "none", "fp32", 2, 40.58e9),
        (8, "selective", "fp32", 2, 28.39e9),
        (32, "full", "fp32", 2, 35.28e9),
        (1, "none", "fp32", 2, 20.65e9),
        (2, "selective", "fp32", 2, 20.45e9),
        (4, "full", "fp32", 2, 20.51e9),
        (1, "full", "bf16", 1, 13.44e9),
        (4, "full", "bf16", 1, 13.92e9),
        (16, "none", "fp32", 1, 59.97e9),
        (16, "none", "fp32", 6, 64.24e9),
    ],
)
def test_the_peaks_measured_on_an_h100(
    micro_batch_size: int, recompute: str, optimizer_state: str, micro_batches: int, measured: float
):
    parts = memory_parts(
        TINYLLAMA, micro_batch_size=micro_batch_size, seq_len=2048, precision="bf16", parallel="replicate", n_gpus=1,
        recompute=recompute, optimizer_state=optimizer_state, micro_batches=micro_batches,
    )  # fmt: skip
    assert sum(parts.values()) - parts["context"] == pytest.approx(measured, rel=0.03)


def test_uncompiled_layers_keep_more():
    shapes = {"micro_batch_size": 1, "seq_len": 256, "precision": "fp32", "parallel": "replicate", "n_gpus": 1}
    plain, eager = (memory_parts(TINY, **shapes, compiled=compiled) for compiled in (True, False))
    assert eager["activations"] == plain["activations"] * 133 // 100
    assert {**eager, "activations": 0} == {**plain, "activations": 0}
