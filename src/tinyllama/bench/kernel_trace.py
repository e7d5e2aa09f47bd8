"""Profiles a few steps with PyTorch's profiler: the time of each kernel, and idle time."""

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tinyllama.bench.kernel_classes import KernelTime, class_table, top_kernels

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise Kineto logs each start and stop on stderr
DEVICE_CATEGORIES = {"kernel", "gpu_memcpy", "gpu_memset"}  # of events in the Chrome trace that Kineto writes


def profile_steps(run_step: Callable[[], Any], n_steps: int, device: torch.device) -> dict[str, Any]:
    """`kernel_classes`, `top_kernels` and `profiled_step_ms` of consecutive steps.

    On a GPU, idle is the time without a running kernel between the first kernel's start and the last one's end. On a CPU,
    kernels are PyTorch operations without nested ones, and idle is the rest, mostly Python.
    """
    measure = _gpu_kernels if device.type == "cuda" else _cpu_operations
    kernels, step_ms, idle_ms = measure(run_step, n_steps)
    if not kernels:
        raise RuntimeError("the profiler recorded no kernel")
    return {
        "kernel_classes": class_table(kernels, idle_ms),
        "top_kernels": top_kernels(kernels),
        "profiled_step_ms": round(step_ms, 4),
    }


def _gpu_kernels(run_step: Callable[[], Any], n_steps: int) -> tuple[list[KernelTime], float, float]:
    for repeats in (1, n_steps):  # the first time starts the tracer, which takes seconds
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as traced:
            for _ in range(repeats):
                run_step()
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        traced.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return kernels_of_trace(events, n_steps)


def kernels_of_trace(events: Iterable[dict[str, Any]], n_steps: int) -> tuple[list[KernelTime], float, float]:
    """Time of each kernel per step, milliseconds per step, and milliseconds per step without a kernel."""
    found = [event for event in events if event.get("ph") == "X" and event.get("cat") in DEVICE_CATEGORIES]
    if not found:
        return [], 0.0, 0.0
    durations: dict[str, list[float]] = defaultdict(list)
    for event in found:
        durations[event["name"]].append(float(event["dur"]))
    kernels = [KernelTime(name, sum(us) / 1000 / n_steps, len(us) / n_steps) for name, us in durations.items()]
    spans = sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in found)
    whole = max(end for _, end in spans) - spans[0][0]
    return kernels, whole / 1000 / n_steps, (whole - covered(spans)) / 1000 / n_steps


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans (begin, end), sorted by begin."""
    total, reached = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _cpu_operations(run_step: Callable[[], Any], n_steps: int) -> tuple[list[KernelTime], float, float]:
    with profile(activities=[ProfilerActivity.CPU]) as traced:
        started = time.perf_counter()
        for _ in range(n_steps):
            run_step()
        step_ms = (time.perf_counter() - started) * 1000 / n_steps
    kernels = [
        KernelTime(row.key, row.self_cpu_time_total / 1000 / n_steps, row.count / n_steps)
        for row in traced.key_averages()
        if row.self_cpu_time_total > 0
    ]
    return kernels, step_ms, max(0.0, step_ms - sum(kernel.ms for kernel in kernels))
