"""Bytes that one device needs, by category, in any layout of the four axes.

Weights are fp32 with one copy in the matmuls' format. `replicate`: every device holds everything. `shard`: weights,
gradients and moments are divided, and the current and the next layer are gathered (FSDP, Zhao et al. 2023). `tensor`:
matrices and the residual stream are sliced (Korthikanti et al. 2022). `pipeline`: each device has some of the layers, and
under 1F1B (Narayanan et al. 2021) the first stage holds the activations of as many micro-batches as there are stages.
"""

from typing import NamedTuple

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.activations import LOSS_CHUNK_TOKENS, VALUE_BYTES, Activations, chunk_bytes
from tinyllama.planning.stage_sizes import ONE_DEVICE, Stage, stages
from tinyllama.train.train_config import UpdateConfig

FP32_BYTES = 4
CONTEXT_BYTES = 820_000_000  # driver context; measured on an H100
NCCL_BYTES = 1_000_000_000  # buffers of a process group; measured between two H200: 0.9 to 1.2 GB
WORKSPACE_BYTES = 2**26  # matmul workspace; measured on an H100
ALLOCATOR_SHARE = 0.03  # fragmentation; measured on an H100: 1% to 8%
USABLE_SHARE = 0.97  # of the memory, because fragmentation may be larger


def memory_parts(
    model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig = ONE_DEVICE, *, on_gpu: bool = True
) -> dict[str, int]:
    """Bytes of the device that needs most, by category; their sum is its peak memory."""
    return fullest_stage(model, train, parallel, on_gpu=on_gpu)[1]


def fullest_stage(
    model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig = ONE_DEVICE, *, on_gpu: bool = True
) -> tuple[Stage, dict[str, int]]:
    """The pipeline stage whose devices need most memory, and their bytes by category.

    `train` has the micro-batch size, number formats and recomputation; the data ranks of `parallel` share a step's
    micro-batches. PyTorch's allocated memory is the sum without `allocator` and `context`.
    """
    every_stage = stages(model, parallel, train.recompute)
    every = [(stage, _stage_parts(stage, train, parallel, on_gpu=on_gpu)) for stage in every_stage]
    stage, parts = max(every, key=lambda found: sum(found[1].values()))
    if not on_gpu:
        return stage, parts | {"allocator": 0, "context": 0}
    context = CONTEXT_BYTES + NCCL_BYTES * process_groups(parallel)
    return stage, parts | {"allocator": int(ALLOCATOR_SHARE * sum(parts.values())), "context": context}


def process_groups(parallel: ParallelConfig) -> int:
    """Process groups of one rank: all ranks, each parallel axis of a sharded model, and the first and last stage."""
    if not parallel.is_model_parallel:
        return int(parallel.world_size > 1)
    return 1 + sum(size > 1 for size in parallel.sizes.values()) + (parallel.pipeline > 1)


def allocated_bytes(parts: dict[str, int]) -> int:
    """The expected value of PyTorch's `max_memory_allocated`, from the bytes by category."""
    return sum(parts.values()) - parts["allocator"] - parts["context"]


def micro_batches_per_rank(train: UpdateConfig, parallel: ParallelConfig) -> int:
    """Micro-batches per step that one data rank computes, one after another."""
    return max(1, train.tokens_per_step // (parallel.data_ranks * train.micro_batch_size * train.seq_len))


def micro_batches_in_flight(stage: Stage, train: UpdateConfig, parallel: ParallelConfig) -> int:
    """Micro-batches whose activations a stage holds at once under 1F1B: the number of stages from it to the last."""
    return min(micro_batches_per_rank(train, parallel), parallel.pipeline - stage.number)


def _stage_parts(stage: Stage, train: UpdateConfig, parallel: ParallelConfig, *, on_gpu: bool) -> dict[str, int]:
    held = stage.held(parallel.shard)
    is_copied = train.precision != "fp32" and parallel.shard == 1
    parts = {
        "weights": FP32_BYTES * held,
        "compute_copy": VALUE_BYTES[train.precision].compute * stage.matmul_parameters if is_copied else 0,
        "optimizer": 2 * (2 if train.optimizer_state == "bf16" else FP32_BYTES) * held,
        **_peak(stage, train, parallel, on_gpu=on_gpu),
    }
    parts["buffers"] += _stream_bytes(stage, train, parallel) + (WORKSPACE_BYTES if on_gpu else 0)
    return parts


def _peak(stage: Stage, train: UpdateConfig, parallel: ParallelConfig, *, on_gpu: bool) -> dict[str, int]:
    """Gradients, activations, buffers of the loss and gathered weights at the time of their peak: in a micro-batch's loss,
    when its backward pass begins, in its last layer, or at its end.

    A stage holds the most micro-batches until the step's last one has begun. Then their number falls, but the accumulated
    gradients, which the first two micro-batches allocate, may still grow: so two more micro-batches are considered.
    """
    micro_batches = micro_batches_per_rank(train, parallel)
    full = micro_batches - micro_batches_in_flight(stage, train, parallel)
    numbers = range(full, min(full + 3, micro_batches))
    every = [_peak_in(stage, train, parallel, number, on_gpu=on_gpu) for number in numbers]
    return max(every, key=lambda parts: sum(parts.values()))


def _peak_in(
    stage: Stage, train: UpdateConfig, parallel: ParallelConfig, number: int, *, on_gpu: bool
) -> dict[str, int]:
    """The peak in the backward pass of the step's micro-batch `number`, from 0."""
    is_compiled = train.compile == "on" or (train.compile == "auto" and on_gpu)
    activations = Activations(stage.model, train, parallel.tensor, is_compiled, on_gpu)
    n_tokens = train.micro_batch_size * train.seq_len
    micro_batches = micro_batches_per_rank(train, parallel)
    in_flight = min(micro_batches - number, micro_batches_in_flight(stage, train, parallel))
    of_one = n_tokens * stage.n_layers * activations.saved()
    waiting = (in_flight - 1) * of_one
    saved = waiting + of_one + (n_tokens * activations.after_layers() if stage.is_last else 0)
    before, after = _gradient_bytes(stage, train, parallel, number)
    working = n_tokens * activations.working()
    # The embedding's gradient is computed last; until it is added to the accumulated one, both exist.
    embedding = FP32_BYTES * stage.table if stage.is_first and parallel.shard == 1 else 0
    is_added = number > 0
    gathered = _gathered_bytes(stage, train, parallel)
    moments = [
        (before, saved + working, 0, gathered.backward),
        (after - (0 if is_added else embedding), waiting + working + n_tokens * activations.saved(), 0, gathered.end),
        (after + (embedding if is_added else 0), waiting, 0, gathered.end),
    ]
    if stage.is_last:
        loss, left = _loss_bytes(stage.model, train, parallel)
        if parallel.shard == 1 and before == 0:
            before = FP32_BYTES * stage.table  # the loss computes the head's gradient
        moments[0] = (before, saved + working, left, gathered.backward)
        moments.append((before, saved, loss, gathered.loss))
    names = ("gradients", "activations", "loss", "buffers")
    return dict(zip(names, max(moments, key=sum), strict=True))


def _loss_bytes(model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig) -> tuple[int, int]:
    """Bytes during the loss and after it: logits, and gradients of the hidden states (N, E).

    The last micro-batch's gradients are freed only when new ones are allocated. With a tensor axis each rank has all hidden
    states and gradients during the loss, and slices of them after it.
    """
    n_tokens, t = train.micro_batch_size * train.seq_len, parallel.tensor
    hidden = VALUE_BYTES[train.precision].compute * n_tokens * model.embedding_dim
    chunks = chunk_bytes(model, n_tokens, train.precision, t)
    if t > 1:
        return chunks + 2 * hidden, hidden // t
    is_first = micro_batches_per_rank(train, parallel) == 1
    return chunks + hidden * (1 if is_first else 2), hidden


def _gradient_bytes(stage: Stage, train: UpdateConfig, parallel: ParallelConfig, number: int) -> tuple[int, int]:
    """Bytes of accumulated gradients before and after the step's micro-batch `number`, from 0.

    The first micro-batch's have the formats of their weights: 16 bits where matmuls read copies. From the second on all are
    fp32, and so are those that ranks reduce. Sharded gradients are always fp32. Those of embedding and head, and all of
    shards that are gathered once per step, are accumulated over the step before they are reduce-scattered: in the last
    backward pass, in a pipeline after it.
    """
    fp32_bytes = FP32_BYTES * stage.parameters
    if parallel.shard > 1:
        layers = stage.parameters - stage.tables - stage.norms
        held = fp32_bytes - FP32_BYTES * (layers - layers // parallel.shard)
        sums = fp32_bytes if parallel.gathers_once else held
        is_scattered = parallel.pipeline == 1 and number + 1 == micro_batches_per_rank(train, parallel)
        return (sums if number > 0 else 0), held if is_scattered else sums
    c = VALUE_BYTES[train.precision].compute
    head = stage.table if stage.is_last else 0
    first = fp32_bytes - (FP32_BYTES - c) * (stage.matmul_parameters - head)  # the loss computes the head's in fp32
    sums = (0, first, fp32_bytes)
    is_summed = parallel.replicate > 1 and number + 1 == micro_batches_per_rank(train, parallel)
    return sums[min(number, 2)], fp32_bytes if is_summed else sums[min(number + 1, 2)]


def _stream_bytes(stage: Stage, train: UpdateConfig, parallel: ParallelConfig) -> int:
    """Bytes of the residual stream and its gradient in transfer between pipeline stages."""
    if parallel.pipeline == 1:
        return 0
    stream_bytes = train.micro_batch_size * train.seq_len * VALUE_BYTES[train.precision].residual
    stream = stream_bytes * stage.model.dim // parallel.tensor
    n_streams = 0 if stage.is_first else 1  # the gradient that is sent back
    if not stage.is_last:  # sent values are held until their backward pass; two gradients may be in transfer
        n_streams += micro_batches_in_flight(stage, train, parallel) + 2
    return n_streams * stream


class Gathered(NamedTuple):
    """Bytes of gathered weights and of gradients in transfer, at three times."""

    loss: int
    backward: int
    end: int


def _gathered_bytes(stage: Stage, train: UpdateConfig, parallel: ParallelConfig) -> Gathered:
    """Embedding and head stay gathered in fp32 for a whole step; the loss allocates a 16-bit copy of the head and its fp32
    gradient. Two layers are gathered at a time in the matmuls' format, one with its gradient, which is cast to fp32 to be
    reduced; with replicas the reduced gradients stay until the end of the backward pass. Gathered once per step, all layers
    stay until the last backward pass has used them, in a pipeline until it ends. At the end the gradients of embedding and
    head are sent together.
    """
    if parallel.shard == 1:
        return Gathered(0, 0, 0)
    c, layer = VALUE_BYTES[train.precision].compute, stage.layer_matrices
    tables = FP32_BYTES * stage.tables
    head_copy = c * stage.table if c < FP32_BYTES else 0
    head_gradient = FP32_BYTES * stage.table if stage.is_last else 0
    staying = c * (stage.n_layers * layer + stage.projections) if parallel.gathers_once else 0
    passing = 0 if parallel.gathers_once else 2 * c * layer
    # With slices of the vocabulary, fp32 logits are freed before the first chunk computes the head's gradient.
    has_gradient = parallel.tensor == 1 or train.micro_batch_size * train.seq_len > LOSS_CHUNK_TOKENS
    in_loss = staying + tables + head_copy + (head_gradient if has_gradient else 0)
    if micro_batches_per_rank(train, parallel) > 1:
        head_gradient = 0  # the backward pass first adds it to the accumulated one
    in_backward = staying + tables + head_gradient + passing
    if parallel.pipeline > 1:
        return Gathered(in_loss, in_backward, staying + tables)
    summed = FP32_BYTES * stage.n_layers * layer // parallel.shard if parallel.replicate > 1 else 0  # until the end
    at_layer = (passing or c * layer) + (c + FP32_BYTES) * layer
    return Gathered(in_loss, in_backward, summed + tables + max(at_layer, tables))
