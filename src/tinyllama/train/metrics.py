"""What a run writes down while it trains: metrics.jsonl (one object a step), events.jsonl, and the share of the peak."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tinyllama import files
from tinyllama.gpu_kinds import find_gpu
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.train.precision import FORMATS


class MetricsFile:
    """metrics.jsonl of a run. Opened at a step, rows after it are cut off: a resumed run writes them again."""

    def __init__(self, path: Path, last_step: int) -> None:
        kept = [row for row in files.read_jsonl(path) if row["step"] <= last_step]
        with files.atomic_file(path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
        self._file = path.open("a", buffering=1, encoding="utf-8")  # by line: others read along

    def write(self, row: dict[str, Any]) -> None:
        """Append one step."""
        self._file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Put all rows on the disk, before a checkpoint says that their steps are done."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


def write_event(run_dir: Path, event: str, **details: Any) -> None:
    """Append one line to the run's story, events.jsonl: start, resume, save, stop, with the time."""
    with (run_dir / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 3), "event": event, **details}) + "\n")


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s that the device could reach: the data sheet's for a known GPU, else the best of three measured products.

    A GPU that is not known is measured in bf16 where fp8 is asked for.
    """
    if device.type == "cuda":
        kind = find_gpu(torch.cuda.get_device_name(device))
        if kind is not None and precision in kind.peak_flops:
            return kind.peak_flops[precision]
    dtype = FORMATS[precision].compute or torch.float32
    size = 4096 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    fastest = float("inf")
    for _ in range(4):  # the first one warms up
        _synchronize(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        _synchronize(device)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


def model_flops_utilization(
    model: LlamaConfig, seq_len: int, tokens_per_second: float, peak: float
) -> dict[str, float]:
    """Share of the peak that the model's own FLOPs take, in both conventions (see LlamaConfig.flops_per_token)."""
    return {
        f"mfu_{convention}": tokens_per_second * model.flops_per_token(convention, seq_len) / peak
        for convention in ("causal", "palm")
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: the GPU's by PyTorch's allocator, on a CPU the process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
