"""Estimates what a run needs before it starts: time, memory per device, disk, cost, and the layouts that fit."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllama.devices import GpuKind, parse_gpus
from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.pipeline_split import layers_per_stage
from tinyllama.planning.find_layouts import PlannedLayout, find_layouts, usable_bytes
from tinyllama.planning.memory import FP32_BYTES
from tinyllama.planning.plan_advice import changes_that_help, notes
from tinyllama.planning.stage_sizes import ONE_DEVICE
from tinyllama.train.train_config import TrainConfig

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
SECONDS_PER_DAY = 86_400


def parse_tokens(text: str) -> int:
    """`3T` to 3,000,000,000,000; suffixes k, M, B, T in either case, decimals and underscores allowed.

    Raises RecipeError for anything else, for less than 1, and for a fraction of a token.
    """
    match = re.fullmatch(r"\s*(\d[\d_,]*)(?:\.(\d{1,12}))?\s*([kKmMbBtT]?)\s*", text)
    if not match:
        raise RecipeError(f"tokens: {text!r} is not a number of tokens, such as 3T, 1.5B or 500_000")
    decimals = match[2] or ""
    scaled = int(re.sub(r"[_,]", "", match[1]) + decimals) * _SUFFIXES[match[3].upper()]
    tokens, rest = divmod(scaled, 10 ** len(decimals))
    if rest or tokens < 1:
        raise RecipeError(f"tokens: {text!r} is not a whole number of at least 1")
    return tokens


def plan(
    model: LlamaConfig,
    train: TrainConfig,
    gpus: str,
    tokens: int | None = None,
    price_per_gpu_hour: float | None = None,
    *,
    gpus_per_node: int | None = None,
    devices: Mapping[str, GpuKind] | None = None,
    parallel: ParallelConfig | None = None,
) -> dict[str, Any]:
    """Estimate training `model` with the settings `train` on `gpus` (`16xA100-40G`), over `tokens` or the recipe's tokens.

    `gpus_per_node`: default that of the kind, 8. `devices`: additional kinds. `parallel`: the recipe's own layout, to be
    compared with the best. Times are in seconds, memory in bytes per device. If no layout fits, `fits` is False, all times
    are None, the memory is that of the smallest layout, and `changes` lists what would help. `memory_stage`: index in
    `stage_layers` of the stage whose devices need that memory. Raises RecipeError for unknown devices and impossible values.
    """
    n_gpus, gpu = _devices(gpus, gpus_per_node, devices)
    if tokens is not None and tokens < 1:
        raise RecipeError(f"tokens: {tokens} must be at least 1")
    if price_per_gpu_hour is not None and not 0 <= price_per_gpu_hour < float("inf"):
        raise RecipeError(f"price_per_gpu_hour: {price_per_gpu_hour} must be a price of at least 0")
    steps = train.total_steps if tokens is None else -(-tokens // train.tokens_per_step)
    layouts = find_layouts(model, train, n_gpus, gpu)
    fitting = [layout for layout in layouts if layout.fits]
    smallest = min(layouts, key=lambda layout: layout.memory_bytes, default=None)
    chosen = fitting[0] if fitting else smallest
    return {
        "device": gpu.name,
        "gpus": n_gpus,
        "gpus_per_node": min(n_gpus, gpu.gpus_per_node),
        "parameters": model.n_parameters,
        "matmul_parameters": model.n_matmul_parameters,
        "flops_per_token": {name: model.flops_per_token(name, train.seq_len) for name in ("causal", "palm")},
        "tokens": steps * train.tokens_per_step,
        "steps": steps,
        "fits": bool(fitting),
        "parallel": chosen.keys if chosen else None,
        "micro_batch_size": chosen.micro_batch_size if chosen else None,
        "overrides": chosen.overrides(parallel or ONE_DEVICE) if chosen else [],
        "stage_layers": layers_per_stage(model, chosen.parallel.pipeline, train.recompute) if chosen else None,
        "memory_bytes_per_gpu": chosen.memory_bytes if chosen else None,
        "memory_stage": chosen.memory_stage if chosen else None,
        "memory_parts": chosen.memory_parts if chosen else None,
        "usable_memory_bytes_per_gpu": usable_bytes(gpu),
        **_times(model, train, gpu, steps, fitting[0] if fitting else None, price_per_gpu_hour),
        **_disk(model, train, steps),
        "layouts": [layout.to_dict() for layout in fitting],
        "changes": [] if fitting else changes_that_help(model, train, n_gpus, gpu, smallest),
        "notes": notes(train, n_gpus, gpu, layouts, parallel),
    }


def _devices(gpus: str, gpus_per_node: int | None, devices: Mapping[str, GpuKind] | None) -> tuple[int, GpuKind]:
    n_gpus, gpu = parse_gpus(gpus, devices)
    if gpus_per_node is None:
        gpus_per_node = gpu.gpus_per_node
    if gpus_per_node < 1:
        raise RecipeError(f"gpus_per_node: {gpus_per_node} must be at least 1")
    if n_gpus > gpus_per_node and n_gpus % gpus_per_node:
        below = n_gpus // gpus_per_node * gpus_per_node
        raise RecipeError(
            f"gpus: {n_gpus} devices do not fill nodes of {gpus_per_node}; {below} or {below + gpus_per_node} would, or set "
            "--gpus-per-node to a divisor"
        )
    return n_gpus, replace(gpu, gpus_per_node=gpus_per_node)


def _times(
    model: LlamaConfig,
    train: TrainConfig,
    gpu: GpuKind,
    steps: int,
    layout: PlannedLayout | None,
    price_per_gpu_hour: float | None,
) -> dict[str, Any]:
    names = ("tokens_per_second", "step_seconds", "mfu_palm", "mfu_causal", "days", "gpu_hours")
    if layout is None:
        return {**dict.fromkeys(names), "step_seconds_parts": None, "cost": None}
    seconds = steps * layout.time.total
    speed, n_gpus = layout.tokens_per_second, layout.parallel.world_size
    peak = n_gpus * gpu.peak(train.precision)
    gpu_hours = seconds * n_gpus / 3600
    return {
        "tokens_per_second": round(speed, 1),
        "step_seconds": layout.time.total,
        "mfu_palm": speed * model.flops_per_token("palm", train.seq_len) / peak,
        "mfu_causal": speed * model.flops_per_token("causal", train.seq_len) / peak,
        "days": seconds / SECONDS_PER_DAY,
        "gpu_hours": gpu_hours,
        "step_seconds_parts": dict(vars(layout.time)),
        "cost": None if price_per_gpu_hour is None else round(gpu_hours * price_per_gpu_hour, 2),
    }


def _disk(model: LlamaConfig, train: TrainConfig, steps: int) -> dict[str, Any]:
    """Token shards (one epoch), the kept checkpoints (fp32 weights and both moments), the exported weights (fp32)."""
    kept = train.keep_checkpoints + train.keep_best  # the best may not be among the latest
    kept += steps // train.keep_every_steps if train.keep_every_steps else 0
    checkpoint_bytes = FP32_BYTES + 2 * (2 if train.optimizer_state == "bf16" else FP32_BYTES)
    parts = {
        "tokens": steps * train.tokens_per_step * (2 if model.vocab_size <= 65_536 else 4),
        "checkpoints": kept * checkpoint_bytes * model.n_parameters,
        "model": FP32_BYTES * model.n_parameters,
    }
    return {"disk_bytes": sum(parts.values()), "disk_parts": parts}
