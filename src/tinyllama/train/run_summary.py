"""What `pretrain --json` prints when a run has come to its last step."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinyllama import files
from tinyllama.evaluation.validation import unigram_perplexity
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.shards.batches import TokenShards
from tinyllama.train.metrics import model_flops_utilization, peak_flops, peak_memory_bytes, write_event
from tinyllama.train.train_config import TrainConfig


@dataclass(frozen=True)
class FinishedRun:
    """A run at its last step, seen from rank 0."""

    config: LlamaConfig
    train: TrainConfig
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
