"""Suggests changes when no layout fits, by planning again with each change; and notes about a plan."""

from typing import Any

from tinyllama.devices import KINDS, GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.find_layouts import PlannedLayout, find_layouts, usable_bytes
from tinyllama.train.train_config import UpdateConfig

MAX_DOUBLINGS = 8
SAVINGS: tuple[dict[str, Any], ...] = (
    {"recompute": "selective"},
    {"recompute": "full"},
    {"recompute": "full", "optimizer_state": "bf16"},
)


def changes_that_help(
    model: LlamaConfig, train: UpdateConfig, n_gpus: int, gpu: GpuKind, smallest: PlannedLayout | None
) -> list[str]:
    """Changes that would fit, one sentence each; the first names the problem. `smallest`: the layout that needs the least
    memory, None when nothing divides evenly."""
    if smallest is None:
        return [_uneven(model, train, n_gpus)]
    lacking = smallest.memory_bytes - usable_bytes(gpu)
    layout = f" ({smallest.parallel.words()}, micro-batch {smallest.micro_batch_size})" if n_gpus > 1 else ""
    lines = [f"the smallest layout{layout} needs {lacking / 1e9:,.2f} GB more than each {gpu.name} has"]
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


def _uneven(model: LlamaConfig, train: UpdateConfig, n_gpus: int) -> str:
    """Why nothing divides evenly, with the nearest step size that would."""
    if train.deterministic_reduction and train.reduction_lanes % n_gpus:
        return (
            f"train.deterministic_reduction: {n_gpus} ranks cannot share train.reduction_lanes = {train.reduction_lanes} "
            "evenly, and no other layout supports it; false would allow other layouts"
        )
    return (
        f"{uneven_step(train, n_gpus)}; tensor or pipeline parallelism ({model.n_kv_heads} key heads, {model.n_layers} "
        "layers) does not leave a number of data ranks that could share it"
    )


def _fits(model: LlamaConfig, train: UpdateConfig, n_gpus: int, gpu: GpuKind) -> bool:
    return any(layout.fits for layout in find_layouts(model, train, n_gpus, gpu))


def _more_gpus(model: LlamaConfig, train: UpdateConfig, n_gpus: int, gpu: GpuKind) -> int | None:
    """The smallest of the next MAX_DOUBLINGS doublings of the devices that fits."""
    candidates = (n_gpus * 2**doubling for doubling in range(1, MAX_DOUBLINGS + 1))
    return next((count for count in candidates if _fits(model, train, count, gpu)), None)


def notes(
    train: UpdateConfig, n_gpus: int, gpu: GpuKind, layouts: list[PlannedLayout], parallel: ParallelConfig | None
) -> list[str]:
    """Assumptions about speed, and how the recipe's own micro-batch and layout compare."""
    found = [f"matmuls reach {gpu.matmul_efficiency:.0%} of the peak, {gpu.efficiency_source}"]
    if n_gpus > gpu.gpus_per_node:
        found.append(
            f"{n_gpus // gpu.gpus_per_node} nodes of {gpu.gpus_per_node}, {gpu.network_bandwidth / 1e9:g} GB/s per device "
            f"between nodes, {gpu.link_bandwidth / 1e9:g} GB/s inside a node"
        )
    if layouts and max(layout.parallel.data_ranks for layout in layouts) < n_gpus:
        found.append(f"{uneven_step(train, n_gpus)} and would allow replicate or shard alone")
    own_size = [layout for layout in layouts if layout.micro_batch_size == train.micro_batch_size]
    if layouts and not own_size:
        found.append(f"train.micro_batch_size {train.micro_batch_size} does not divide the step among {n_gpus} devices")
    elif own_size and not any(layout.fits for layout in own_size):
        found.append(f"train.micro_batch_size {train.micro_batch_size} does not fit; choose one of the layouts")
    if parallel is not None and parallel.world_size > 1:
        found.append(_own_layout(train, n_gpus, layouts, parallel))
    return found


def uneven_step(train: UpdateConfig, n_gpus: int) -> str:
    """Why `n_gpus` data ranks cannot share a step, and the nearest step size that they could; ends in `would be`."""
    unit = n_gpus * train.seq_len
    near = max(1, round(train.tokens_per_step / unit)) * unit
    return (
        f"train.tokens_per_step: {train.tokens_per_step:,} is not a multiple of gpus x seq_len = "
        f"{n_gpus} x {train.seq_len} = {unit:,}; {near:,} would be"
    )


def _own_layout(train: UpdateConfig, n_gpus: int, layouts: list[PlannedLayout], parallel: ParallelConfig) -> str:
    """How the recipe's own layout compares with the best."""
    named = f"the recipe's own layout, {parallel.words()}, micro-batch {train.micro_batch_size}"
    if parallel.world_size != n_gpus:
        return f"{named}, is for {parallel.world_size} devices"
    own = [
        layout
        for layout in layouts
        if layout.parallel.sizes == parallel.sizes and layout.micro_batch_size == train.micro_batch_size
    ]
    if not own:
        return f"{named}, does not divide the model or the step evenly"
    if not own[0].fits:
        return f"{named}, needs {own[0].memory_bytes / 1e9:,.1f} GB and does not fit"
    best = next(layout for layout in layouts if layout.fits)
    return f"{named}: {own[0].tokens_per_second / best.tokens_per_second:.1%} of the best one's speed"
