import pytest

from tinyllama.errors import RecipeError
from tinyllama.gpu_kinds import KINDS
from tinyllama.model.llama_config import PRESETS
from tinyllama.plan.step_time import communication_seconds, step_time, weight_bytes_per_micro_batch

TINYLLAMA, TINY = PRESETS["tinyllama-1.1b"], PRESETS["tiny-2m"]


def _time(model, kind: str, **changes):
    settings = {
        "n_gpus": 1,
        "tokens_per_step": 2_097_152,
        "micro_batch_size": 8,
        "seq_len": 2048,
        "precision": "bf16",
        "parallel": "replicate",
    }
    return step_time(model, KINDS[kind], **(settings | changes))


def test_parts_by_hand():
    time = _time(TINYLLAMA, "A100-40G")
    products, attention = 6 * 1_034_512_384, 6 * 22 * 2048 * 2048
    assert time.matmul == pytest.approx(2_097_152 * (products / (312e12 * 0.605) + attention / (312e12 * 0.4)))
    kept = 22 * 59_528 + 33_792 + 8192
    assert time.activation_traffic == pytest.approx(2_097_152 * 3 * (kept + 2 * 32_000) / (1555e9 * 0.8))
    assert time.weight_traffic == pytest.approx(128 * 12 * 1_100_048_384 / (1555e9 * 0.8))
    assert time.optimizer == pytest.approx(1_100_048_384 * 34 / (1555e9 * 0.8))
    assert time.communication == 0
    assert time.launches == 0
    assert time.total == pytest.approx(time.matmul + time.activation_traffic + time.weight_traffic + time.optimizer)


# This network, layers compiled, micro-batches of 16 sequences, torch 2.11, one H100 80GB HBM3.
@pytest.mark.parametrize(
    ("tokens_per_step", "precision", "measured"),
    [(32_768, "bf16", 77_949), (2_097_152, "bf16", 80_178), (32_768, "fp8", 90_765)],
)
def test_the_speeds_measured_on_an_h100(tokens_per_step: int, precision: str, measured: int):
    time = _time(TINYLLAMA, "H100", tokens_per_step=tokens_per_step, micro_batch_size=16, precision=precision)
    assert tokens_per_step / time.total == pytest.approx(measured, rel=0.03)


def test_what_is_computed_again_takes_time():
    def matmul(recompute: str) -> float:
        return _time(TINYLLAMA, "H100", recompute=recompute).matmul

    in_layers, gate_up = 22 * 44_040_192, 22 * 2 * 2048 * 5632
    again = 2_097_152 * 2 * gate_up / (989e12 * 0.74)
    assert matmul("selective") - matmul("none") == pytest.approx(again)
    attention = 2 * 22 * 2048 * 2048
    again = 2_097_152 * (2 * in_layers / (989e12 * 0.74) + attention / (989e12 * 0.25))
    assert matmul("full") - matmul("none") == pytest.approx(again)


def test_fp8_is_refused_where_the_chip_has_none():
    with pytest.raises(RecipeError, match="'fp8', but A100-40G has no such products; 'bf16' would work"):
        _time(TINYLLAMA, "A100-40G", precision="fp8")


def test_weight_traffic_by_hand():
    assert weight_bytes_per_micro_batch("bf16", "replicate") == 2 + 2 + 8
    assert weight_bytes_per_micro_batch("fp32", "replicate") == 4 + 4 + 8
    assert weight_bytes_per_micro_batch("bf16", "shard") == 4 + 4 + 8


def test_transfers_by_hand():
    in_one_host = {"n_gpus": 8, "micro_batches": 4, "precision": "bf16"}
    assert communication_seconds(TINYLLAMA, KINDS["H100"], **in_one_host, parallel="replicate") == pytest.approx(
        2 * 4 * 1_100_048_384 * 7 / 8 / 360e9
    )
    assert communication_seconds(TINYLLAMA, KINDS["H100"], **in_one_host, parallel="shard") == pytest.approx(
        4 * (2 + 2 + 4) * 1_100_048_384 * 7 / 8 / 360e9
    )
    across = communication_seconds(
        TINYLLAMA, KINDS["H100"], n_gpus=16, micro_batches=1, precision="bf16", parallel="replicate"
    )
    assert across == pytest.approx(8 * 1_100_048_384 * 15 / 16 / 50e9)
    assert (
        communication_seconds(TINY, KINDS["H100"], n_gpus=1, micro_batches=1, precision="bf16", parallel="shard") == 0
    )


def test_small_micro_batches_do_not_hide_sharded_weights():
    slow, fast = (
        _time(TINYLLAMA, "A100-40G", n_gpus=16, micro_batch_size=size, parallel="shard").communication
        for size in (1, 8)
    )
    assert slow > 0
    assert fast == 0


def test_a_tiny_network_waits_for_launches_on_a_gpu_and_not_on_a_cpu():
    shapes = {"tokens_per_step": 16_384, "micro_batch_size": 1, "seq_len": 256, "precision": "fp32"}
    gpu = _time(TINY, "B200", **shapes)
    assert gpu.launches > 0
    assert gpu.matmul + gpu.activation_traffic + gpu.weight_traffic + gpu.launches == pytest.approx(64 * 4 * 60 * 5e-6)
    assert _time(TINY, "CPU", **shapes).launches == 0
