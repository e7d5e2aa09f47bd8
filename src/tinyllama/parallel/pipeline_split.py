"""How many layers each pipeline stage has, so that the slowest stage costs least. No torch.

A stage's cost is counted in FLOPs of matmuls per token. Beside its layers the last stage has the head, the first one
the embedding: a look-up, which costs nothing. Both have their projections where the embeddings are of another width.
"""

from itertools import accumulate, pairwise

from tinyllama.model.llama_config import LlamaConfig

ATTENTION_COST = 3  # a FLOP of fused attention takes as long as so many of a matmul: 25% and 74% of an H100, measured
SAME_SPEED = 0.02  # two H200 train as fast with 12 + 10 layers as with 11 + 11, where costs differ by 1.3%


def stage_layers(model: LlamaConfig, stages: int, recompute: str = "none") -> list[range]:
    """Numbers of the layers that each of `stages` stages has, in order; each has one at least.

    No other division's slowest stage costs less by more than SAME_SPEED. Of all that are so fast this one has the most equal
    numbers, which spares memory; of stages with one layer less it has the earlier ones, which hold the most
    micro-batches. `recompute`: the recipe's, which makes layers more costly. Raises ValueError for more stages than layers.
    """
    if not 1 <= stages <= model.n_layers:
        raise ValueError(f"{stages} stages cannot share {model.n_layers} layers, each needs one at least")
    of_layer = layer_cost(model, recompute)
    of_embedding, of_head = costs_outside_layers(model)
    beside = [0] * stages  # the costs of what else stages have
    beside[0] += of_embedding
    beside[-1] += of_head
    costs = [of_layer + cost for cost in beside]
    for _ in range(model.n_layers - stages):  # each to the stage that is the least slow with it
        costs[costs.index(min(costs))] += of_layer
    allowed = int(max(costs) * (1 + SAME_SPEED))
    most = [(allowed - cost) // of_layer for cost in beside]
    counts = [1] * stages
    for _ in range(model.n_layers - stages):  # each to the stage that has the fewest, if it may have more
        open_to_more = (stage for stage in range(stages) if counts[stage] < most[stage])
        counts[min(open_to_more, key=lambda stage: (counts[stage], -stage))] += 1
    return [range(*ends) for ends in pairwise([0, *accumulate(counts)])]


def layers_per_stage(model: LlamaConfig, stages: int, recompute: str = "none") -> list[int]:
    """How many layers each stage has."""
    return [len(layers) for layers in stage_layers(model, stages, recompute)]


def layer_cost(model: LlamaConfig, recompute: str = "none") -> int:
    """FLOPs of one layer for one token, forward and backward: 6 for each matmul parameter, and 6 H K T of attention
    (as `LlamaConfig.flops_per_token`), which count more. What is recomputed is a forward pass, 2 for each parameter:
    of all, or of gate and up."""
    counts = model.parameter_counts()
    feed_forward = counts["feed_forward"] // model.n_layers
    matmuls = counts["attention"] // model.n_layers + feed_forward
    attention = ATTENTION_COST * model.n_heads * model.head_dim * model.seq_len
    again = {"none": 0, "selective": 2 * feed_forward * 2 // 3, "full": 2 * (matmuls + attention)}[recompute]
    return 6 * (matmuls + attention) + again


def costs_outside_layers(model: LlamaConfig) -> tuple[int, int]:
    """The same of the embedding with its projection, and of the head with its own: 6 V E."""
    projection = 6 * model.dim * model.embedding_dim if model.has_projections else 0
    return projection, projection + 6 * model.vocab_size * model.embedding_dim
