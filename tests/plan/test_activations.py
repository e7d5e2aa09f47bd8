from dataclasses import replace

import pytest

from tinyllama.model.llama_config import PRESETS, preset
from tinyllama.plan.activations import activation_bytes_per_token, kept_bytes_per_token, logits_bytes

TINYLLAMA, TINY = PRESETS["tinyllama-1.1b"], preset("tiny-2m", dim=256, ffn_dim=704)


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


def test_slices_by_hand():
    # of 8192 at the beginning and in the middle, the gathered norms (4096 each) are whole on each rank
    assert (
        kept_bytes_per_token(TINYLLAMA, 2048, "bf16", "none", tensor=2) == 2 * (2048 + 4096) + 4 + (9344 + 33_792) // 2
    )
    assert kept_bytes_per_token(TINYLLAMA, 2048, "bf16", "selective", tensor=2) == (2048 + 4096) + 4096 + 4 + 9344 // 2
    assert kept_bytes_per_token(TINYLLAMA, 2048, "bf16", "full", tensor=2) == 4096


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_slices_are_never_more_than_the_whole(precision: str, recompute: str):
    whole, half = (kept_bytes_per_token(TINYLLAMA, 2048, precision, recompute, tensor) for tensor in (1, 2))
    assert whole / 2 <= half < whole


def test_dropped_attention_keeps_its_scores():
    plain = activation_bytes_per_token(TINY, 256, "bf16")
    assert activation_bytes_per_token(replace(TINY, attention_dropout=0.1), 256, "bf16") == plain + 4 * 10 * 4 * 256
    assert activation_bytes_per_token(replace(TINY, dropout=0.1), 256, "bf16") == plain + 4 * 4 * 256


def test_logits_by_hand():
    assert logits_bytes(TINY, 1000, "fp32") == 4 * (1000 * 4096 + 1000 * 256)
    assert logits_bytes(TINY, 10_000, "bf16") == 2 * (8192 * 4096 + 10_000 * 256)
    # slices: the chunk in fp32 too, hidden states gathered, and their gradient whole and sliced
    assert logits_bytes(TINY, 1000, "fp32", tensor=4) == 4 * (1000 * 1024 + 2 * 1000 * 256 + 1000 * 64)
    assert logits_bytes(TINY, 1000, "bf16", tensor=4) == 6 * 1000 * 1024 + 2 * (2 * 1000 * 256 + 1000 * 64)
