import pytest

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
    assert time.matmul == pytest.approx(2_097_152 * 6_760_722_432 / (312e12 * 0.63))
    assert time.activation_traffic == pytest.approx(2_097_152 * 5 * (22 * 67_712 + 4 * 32_000) / (1555e9 * 0.8))
    assert time.weight_traffic == pytest.approx(128 * 26 * 1_100_048_384 / (1555e9 * 0.8))
    assert time.optimizer == pytest.approx(1_100_048_384 * 32 / (1555e9 * 0.8))
    assert time.communication == 0
    assert time.launches == 0
    assert time.total == pytest.approx(time.matmul + time.activation_traffic + time.weight_traffic + time.optimizer)


# This network, layers compiled, bf16, steps of 65,536 tokens, torch 2.11, one H100 80GB HBM3.
@pytest.mark.parametrize(("micro_batch_size", "measured"), [(2, 59_074), (4, 65_305), (8, 67_964), (16, 69_665)])
def test_the_speeds_measured_on_an_h100(micro_batch_size: int, measured: int):
    time = _time(TINYLLAMA, "H100", tokens_per_step=65_536, micro_batch_size=micro_batch_size)
    assert 65_536 / time.total == pytest.approx(measured, rel=0.03)


def test_weight_traffic_by_hand():
    assert weight_bytes_per_micro_batch("bf16", "replicate") == 6 + 2 + 6 + 12
    assert weight_bytes_per_micro_batch("fp32", "replicate") == 4 + 12
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
