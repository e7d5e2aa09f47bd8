"""Whether a network and its batch can be laid out over the ranks as `[parallel]` says; if not, what would work. No torch."""

import itertools
from collections.abc import Iterator

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import AXES, ParallelConfig, divisors, one_of

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
