"""How many layers each stage of a pipeline has, so that the slowest stage is as fast as may be. No torch.

A stage's cost is counted in FLOPs of one token. Beside its layers the last stage has the head, the first one the embedding:
a look-up, which costs nothing, and both have their projections where the embeddings are of another width.
"""

from itertools import accumulate, pairwise

from tinyllama.model.llama_config import LlamaConfig


def stage_layers(model: LlamaConfig, stages: int) -> list[range]:
    """Numbers of the layers that each of `stages` stages has, in order; each has one at least.

    No other division has a faster slowest stage, nor, of those that are as fast there, a faster second slowest, and so on.
    Of equal stages the later ones have more: the first one's memory holds the most micro-batches. Raises ValueError
    for more stages than layers.
    """
    if not 1 <= stages <= model.n_layers:
        raise ValueError(f"{stages} stages cannot share {model.n_layers} layers, each needs one at least")
    of_layer = layer_flops(model)
    of_embedding, of_head = flops_outside_layers(model)
    counts, costs = [1] * stages, [of_layer] * stages
    costs[0] += of_embedding
    costs[-1] += of_head
    for _ in range(model.n_layers - stages):  # each to the stage that is the least slow with it
        stage = min(range(stages), key=lambda number: (costs[number], -number))
        counts[stage] += 1
        costs[stage] += of_layer
    return [range(*ends) for ends in pairwise([0, *accumulate(counts)])]


def layer_flops(model: LlamaConfig) -> int:
    """FLOPs of one layer for one token, forward and backward: 6 for each parameter of its products, and attention's
    6 H K T, of the half of the scores that a causal mask leaves (as `LlamaConfig.flops_per_token`)."""
    counts = model.parameter_counts()
    products = (counts["attention"] + counts["feed_forward"]) // model.n_layers
    return 6 * (products + model.n_heads * model.head_dim * model.seq_len)


def flops_outside_layers(model: LlamaConfig) -> tuple[int, int]:
    """The same of the embedding with its projection, and of the head with its own: 6 V E."""
    projection = 6 * model.dim * model.embedding_dim if model.has_projections else 0
    return projection, projection + 6 * model.vocab_size * model.embedding_dim


def stage_sizes(model: LlamaConfig, stages: int) -> list[int]:
    """How many layers each stage has."""
    return [len(layers) for layers in stage_layers(model, stages)]
