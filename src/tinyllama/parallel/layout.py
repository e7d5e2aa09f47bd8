"""How ranks share the work of one run, checked once, before anything starts. No torch.

World size = replicate x shard x tensor x pipeline. The `tensor x pipeline` ranks that compute one micro-batch together
have the same data, so a step's micro-batches are shared by `replicate x shard` data ranks.

A step's micro-batches are numbered from 0 and never change. Of R data ranks, rank r computes the r-th of R equal portions.
With `train.deterministic_reduction` they first go to L lanes in equal portions, and a rank has L / R whole lanes:

    micro-batch   0  1  2  3  4  5  6  7
    lane          0     1     2     3          4 lanes
    rank          0           1                2 ranks
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tinyllama.config import Config, setting
from tinyllama.model.llama_config import LlamaConfig

AXES = ("replicate", "shard", "tensor", "pipeline")


class ParallelConfig(Config):
    """`[parallel]`: the processes that train one network together, and how long they wait for each other."""

    replicate: int = setting(
        1,
        "Copies of the network that share a step's micro-batches and sum their gradients (all-reduce).",
        changes_result=False,
        ge=1,
    )
    shard: int = setting(
        1,
        "Ranks that share one copy's weights, gradients and moments, and its micro-batches (FSDP).",
        changes_result=False,
        ge=1,
    )
    tensor: int = setting(
        1,
        "Ranks that share each layer's heads and feed-forward, the vocabulary, and the tokens between.",
        changes_result=False,
        ge=1,
    )
    pipeline: int = setting(
        1,
        "Stages of neighbouring layers, through which micro-batches go one after another.",
        changes_result=False,
        ge=1,
    )
    gather: Literal["layer", "step"] = setting(
        "layer",
        "When sharded weights are gathered. layer: before each layer's pass, for least memory. step: once a step, and "
        "gradients are shared out once, for least waiting; up to 6 bytes a parameter of the layers more on each rank.",
        changes_result=False,
    )
    threads: int = setting(
        0,
        "CPU threads of one rank. 0: PyTorch's choice, but 1 on a CPU with train.deterministic_reduction, "
        "because sums depend on it.",
        changes_result=False,
        ge=0,
    )
    timeout_seconds: float = setting(
        600.0,
        "So long without any progress, the run stops, names the rank that the others wait for, and can go on later.",
        changes_result=False,
        ge=1,
    )

    @property
    def sizes(self) -> dict[str, int]:
        """Ranks along each axis, by its key; a mesh of ranks has them in this order, neighbours along the last."""
        return {"pipeline": self.pipeline, "replicate": self.replicate, "shard": self.shard, "tensor": self.tensor}

    @property
    def world_size(self) -> int:
        """Processes of the run."""
        return math.prod(self.sizes.values())

    @property
    def data_ranks(self) -> int:
        """Ranks with micro-batches of their own."""
        return self.replicate * self.shard

    @property
    def is_model_parallel(self) -> bool:
        """Whether a rank holds a partition of the network only."""
        return self.world_size > self.replicate

    @property
    def gathers_once(self) -> bool:
        """Whether sharded layers stay gathered for a whole step. A pipeline's do: its micro-batches follow each other
        closely."""
        return self.pipeline > 1 or self.gather == "step"

    def coordinates(self, rank: int) -> dict[str, int]:
        """A rank's coordinate along each axis of `sizes`."""
        found: dict[str, int] = {}
        for axis, size in reversed(self.sizes.items()):
            rank, found[axis] = divmod(rank, size)
        return found

    def data_rank(self, rank: int) -> int:
        """Number of a rank among those with micro-batches of their own; ranks of one micro-batch share it."""
        at = self.coordinates(rank)
        return at["replicate"] * self.shard + at["shard"]

    def words(self) -> str:
        """The layout as people read it: axes of more than one rank, `by step` where shards are gathered once a step."""
        named = [f"{key} {self.sizes[key]}" for key in AXES if self.sizes[key] > 1]
        by_step = " by step" if self.shard > 1 and self.gather == "step" else ""
        return (" x ".join(named) or "one process") + by_step


@dataclass(frozen=True)
class Layout:
    """Who computes what of a step. `lanes` 0: sums are made in whatever order is fastest."""

    ranks: int  # that have micro-batches of their own
    micro_batches: int  # of one step, over all ranks
    lanes: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError that begins with the key and names values that would do (lanes are `[train]`'s own key)."""
        check_lanes(self.lanes, self.micro_batches)
        if self.lanes and self.lanes % self.ranks:
            raise ValueError(
                f"parallel.replicate: {self.ranks} ranks cannot share train.reduction_lanes = {self.lanes} evenly; "
                f"{one_of(divisors(self.lanes))} ranks could"
            )
        if self.micro_batches % self.ranks:
            raise ValueError(
                f"parallel.replicate: {self.ranks} ranks cannot share the step's {self.micro_batches} micro-batches "
                f"(tokens_per_step / (micro_batch_size x seq_len)) evenly; {one_of(divisors(self.micro_batches))} could"
            )

    @property
    def micro_batches_per_rank(self) -> int:
        return self.micro_batches // self.ranks

    @property
    def micro_batches_per_lane(self) -> int:
        return self.micro_batches // self.lanes

    def of_rank(self, rank: int) -> range:
        """Numbers of the step's micro-batches that data rank `rank` computes."""
        return range(rank * self.micro_batches_per_rank, (rank + 1) * self.micro_batches_per_rank)


def check_lanes(lanes: int, micro_batches: int) -> None:
    """Raises ValueError, with values that would do, when lanes are no power of two or get unequal portions."""
    if lanes == 0:
        return
    if lanes & (lanes - 1):
        raise ValueError(
            f"reduction_lanes: {lanes} is no power of two, and lanes join in pairs; "
            f"{one_of([_power_below(lanes), 2 * _power_below(lanes)])} would be"
        )
    if micro_batches % lanes:
        fitting = [divisor for divisor in divisors(micro_batches) if not divisor & (divisor - 1)]
        raise ValueError(
            f"reduction_lanes: {lanes} lanes cannot share the step's {micro_batches} micro-batches "
            f"(tokens_per_step / (micro_batch_size x seq_len)) evenly; {one_of(fitting)} could, or "
            f"{-(-micro_batches // lanes) * lanes} micro-batches"
        )


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _power_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def one_of(values: list[int]) -> str:
    if len(values) == 1:
        return str(values[0])
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"


# Whether a network and its batch can be laid out over the ranks as `[parallel]` says; if not, what would work. No torch.
SHOWN = 4  # layouts that a refusal names


def check_layout(model: LlamaConfig, parallel: ParallelConfig, *, micro_batches: int, micro_batch_tokens: int) -> None:
    """`micro_batches`: of one step, over all ranks. Raises ValueError that begins with the key, shows the arithmetic, and
    names layouts of as many processes that would work."""
    fault = find_fault(model, parallel, micro_batches, micro_batch_tokens)
    if fault is None:
        return
    world = parallel.world_size
    fitting = itertools.islice(fitting_layouts(model, world, micro_batches, micro_batch_tokens), SHOWN)
    words = "; or ".join(layout.words() for layout in fitting)
    raise ValueError(f"{fault}. " + (f"{world} processes could be {words}" if words else f"No layout of {world} fits"))


def find_fault(model: LlamaConfig, parallel: ParallelConfig, micro_batches: int, micro_batch_tokens: int) -> str | None:
    """What keeps the layout from working, with numbers that would do on that axis; None when nothing does."""
    if parallel.tensor > 1:
        cut = {
            "attention heads (model.n_heads)": model.n_heads,
            "key and value heads (model.n_kv_heads)": model.n_kv_heads,
            "columns of the feed-forward (model.ffn_dim)": model.ffn_dim,
            "rows of the vocabulary (model.vocab_size)": model.vocab_size,
            "tokens of a micro-batch (micro_batch_size x seq_len)": micro_batch_tokens,
        }
        for what, count in cut.items():
            if count % parallel.tensor:
                return (
                    f"parallel.tensor: {parallel.tensor} ranks cannot share {count} {what} evenly, "
                    f"{count} / {parallel.tensor} = {count / parallel.tensor:.4g}; {one_of(divisors(count))} could"
                )
    if model.n_layers < parallel.pipeline:
        return (
            f"parallel.pipeline: {parallel.pipeline} stages cannot share {model.n_layers} layers (model.n_layers), each "
            f"needs one at least; 1 to {model.n_layers} stages could"
        )
    data_ranks = parallel.data_ranks
    if micro_batches % data_ranks:
        key = "replicate" if parallel.shard == 1 else "shard"
        product = f"replicate x shard = {parallel.replicate} x {parallel.shard} = " if parallel.shard > 1 else ""
        return (
            f"parallel.{key}: {product}{data_ranks} ranks cannot share the step's {micro_batches} micro-batches "
            f"(tokens_per_step / (micro_batch_size x seq_len)) evenly; {one_of(divisors(micro_batches))} could"
        )
    each = micro_batches // data_ranks
    if each < parallel.pipeline:
        return (
            f"parallel.pipeline: {parallel.pipeline} stages need as many micro-batches a step, each data rank has "
            f"{micro_batches} / {data_ranks} = {each}; a smaller micro_batch_size or more tokens_per_step would do"
        )
    return None


def fitting_layouts(
    model: LlamaConfig, world_size: int, micro_batches: int, micro_batch_tokens: int
) -> Iterator[ParallelConfig]:
    """Layouts of so many processes that work, those of few axes first."""
    found = []
    for sizes in itertools.product(divisors(world_size), repeat=len(AXES)):
        layout = ParallelConfig(**dict(zip(AXES, sizes, strict=True)))
        fits = layout.world_size == world_size
        if fits and find_fault(model, layout, micro_batches, micro_batch_tokens) is None:
            found.append(layout)
    return iter(sorted(found, key=lambda layout: (_n_axes(layout), layout.pipeline, layout.tensor, layout.shard)))


def _n_axes(layout: ParallelConfig) -> int:
    return sum(size > 1 for size in layout.sizes.values())
