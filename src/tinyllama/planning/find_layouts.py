"""Lists the layouts of a number of devices, with the memory and speed of each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinyllama.devices import GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import AXES, ParallelConfig, divisors, find_fault
from tinyllama.planning.memory import USABLE_SHARE, fullest_stage
from tinyllama.planning.stage_sizes import ONE_DEVICE
from tinyllama.planning.step_time import StepTime, step_time
from tinyllama.train.train_config import UpdateConfig, check_fp8_widths, refuse_what_needs_whole_networks

MAX_MICRO_BATCH_SIZE = 128
SAME_SPEED = 0.01  # relative difference that the plan cannot resolve


@dataclass(frozen=True)
class PlannedLayout:
    """One way to train on the devices: its axes and micro-batch, with the estimated memory and time."""

    parallel: ParallelConfig
    micro_batch_size: int
    memory_stage: int  # the stage that needs most, from 0
    memory_parts: dict[str, int]
    time: StepTime
    tokens_per_step: int
    usable_bytes: int

    @property
    def axes(self) -> dict[str, int]:
        """Ranks along each axis, in the recipe's order."""
        return {axis: self.parallel.sizes[axis] for axis in AXES}

    @property
    def keys(self) -> dict[str, Any]:
        """The layout as keys of the recipe's `[parallel]`."""
        return {**self.axes, "gather": self.parallel.gather}

    @property
    def memory_bytes(self) -> int:
        """Memory of the device that needs most."""
        return sum(self.memory_parts.values())

    @property
    def fits(self) -> bool:
        """Whether this fits the memory of a device."""
        return self.memory_bytes <= self.usable_bytes

    @property
    def tokens_per_second(self) -> float:
        """Over all devices."""
        return self.tokens_per_step / self.time.total

    def overrides(self, recipe_layout: ParallelConfig = ONE_DEVICE) -> list[str]:
        """Arguments of `pretrain` that change `recipe_layout` into this layout."""
        own = recipe_layout.sizes
        axes = [f"parallel.{axis}={ranks}" for axis, ranks in self.axes.items() if ranks > 1 or own[axis] > 1]
        if self.parallel.shard > 1 and self.parallel.gather != recipe_layout.gather:
            axes.append(f"parallel.gather={self.parallel.gather}")
        return [*axes, f"train.micro_batch_size={self.micro_batch_size}"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **self.keys,
            "micro_batch_size": self.micro_batch_size,
            "memory_bytes_per_gpu": self.memory_bytes,
            "tokens_per_second": round(self.tokens_per_second, 1),
        }


def usable_bytes(gpu: GpuKind) -> int:
    """Memory of one device that training can use."""
    return int(gpu.memory_bytes * USABLE_SHARE)


def find_layouts(model: LlamaConfig, train: UpdateConfig, n_gpus: int, gpu: GpuKind) -> list[PlannedLayout]:
    """Every layout and micro-batch that divides the model and the step evenly, the fastest first.

    Layouts are ranked in classes of speed, SAME_SPEED wide, counted from the best. Within a class the layout with fewer axes
    comes first, then replicate before shard before tensor before pipeline, shards gathered for each layer before shards
    gathered once, and of one layout the larger micro-batch. Empty when nothing divides evenly.
    """
    layouts = [
        plan_layout(model, train.model_copy(update={"micro_batch_size": size}), parallel, gpu)
        for parallel in layouts_of(n_gpus)
        for size in micro_batch_sizes(model, train, parallel)
    ]
    best = max((layout.tokens_per_second for layout in layouts if layout.fits), default=0.0)

    def order(layout: PlannedLayout) -> tuple[float, ...]:
        parallel = layout.parallel
        behind = math.floor(math.log(best / layout.tokens_per_second) / SAME_SPEED) if best else 0
        n_axes = sum(ranks > 1 for ranks in layout.axes.values())
        sizes = (parallel.pipeline, parallel.tensor, parallel.shard)
        return (behind, n_axes, *sizes, parallel.gathers_once, -layout.micro_batch_size)

    return sorted(layouts, key=order)


def plan_layout(model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig, gpu: GpuKind) -> PlannedLayout:
    """Estimate the layout with the micro-batch of `train`."""
    stage, parts = fullest_stage(model, train, parallel, on_gpu=not gpu.is_cpu)
    time = step_time(model, gpu, train, parallel)
    size, tokens = train.micro_batch_size, train.tokens_per_step
    return PlannedLayout(parallel, size, stage.number, parts, time, tokens, usable_bytes(gpu))


def layouts_of(n_gpus: int) -> Iterator[ParallelConfig]:
    """Every combination of the four axes over `n_gpus`, with each way to gather shards."""
    for pipeline in divisors(n_gpus):
        for tensor in divisors(n_gpus // pipeline):
            data_ranks = n_gpus // pipeline // tensor
            for shard in divisors(data_ranks):
                layout = ParallelConfig(replicate=data_ranks // shard, shard=shard, tensor=tensor, pipeline=pipeline)
                yield layout
                if shard > 1 and not layout.gathers_once:
                    yield layout.model_copy(update={"gather": "step"})


def micro_batch_sizes(model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig) -> list[int]:
    """Micro-batch sizes with which `pretrain` accepts the layout."""
    sequences, rest = divmod(train.tokens_per_step, train.seq_len)
    if rest:
        return []
    return [
        size
        for size in divisors(sequences)
        if size <= MAX_MICRO_BATCH_SIZE and _is_allowed(model, train, parallel, sequences // size, size)
    ]


def _is_allowed(
    model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig, micro_batches: int, size: int
) -> bool:
    try:
        if parallel.is_model_parallel:
            refuse_what_needs_whole_networks(train, parallel)
        if train.precision == "fp8":
            check_fp8_widths(model, size * train.seq_len, parallel.tensor)
        train.model_copy(update={"micro_batch_size": size}).layout(parallel.data_ranks)
    except ValueError:
        return False
    return find_fault(model, parallel, micro_batches, size * train.seq_len) is None
