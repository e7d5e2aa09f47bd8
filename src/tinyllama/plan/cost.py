"""What a run will need before it is begun: time, memory of each device, disk, money, and the layouts that fit."""

import re
from typing import Any

from tinyllama.errors import RecipeError
from tinyllama.gpu_kinds import KINDS, GpuKind, parse_gpus
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.plan.memory import FP32_BYTES, USABLE_SHARE, Parallel, memory_parts
from tinyllama.plan.step_time import StepTime, step_time
from tinyllama.train.train_config import TrainConfig

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
MAX_MICRO_BATCH_SIZE = 128
SECONDS_PER_DAY = 86_400


def parse_tokens(text: str) -> int:
    """`3T` to 3,000,000,000,000; suffixes k, M, B, T in either case, decimals and underscores allowed.

    Raises RecipeError for anything else, for less than 1, and for what is not a whole number of tokens.
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
) -> dict[str, Any]:
    """The needs of training `model` as `train` says on `gpus` (`16xA100-40G`), over `tokens` instead of the recipe's.

    Times are in seconds, memory in bytes of one device. Where no layout fits, `fits` is False, the figures of time are
    None, the memory is that of the smallest layout, and `changes` says what would help. Raises RecipeError for unknown
    devices and impossible numbers.
    """
    n_gpus, gpu = parse_gpus(gpus)
    if tokens is not None and tokens < 1:
        raise RecipeError(f"tokens: {tokens} must be at least 1")
    if price_per_gpu_hour is not None and not 0 <= price_per_gpu_hour < float("inf"):
        raise RecipeError(f"price_per_gpu_hour: {price_per_gpu_hour} must be a price of at least 0")
    steps = train.total_steps if tokens is None else -(-tokens // train.tokens_per_step)
    layouts = find_layouts(model, train, n_gpus, gpu)
    fitting = [layout for layout in layouts if layout["fits"]]
    smallest = min(layouts, key=lambda layout: layout["memory_bytes_per_gpu"], default=None)
    chosen = fitting[0] if fitting else smallest
    return {
        "device": gpu.name,
        "gpus": n_gpus,
        "parameters": model.n_parameters,
        "matmul_parameters": model.n_matmul_parameters,
        "flops_per_token": {name: model.flops_per_token(name, train.seq_len) for name in ("causal", "palm")},
        "tokens": steps * train.tokens_per_step,
        "steps": steps,
        "fits": bool(fitting),
        "parallel": chosen["parallel"] if chosen else None,
        "micro_batch_size": chosen["micro_batch_size"] if chosen else None,
        "memory_bytes_per_gpu": chosen["memory_bytes_per_gpu"] if chosen else None,
        "memory_parts": chosen["memory_parts"] if chosen else None,
        "usable_memory_bytes_per_gpu": usable_bytes(gpu),
        **_times(model, train, n_gpus, gpu, steps, fitting[0] if fitting else None, price_per_gpu_hour),
        **_disk(model, train, steps),
        "layouts": [_listed(layout) for layout in fitting],
        "changes": [] if fitting else _changes(model, train, n_gpus, gpu, smallest),
        "notes": _notes(train, n_gpus, gpu, layouts),
    }


def usable_bytes(gpu: GpuKind) -> int:
    """Memory of one device that training can count on."""
    return int(gpu.memory_bytes * USABLE_SHARE)


def find_layouts(model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind) -> list[dict[str, Any]]:
    """Every data-parallel layout and micro-batch that divides the step evenly, the fastest first.

    Speeds are compared to three digits; among equals, replicated before sharded and the larger micro-batch first. Empty
    when no number of whole sequences divides the step among the devices.
    """
    if train.tokens_per_step % (n_gpus * train.seq_len):
        return []
    sequences = train.tokens_per_step // (n_gpus * train.seq_len)  # of one device and step
    sizes = [size for size in range(1, min(sequences, MAX_MICRO_BATCH_SIZE) + 1) if sequences % size == 0]
    kinds: tuple[Parallel, ...] = ("replicate", "shard") if n_gpus > 1 else ("replicate",)
    layouts = [_layout(model, train, n_gpus, gpu, parallel, size) for parallel in kinds for size in sizes]
    return sorted(
        layouts,
        key=lambda layout: (
            -float(f"{layout['tokens_per_second']:.3g}"),
            layout["parallel"] != "replicate",
            -layout["micro_batch_size"],
        ),
    )


def _layout(
    model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind, parallel: Parallel, micro_batch_size: int
) -> dict[str, Any]:
    shapes = {
        "micro_batch_size": micro_batch_size, "seq_len": train.seq_len, "precision": train.precision,
        "recompute": train.recompute, "parallel": parallel, "n_gpus": n_gpus,
    }  # fmt: skip
    parts = memory_parts(
        model,
        **shapes,
        compiled=train.compile == "on" or (train.compile == "auto" and not gpu.is_cpu),
        optimizer_state=train.optimizer_state,
        micro_batches=train.tokens_per_step // (n_gpus * micro_batch_size * train.seq_len),
    )
    if gpu.is_cpu:
        parts["context"] = 0
    needed = sum(parts.values())
    time = step_time(model, gpu, tokens_per_step=train.tokens_per_step, **shapes)
    return {
        "parallel": parallel,
        "replicate": n_gpus if parallel == "replicate" else 1,
        "shard": n_gpus if parallel == "shard" else 1,
        "micro_batch_size": micro_batch_size,
        "fits": needed <= usable_bytes(gpu),
        "memory_bytes_per_gpu": needed,
        "memory_parts": parts,
        "tokens_per_second": train.tokens_per_step / time.total,
        "time": time,
    }


def _listed(layout: dict[str, Any]) -> dict[str, Any]:
    """A layout as `--json` shows it."""
    names = ("parallel", "replicate", "shard", "micro_batch_size", "memory_bytes_per_gpu")
    return {name: layout[name] for name in names} | {"tokens_per_second": round(layout["tokens_per_second"], 1)}


def _times(
    model: LlamaConfig,
    train: TrainConfig,
    n_gpus: int,
    gpu: GpuKind,
    steps: int,
    layout: dict[str, Any] | None,
    price_per_gpu_hour: float | None,
) -> dict[str, Any]:
    names = ("tokens_per_second", "step_seconds", "mfu_palm", "mfu_causal", "days", "gpu_hours")
    if layout is None:
        return {**dict.fromkeys(names), "step_seconds_parts": None, "cost": None}
    time: StepTime = layout["time"]
    seconds = steps * time.total
    speed = layout["tokens_per_second"]
    peak = n_gpus * gpu.peak(train.precision)
    gpu_hours = seconds * n_gpus / 3600
    return {
        "tokens_per_second": round(speed, 1),
        "step_seconds": time.total,
        "mfu_palm": speed * model.flops_per_token("palm", train.seq_len) / peak,
        "mfu_causal": speed * model.flops_per_token("causal", train.seq_len) / peak,
        "days": seconds / SECONDS_PER_DAY,
        "gpu_hours": gpu_hours,
        "step_seconds_parts": dict(vars(time)),
        "cost": None if price_per_gpu_hour is None else round(gpu_hours * price_per_gpu_hour, 2),
    }


def _disk(model: LlamaConfig, train: TrainConfig, steps: int) -> dict[str, Any]:
    """Token shards (one epoch), the kept checkpoints (fp32 weights and both moments), the exported weights (fp32)."""
    kept = train.keep_checkpoints + train.keep_best  # the best may be another than the latest
    kept += steps // train.keep_every_steps if train.keep_every_steps else 0
    checkpoint_bytes = FP32_BYTES + 2 * (2 if train.optimizer_state == "bf16" else FP32_BYTES)
    parts = {
        "tokens": steps * train.tokens_per_step * (2 if model.vocab_size <= 65_536 else 4),
        "checkpoints": kept * checkpoint_bytes * model.n_parameters,
        "model": FP32_BYTES * model.n_parameters,
    }
    return {"disk_bytes": sum(parts.values()), "disk_parts": parts}


def _changes(
    model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind, smallest: dict[str, Any] | None
) -> list[str]:
    """What would make it fit, one sentence each; the first names the obstacle."""
    if smallest is None:
        unit = n_gpus * train.seq_len
        near = max(1, round(train.tokens_per_step / unit)) * unit
        return [
            f"train.tokens_per_step: {train.tokens_per_step:,} is not a multiple of gpus x seq_len = "
            f"{n_gpus} x {train.seq_len} = {unit:,}; {near:,} would be"
        ]
    lacking = smallest["memory_bytes_per_gpu"] - usable_bytes(gpu)
    lines = [f"the smallest layout lacks {lacking / 1e9:,.2f} GB on each {gpu.name}"]
    for saving in ({"recompute": "full"}, {"recompute": "full", "optimizer_state": "bf16"}):
        if any(layout["fits"] for layout in find_layouts(model, train.model_copy(update=saving), n_gpus, gpu)):
            words = " and ".join(f"train.{key}: {value!r}" for key, value in saving.items())
            lines.append(f"{words} would fit")
            break
    enough = _enough_gpus(model, train, n_gpus, gpu)
    if enough:
        lines.append(f"more devices: {enough}x{gpu.name} would fit, sharded")
    for other in KINDS.values():
        larger = other.memory_bytes > gpu.memory_bytes and not other.is_cpu
        if larger and any(layout["fits"] for layout in find_layouts(model, train, n_gpus, other)):
            lines.append(f"another device: {n_gpus}x{other.name} would fit")
            break
    lines.append(f"train.seq_len: shorter than {train.seq_len} needs less for activations")
    return lines


def _enough_gpus(model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind) -> int | None:
    """The smallest doubling of the devices at which something fits; None: sharding alone never does."""
    more = n_gpus * 2
    while more * train.seq_len <= train.tokens_per_step:
        if any(layout["fits"] for layout in find_layouts(model, train, more, gpu)):
            return more
        more *= 2
    return None


def _notes(train: TrainConfig, n_gpus: int, gpu: GpuKind, layouts: list[dict[str, Any]]) -> list[str]:
    """What the reader should know: on what the speed rests, and whether the recipe's own micro-batch fits."""
    notes = [f"{gpu.matmul_efficiency:.0%} of peak in products, {gpu.efficiency_source}"]
    own = [layout for layout in layouts if layout["micro_batch_size"] == train.micro_batch_size]
    if layouts and not own:
        notes.append(f"train.micro_batch_size {train.micro_batch_size} does not divide the step among {n_gpus} devices")
    elif own and not any(layout["fits"] for layout in own):
        notes.append(f"train.micro_batch_size {train.micro_batch_size} does not fit; choose one of the layouts")
    return notes
