"""What to change when no layout fits: found by planning again with the change made."""

from typing import Any

from tinyllama.devices import KINDS, GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.planning.find_layouts import PlannedLayout, find_layouts, usable_bytes
from tinyllama.planning.notes import uneven_step
from tinyllama.train.train_config import TrainConfig

MAX_DOUBLINGS = 8
SAVINGS: tuple[dict[str, Any], ...] = (
    {"recompute": "selective"},
    {"recompute": "full"},
    {"recompute": "full", "optimizer_state": "bf16"},
)


def changes_that_help(
    model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind, smallest: PlannedLayout | None
) -> list[str]:
    """What would make it fit, one sentence each; the first names the obstacle. `smallest`: the layout that lacks least,
    None where nothing divides evenly."""
    if smallest is None:
        return [_uneven(model, train, n_gpus)]
    lacking = smallest.memory_bytes - usable_bytes(gpu)
    layout = f" ({smallest.parallel.words()}, micro-batch {smallest.micro_batch_size})" if n_gpus > 1 else ""
    lines = [f"the smallest layout{layout} lacks {lacking / 1e9:,.2f} GB on each {gpu.name}"]
    for saving in SAVINGS:
        if _fits(model, train.model_copy(update=saving), n_gpus, gpu):
            words = " and ".join(f"train.{key}: {value!r}" for key, value in saving.items())
            lines.append(f"{words} would fit")
            break
    more = _more_gpus(model, train, n_gpus, gpu)
    if more:
        lines.append(f"more devices: {more}x{gpu.name} would fit")
    for other in KINDS.values():
        larger = other.memory_bytes > gpu.memory_bytes and not other.is_cpu
        if larger and _fits(model, train, n_gpus, other):
            lines.append(f"another device: {n_gpus}x{other.name} would fit")
            break
    lines.append(f"train.seq_len: shorter than {train.seq_len} needs less for activations")
    return lines


def _uneven(model: LlamaConfig, train: TrainConfig, n_gpus: int) -> str:
    """Why nothing divides evenly, with the nearest step that would."""
    if train.deterministic_reduction and train.reduction_lanes % n_gpus:
        return (
            f"train.deterministic_reduction: {n_gpus} ranks cannot share train.reduction_lanes = {train.reduction_lanes} "
            "evenly, and no other layout has it; false would let others in"
        )
    return (
        f"{uneven_step(train, n_gpus)}; and no slices of {model.n_kv_heads} key heads or stages of {model.n_layers} layers "
        "leave fewer ranks that could share it"
    )


def _fits(model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind) -> bool:
    return any(layout.fits for layout in find_layouts(model, train, n_gpus, gpu))


def _more_gpus(model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind) -> int | None:
    """The smallest doubling of the devices at which something fits; None: none of the next few."""
    candidates = (n_gpus * 2**doubling for doubling in range(1, MAX_DOUBLINGS + 1))
    return next((count for count in candidates if _fits(model, train, count, gpu)), None)
