"""What the reader of a plan should know beside its figures."""

from tinyllama.devices import GpuKind
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.find_layouts import PlannedLayout
from tinyllama.train.train_config import TrainConfig


def notes(
    train: TrainConfig, n_gpus: int, gpu: GpuKind, layouts: list[PlannedLayout], parallel: ParallelConfig | None
) -> list[str]:
    """On what the speed rests, and how the recipe's own micro-batch and layout do."""
    found = [f"{gpu.matmul_efficiency:.0%} of peak in products, {gpu.efficiency_source}"]
    if n_gpus > gpu.gpus_per_node:
        found.append(
            f"{n_gpus // gpu.gpus_per_node} nodes of {gpu.gpus_per_node}, {gpu.network_bandwidth / 1e9:g} GB/s of network a "
            f"device, {gpu.link_bandwidth / 1e9:g} GB/s inside a node"
        )
    if layouts and max(layout.parallel.data_ranks for layout in layouts) < n_gpus:
        found.append(f"{uneven_step(train, n_gpus)} and could be shared by replicate or shard alone")
    own_size = [layout for layout in layouts if layout.micro_batch_size == train.micro_batch_size]
    if layouts and not own_size:
        found.append(f"train.micro_batch_size {train.micro_batch_size} does not divide the step among {n_gpus} devices")
    elif own_size and not any(layout.fits for layout in own_size):
        found.append(f"train.micro_batch_size {train.micro_batch_size} does not fit; choose one of the layouts")
    if parallel is not None and parallel.world_size > 1:
        found.append(_own_layout(train, n_gpus, layouts, parallel))
    return found


def uneven_step(train: TrainConfig, n_gpus: int) -> str:
    """Why so many data ranks cannot share a step, with the nearest step that they could; a sentence that goes on."""
    unit = n_gpus * train.seq_len
    near = max(1, round(train.tokens_per_step / unit)) * unit
    return (
        f"train.tokens_per_step: {train.tokens_per_step:,} is not a multiple of gpus x seq_len = "
        f"{n_gpus} x {train.seq_len} = {unit:,}; {near:,} would be"
    )


def _own_layout(train: TrainConfig, n_gpus: int, layouts: list[PlannedLayout], parallel: ParallelConfig) -> str:
    """How the layout that the recipe names compares with the best."""
    named = f"the recipe's own layout, {parallel.words()}, micro-batch {train.micro_batch_size}"
    if parallel.world_size != n_gpus:
        return f"{named}, is for {parallel.world_size} devices"
    own = [
        layout
        for layout in layouts
        if layout.parallel.sizes == parallel.sizes and layout.micro_batch_size == train.micro_batch_size
    ]
    if not own:
        return f"{named}, does not divide the network or the step evenly"
    if not own[0].fits:
        return f"{named}, needs {own[0].memory_bytes / 1e9:,.1f} GB and does not fit"
    best = next(layout for layout in layouts if layout.fits)
    return f"{named}: {own[0].tokens_per_second / best.tokens_per_second:.1%} of the best one's speed"
