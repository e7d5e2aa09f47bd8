"""What a run records while it trains: metrics.jsonl (one object a step), events.jsonl, and FLOPs utilization."""

import json
import math
import os
import resource
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinyllama import files, log
from tinyllama.devices import find_gpu
from tinyllama.evaluation.validation import unigram_perplexity
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.shards.batches import TokenShards
from tinyllama.train.precision import FORMATS
from tinyllama.train.train_config import UpdateConfig


class MetricsFile:
    """metrics.jsonl of a run. Opening it at a step removes the rows after it, which a resumed run writes again.

    On a full disk rows wait in memory; `sync` raises. Two threads may use it.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        kept = [row for row in files.read_jsonl(path) if row["step"] <= last_step]
        with files.atomic_file(path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
        self._path = path
        self._file = path.open("ab", buffering=0)  # others read along
        self._unwritten = b""
        self._lock = threading.Lock()

    def write(self, row: dict[str, Any]) -> None:
        """Append one step. Values that are not finite are null: JSON has no NaN."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        with self._lock:
            self._unwritten += json.dumps(finite).encode() + b"\n"
            try:
                self._flush()
            except OSError as error:
                if not files.is_full_disk(error):
                    raise

    def sync(self) -> None:
        """Flush and fsync all rows, before a checkpoint of their steps is committed. Raises OSError on a full disk."""
        with self._lock:
            self._flush()
            os.fsync(self._file.fileno())

    def _flush(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def close(self) -> None:
        """Write what can be written, and close."""
        with self._lock:
            try:
                self._flush()
            except OSError as error:
                log.warn(f"{self._path}: the last rows are not written ({error.strerror})")
            self._file.close()


class NoMetricsFile(MetricsFile):
    """Of the ranks that write none."""

    def __init__(self) -> None:
        return

    def write(self, row: dict[str, Any]) -> None:
        return

    def sync(self) -> None:
        return

    def close(self) -> None:
        return


def write_event(run_dir: Path, event: str, *, anyway: bool = False, **details: Any) -> None:
    """Append one line to events.jsonl, with the time; on a full disk the line is left out.

    docs/resume.md has the table of the events and their details; each has `step`, and `reason` but for a save.
    Rank 0 writes it, and `anyway` the rank that found rank 0 lost.
    """
    if not (log.is_speaker() or anyway):
        return
    line = json.dumps({"time": round(time.time(), 3), "event": event, **details}) + "\n"
    try:
        files.cut_unfinished_line(run_dir / "events.jsonl")
        with (run_dir / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        if not files.is_full_disk(error):
            raise


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s that the device could reach: the data sheet's for a known GPU, else the best of three measured matmuls.

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


# What `pretrain --json` prints when a run has come to its last step.


@dataclass(frozen=True)
class FinishedRun:
    """A run that has done its last step, as rank 0 knows it."""

    config: LlamaConfig
    train: UpdateConfig
    run_dir: Path
    device: torch.device
    ranks: int
    step: int
    train_shards: TokenShards
    validation_shards: TokenShards
    vocab_size: int  # of the tokenizer
    validation: dict[str, float] | None
    skipped_steps: int
    weights_sha256: str


def summarize(run: FinishedRun) -> dict[str, Any]:
    """The summary; writes the event `finish`."""
    rows = files.read_jsonl(run.run_dir / "metrics.jsonl")
    speeds = [row["tokens_per_second"] for row in rows[1:]] or [rows[0]["tokens_per_second"]]  # step 1 warms up
    tokens_per_second = statistics.harmonic_mean(speeds)
    peak = peak_flops(run.device, run.train.precision) * run.ranks
    tokens = run.step * run.train.tokens_per_step
    summary: dict[str, Any] = {
        "parameters": run.config.n_parameters,
        "device": run.device.type,
        "ranks": run.ranks,
        "step": run.step,
        "tokens": tokens,
        "epochs": round(tokens / run.train_shards.n_tokens, 3),
        "loss": rows[-1]["loss"],
        "validation": run.validation,
        "unigram_perplexity": None,
        "tokens_per_second": round(tokens_per_second, 1),
        **model_flops_utilization(run.config, run.train.seq_len, tokens_per_second, peak),
        "peak_memory_bytes": peak_memory_bytes(run.device),
        "skipped_steps": run.skipped_steps,
        "weights_sha256": run.weights_sha256,
    }
    if run.validation is not None:
        summary["unigram_perplexity"] = unigram_perplexity(run.train_shards, run.validation_shards, run.vocab_size)
    write_event(run.run_dir, "finish", step=run.step, reason="the last step is done")
    return summary
