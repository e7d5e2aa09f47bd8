"""Bytes that one device needs, by part, in any layout of the four parallel.

Weights are fp32 and copied once in the products' format. `replicate`: every device holds all of it. `shard`: weights,
gradients and moments are divided, and the layer at work and the next one are gathered (FSDP, Zhao et al. 2023). `tensor`:
matrices are sliced, and so is the stream between them (Korthikanti et al. 2022). `pipeline`: each device has some of the
layers, and under 1F1B (Narayanan et al. 2021) the first stage keeps the activations of as many micro-batches as there
are stages.
"""

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.plan.activations import (
    VALUE_BYTES,
    at_work_bytes_per_token,
    kept_bytes_per_token,
    logits_bytes,
    uncompiled_activation_bytes,
)
from tinyllama.plan.stage_sizes import ONE_DEVICE, Stage, stages
from tinyllama.train.train_config import TrainConfig

FP32_BYTES = 4
CONTEXT_BYTES = 1_500_000_000  # assumed: driver context, library workspaces, communication buffers
USABLE_SHARE = 0.95  # assumed: the rest is lost between blocks of the allocator


def memory_parts(
    model: LlamaConfig, train: TrainConfig, parallel: ParallelConfig = ONE_DEVICE, *, compiled: bool = True
) -> dict[str, int]:
    """Bytes of the device that needs most, by part; their sum is its peak.

    `train` says the micro-batch, the number formats and what is recomputed; a step's micro-batches are shared by
    `parallel`'s data ranks.
    """
    every = [_stage_parts(stage, train, parallel, compiled=compiled) for stage in stages(model, parallel)]
    return max(every, key=lambda parts: sum(parts.values()))


def _stage_parts(stage: Stage, train: TrainConfig, parallel: ParallelConfig, *, compiled: bool) -> dict[str, int]:
    held = stage.held(parallel.shard)
    n_tokens = train.micro_batch_size * train.seq_len
    activations = n_tokens * _activation_bytes_per_token(stage, train, parallel)
    if not compiled:
        activations = uncompiled_activation_bytes(activations, train.precision)
    c = VALUE_BYTES[train.precision].product
    is_copied = train.precision != "fp32" and parallel.shard == 1
    return {
        "weights": FP32_BYTES * held,
        "compute_copy": c * stage.products if is_copied else 0,
        "gradients": _gradient_bytes(stage, train, parallel, held, activations),
        "optimizer": 2 * (2 if train.optimizer_state == "bf16" else FP32_BYTES) * held,
        "activations": activations,
        "logits": logits_bytes(stage.model, n_tokens, train.precision, parallel.tensor) if stage.is_last else 0,
        "buffers": _buffer_bytes(stage, train, parallel),
        "context": CONTEXT_BYTES,
    }


def micro_batches_of_a_rank(train: TrainConfig, parallel: ParallelConfig) -> int:
    """Micro-batches of one update that one data rank computes, one after another."""
    return max(1, train.tokens_per_step // (parallel.data_ranks * train.micro_batch_size * train.seq_len))


def micro_batches_in_flight(stage: Stage, train: TrainConfig, parallel: ParallelConfig) -> int:
    """Micro-batches whose activations a stage holds at once under 1F1B: as many as there are stages from it on."""
    return min(micro_batches_of_a_rank(train, parallel), parallel.pipeline - stage.number)


def _activation_bytes_per_token(stage: Stage, train: TrainConfig, parallel: ParallelConfig) -> int:
    """Of all micro-batches in flight; the layer at work is of one of them."""
    shapes = (stage.model, train.seq_len, train.precision, train.recompute, parallel.tensor)
    kept = stage.n_layers * kept_bytes_per_token(*shapes)
    return micro_batches_in_flight(stage, train, parallel) * kept + at_work_bytes_per_token(*shapes)


def _gradient_bytes(stage: Stage, train: TrainConfig, parallel: ParallelConfig, held: int, activations: int) -> int:
    """Sums of gradients. Sharded: fp32 throughout; with a pipeline they are summed before they are shared out.

    Else until the second of an update's micro-batches has made them fp32, gradients are in the products' format. Those of
    a single micro-batch take the place of activations: they count as far as they are larger; so do those that the ranks
    of a replicated layout make fp32 to sum them.
    """
    if parallel.shard > 1:
        return FP32_BYTES * (held if parallel.pipeline == 1 else stage.parameters)
    micro_batches = micro_batches_of_a_rank(train, parallel)
    if micro_batches >= 3:
        return FP32_BYTES * held
    c = VALUE_BYTES[train.precision].product
    if micro_batches == 2:
        return max(c * held, FP32_BYTES * held - activations)
    head = FP32_BYTES * stage.table if stage.is_last else 0  # made before all others
    last = FP32_BYTES if parallel.replicate > 1 else c
    return max(head, last * held - activations)


def _buffer_bytes(stage: Stage, train: TrainConfig, parallel: ParallelConfig) -> int:
    """What is there for a while only: gathered weights, their gradients on the way, the stream between stages."""
    n_bytes = 0
    if parallel.shard > 1:
        n_bytes += _gathered_bytes(stage, VALUE_BYTES[train.precision].product, parallel)
    if parallel.pipeline > 1:
        tokens_bytes = train.micro_batch_size * train.seq_len * VALUE_BYTES[train.precision].stream
        stream = tokens_bytes * stage.model.dim // parallel.tensor
        if not stage.is_last:  # what was sent waits for its backward pass; two gradients may be on their way
            n_bytes += (micro_batches_in_flight(stage, train, parallel) + 2) * stream
        if not stage.is_first:  # the gradient that goes back
            n_bytes += stream
    return n_bytes


def _gathered_bytes(stage: Stage, product_bytes: int, parallel: ParallelConfig) -> int:
    """Sharded weights where they are whole for a while, and gradients that are not yet shared out.

    Embedding and head are gathered in fp32 from the forward pass on; the loss makes a 16-bit copy of the head and its fp32
    gradient. Of the layers two are there at a time in the products' format, one with its gradient, which is made fp32 to
    be summed. In a pipeline all layers stay.
    """
    c, layer = product_bytes, stage.layer_matrices
    n_bytes = FP32_BYTES * stage.tables
    if stage.is_last:
        n_bytes += (c if c < FP32_BYTES else 0) * stage.table
    if parallel.pipeline > 1:
        return n_bytes + c * (stage.n_layers * layer + stage.projections)
    return n_bytes + FP32_BYTES * stage.table + 2 * c * layer + (c + FP32_BYTES) * layer
