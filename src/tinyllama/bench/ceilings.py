"""Measures the limits of the device: throughput of one large matmul, bandwidth of one large copy."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tinyllama import log
from tinyllama.train.step_clock import now, seconds_between

COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}
MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
# Until clocks and temperature are stable; the last third is measured.
SUSTAINED_SECONDS = {"cuda": 3.0, "cpu": 0.75}
IDLE_SECONDS = {"cuda": 1.0, "cpu": 0.0}
GROUP_SECONDS = 0.02  # of matmuls between two readings of the clock


def measure_ceilings(device: torch.device, compute_dtype: torch.dtype, with_fp8: bool) -> dict[str, float | None]:
    """Bytes per second of a copy (read and written), and FLOP/s of matmuls: the best single one, and sustained.

    `with_fp8` adds both for fp8 matmuls with one scale per tensor. A measurement that fails is None, with a warning.
    """
    kinds = {"product": lambda: _matmul(device, compute_dtype)}
    if with_fp8:
        kinds["fp8_product"] = lambda: _fp8_matmul(device)
    found: dict[str, float | None] = {"copy_bytes_per_second": attempt("copy", lambda: copy_bandwidth(device))}
    for name, make in kinds.items():
        rates = attempt(name, lambda make=make: matmul_rates(make(), device))
        found[f"{name}_flops_burst"], found[f"{name}_flops_sustained"] = rates or (None, None)
    return found


def attempt(what: str, measure: Callable[[], Any]) -> Any:
    """The result of `measure`; None and a warning when it fails, so that the other measurements are kept."""
    try:
        return measure()
    except Exception as error:  # of any kind: one failed measurement must not lose the others
        log.warn(f"bench: could not measure {what} ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})")
        return None


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a copy inside the device's memory; the best of ten."""
    n_bytes = COPY_BYTES[device.type]
    if device.type == "cuda":
        n_bytes = min(n_bytes, torch.cuda.mem_get_info(device)[0] // 4)
    source = torch.randint(256, (n_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / min(seconds_of(lambda: target.copy_(source), device) for _ in range(10))


def matmul_rates(multiply: Callable[[], Tensor], device: torch.device) -> tuple[float, float]:
    """FLOP/s of matmuls of MATMUL_SIZE cubed: the best single one after idling, and the sustained mean."""
    flops = 2 * MATMUL_SIZE[device.type] ** 3
    seconds_of(multiply, device)  # the first one loads the library and picks a kernel
    shortest = math.inf
    for _ in range(3):
        time.sleep(IDLE_SECONDS[device.type])
        shortest = min(shortest, *(seconds_of(multiply, device) for _ in range(8)))
    return flops / shortest, flops / _sustained_seconds(multiply, device, shortest)


def _sustained_seconds(multiply: Callable[[], Tensor], device: torch.device, shortest: float) -> float:
    """Seconds per matmul without pauses, over the last third of SUSTAINED_SECONDS."""
    group = max(1, round(GROUP_SECONDS / shortest))
    limit = SUSTAINED_SECONDS[device.type]
    moments, seconds = [now(device)], [0.0]
    while seconds[-1] < limit:
        for _ in range(group):
            multiply()
        moments.append(now(device))
        if len(moments) > 2:  # one group behind: the device always has work
            seconds.append(seconds_between(moments[0], moments[-2]))
    start = next(n for n, at in enumerate(seconds) if at >= limit * 2 / 3 or n == len(seconds) - 2)
    return (seconds[-1] - seconds[start]) / (group * (len(seconds) - 1 - start))


def _matmul(device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    size = MATMUL_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right.T, out=out)


def _fp8_matmul(device: torch.device) -> Callable[[], Tensor]:
    size = MATMUL_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        left, right.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `work` takes on the device."""
    begin = now(device)
    work()
    return seconds_between(begin, now(device))
