"""What the device can do: rates that fit each other, and no failure that costs the other figures."""

import math

import pytest
import torch

from tinyllama.bench import ceilings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ceilings.COPY_BYTES, "cpu", 2**20)
    monkeypatch.setitem(ceilings.MATMUL_SIZE, "cpu", 64)
    monkeypatch.setitem(ceilings.SUSTAINED_SECONDS, "cpu", 0.06)
    monkeypatch.setattr(ceilings, "GROUP_SECONDS", 0.004)


def test_rates_of_a_product_of_known_time(monkeypatch: pytest.MonkeyPatch):
    """By a clock of the test's own: a product takes 2 ms, and 3 ms once 40 were made, as on a chip that grows hot."""
    clock, made = [0.0], [0]

    def multiply() -> torch.Tensor:
        made[0] += 1
        clock[0] += 0.002 if made[0] <= 40 else 0.003
        return torch.ones(())

    monkeypatch.setattr(ceilings, "now", lambda device: clock[0])
    burst, sustained = ceilings.matmul_rates(multiply, CPU)
    assert burst == pytest.approx(2 * 64**3 / 0.002)
    assert sustained == pytest.approx(2 * 64**3 / 0.003)


def test_all_ceilings_on_a_cpu():
    found = ceilings.measure_ceilings(CPU, torch.float32, with_fp8=False)
    assert list(found) == ["copy_bytes_per_second", "product_flops_burst", "product_flops_sustained"]
    assert all(rate is not None and rate > 0 and math.isfinite(rate) for rate in found.values())


def test_what_does_not_work_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def broken(device: torch.device) -> None:
        raise RuntimeError("no fp8 here\nand more")

    monkeypatch.setattr(ceilings, "_fp8_matmul", broken)
    found = ceilings.measure_ceilings(CPU, torch.bfloat16, with_fp8=True)
    assert found["fp8_product_flops_burst"] is found["fp8_product_flops_sustained"] is None
    assert found["product_flops_burst"] is not None
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "warning: bench: could not measure fp8_product (RuntimeError: no fp8 here)" in " ".join(captured.err.split())
