"""Bytes that one device needs, by part, in any layout of the four axes.

Weights are fp32 and copied once in the products' format. `replicate`: every device holds all of it. `shard`: weights,
gradients and moments are divided, and the layer at work and the next one are gathered (FSDP, Zhao et al. 2023). `tensor`:
matrices are sliced, and so is the stream between them (Korthikanti et al. 2022). `pipeline`: each device has some of the
layers, and under 1F1B (Narayanan et al. 2021) the first stage keeps the activations of as many micro-batches as there
are stages.
"""

from typing import NamedTuple

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.activations import LOSS_CHUNK_TOKENS, VALUE_BYTES, Activations, chunk_bytes
from tinyllama.planning.stage_sizes import ONE_DEVICE, Stage, stages
from tinyllama.train.train_config import UpdateConfig

FP32_BYTES = 4
CONTEXT_BYTES = 820_000_000  # of the driver; measured on an H100
NCCL_BYTES = 1_000_000_000  # buffers of a group of ranks; measured between two H200: 0.9 to 1.2 GB
WORKSPACE_BYTES = 2**26  # of matrix products; measured on an H100
ALLOCATOR_SHARE = 0.03  # lost between blocks; measured on an H100: 1% to 8%
USABLE_SHARE = 0.97  # of the memory; it may be more that is lost


def memory_parts(
    model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig = ONE_DEVICE, *, on_gpu: bool = True
) -> dict[str, int]:
    """Bytes of the device that needs most, by part; their sum is what it has in use at its peak."""
    return fullest_stage(model, train, parallel, on_gpu=on_gpu)[1]


def fullest_stage(
    model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig = ONE_DEVICE, *, on_gpu: bool = True
) -> tuple[Stage, dict[str, int]]:
    """The pipeline's stage whose devices need most, and their bytes by part.

    `train` says the micro-batch, the number formats and what is recomputed; a step's micro-batches are shared by
    `parallel`'s data ranks. What PyTorch counts as allocated is the sum without `allocator` and `context`.
    """
    of_stages = stages(model, parallel, train.recompute)
    every = [(stage, _stage_parts(stage, train, parallel, on_gpu=on_gpu)) for stage in of_stages]
    stage, parts = max(every, key=lambda found: sum(found[1].values()))
    if not on_gpu:
        return stage, parts | {"allocator": 0, "context": 0}
    context = CONTEXT_BYTES + NCCL_BYTES * groups_of_ranks(parallel)
    return stage, parts | {"allocator": int(ALLOCATOR_SHARE * sum(parts.values())), "context": context}


def groups_of_ranks(parallel: ParallelConfig) -> int:
    """In which one rank is: of all ranks, of each axis where the network is cut, and of the first and last stage."""
    if not parallel.is_model_parallel:
        return int(parallel.world_size > 1)
    return 1 + sum(size > 1 for size in parallel.sizes.values()) + (parallel.pipeline > 1)


def allocated_bytes(parts: dict[str, int]) -> int:
    """What PyTorch's `max_memory_allocated` should say of a device with these parts."""
    return sum(parts.values()) - parts["allocator"] - parts["context"]


def micro_batches_of_a_rank(train: UpdateConfig, parallel: ParallelConfig) -> int:
    """Micro-batches of one update that one data rank computes, one after another."""
    return max(1, train.tokens_per_step // (parallel.data_ranks * train.micro_batch_size * train.seq_len))


def micro_batches_in_flight(stage: Stage, train: UpdateConfig, parallel: ParallelConfig) -> int:
    """Micro-batches whose activations a stage holds at once under 1F1B: as many as there are stages from it on."""
    return min(micro_batches_of_a_rank(train, parallel), parallel.pipeline - stage.number)


def _stage_parts(stage: Stage, train: UpdateConfig, parallel: ParallelConfig, *, on_gpu: bool) -> dict[str, int]:
    held = stage.held(parallel.shard)
    is_copied = train.precision != "fp32" and parallel.shard == 1
    parts = {
        "weights": FP32_BYTES * held,
        "compute_copy": VALUE_BYTES[train.precision].product * stage.products if is_copied else 0,
        "optimizer": 2 * (2 if train.optimizer_state == "bf16" else FP32_BYTES) * held,
        **_peak(stage, train, parallel, on_gpu=on_gpu),
    }
    parts["buffers"] += _stream_bytes(stage, train, parallel) + (WORKSPACE_BYTES if on_gpu else 0)
    return parts


def _peak(stage: Stage, train: UpdateConfig, parallel: ParallelConfig, *, on_gpu: bool) -> dict[str, int]:
    """Gradients, activations, the loss's own and gathered weights at whichever moment they are most: in a micro-batch's
    loss, where its backward pass begins, in its last layer, or at its end.

    A stage holds as many micro-batches as it can until the step's last one has begun. Then they become fewer, but the sums
    of gradients may still grow, which the first two micro-batches make: so two more are looked at.
    """
    micro_batches = micro_batches_of_a_rank(train, parallel)
    full = micro_batches - micro_batches_in_flight(stage, train, parallel)
    numbers = range(full, min(full + 3, micro_batches))
    every = [_peak_in(stage, train, parallel, number, on_gpu=on_gpu) for number in numbers]
    return max(every, key=lambda parts: sum(parts.values()))


def _peak_in(
    stage: Stage, train: UpdateConfig, parallel: ParallelConfig, number: int, *, on_gpu: bool
) -> dict[str, int]:
    """The same in the backward pass of the step's micro-batch `number`, from 0."""
    is_compiled = train.compile == "on" or (train.compile == "auto" and on_gpu)
    of_token = Activations(stage.model, train, parallel.tensor, is_compiled, on_gpu)
    n_tokens = train.micro_batch_size * train.seq_len
    micro_batches = micro_batches_of_a_rank(train, parallel)
    in_flight = min(micro_batches - number, micro_batches_in_flight(stage, train, parallel))
    of_one = n_tokens * stage.n_layers * of_token.kept()
    waiting = (in_flight - 1) * of_one
    kept = waiting + of_one + (n_tokens * of_token.after_layers() if stage.is_last else 0)
    before, after = _gradient_bytes(stage, train, parallel, number)
    at_work = n_tokens * of_token.at_work()
    # The embedding's gradient is made last; added to the former ones it is there twice.
    embedding = FP32_BYTES * stage.table if stage.is_first and parallel.shard == 1 else 0
    is_added = number > 0
    whole = _gathered_bytes(stage, train, parallel)
    moments = [
        (before, kept + at_work, 0, whole.backward),
        (after - (0 if is_added else embedding), waiting + at_work + n_tokens * of_token.kept(), 0, whole.end),
        (after + (embedding if is_added else 0), waiting, 0, whole.end),
    ]
    if stage.is_last:
        loss, left = _loss_bytes(stage.model, train, parallel)
        if parallel.shard == 1 and before == 0:
            before = FP32_BYTES * stage.table  # the head's gradient is made by the loss
        moments[0] = (before, kept + at_work, left, whole.backward)
        moments.append((before, kept, loss, whole.loss))
    names = ("gradients", "activations", "loss", "buffers")
    return dict(zip(names, max(moments, key=sum), strict=True))


def _loss_bytes(model: LlamaConfig, train: UpdateConfig, parallel: ParallelConfig) -> tuple[int, int]:
    """What is there in the loss, and after it: logits, and gradients of the hidden states (N, E).

    The gradients of the micro-batch before are let go of only when new ones are made. With a tensor axis hidden states
    and gradients are whole on each rank while the loss is made, and then sliced.
    """
    n_tokens, t = train.micro_batch_size * train.seq_len, parallel.tensor
    hidden = VALUE_BYTES[train.precision].product * n_tokens * model.embedding_dim
    chunks = chunk_bytes(model, n_tokens, train.precision, t)
    if t > 1:
        return chunks + 2 * hidden, hidden // t
    is_first = micro_batches_of_a_rank(train, parallel) == 1
    return chunks + hidden * (1 if is_first else 2), hidden


def _gradient_bytes(stage: Stage, train: UpdateConfig, parallel: ParallelConfig, number: int) -> tuple[int, int]:
    """Sums of gradients before and after the step's micro-batch `number`, from 0.

    The first micro-batch's are in their weights' formats: 16 bits where products read copies; from the second on all are
    fp32, and so are those that the ranks sum. Sharded ones are fp32 throughout; embedding's and head's, and of shards that
    are gathered once a step all, are summed over a step's micro-batches before they are shared out: by the last backward
    pass, in a pipeline after it.
    """
    exact = FP32_BYTES * stage.parameters
    if parallel.shard > 1:
        layers = stage.parameters - stage.tables - stage.norms
        held = exact - FP32_BYTES * (layers - layers // parallel.shard)
        sums = exact if parallel.gathers_once else held
        is_shared_out = parallel.pipeline == 1 and number + 1 == micro_batches_of_a_rank(train, parallel)
        return (sums if number > 0 else 0), held if is_shared_out else sums
    c = VALUE_BYTES[train.precision].product
    head = stage.table if stage.is_last else 0
    first = exact - (FP32_BYTES - c) * (stage.products - head)  # the loss makes the head's in fp32
    sums = (0, first, exact)
    is_summed = parallel.replicate > 1 and number + 1 == micro_batches_of_a_rank(train, parallel)
    return sums[min(number, 2)], exact if is_summed else sums[min(number + 1, 2)]


def _stream_bytes(stage: Stage, train: UpdateConfig, parallel: ParallelConfig) -> int:
    """The stream between the stages of a pipeline, on its way."""
    if parallel.pipeline == 1:
        return 0
    stream_bytes = train.micro_batch_size * train.seq_len * VALUE_BYTES[train.precision].stream
    stream = stream_bytes * stage.model.dim // parallel.tensor
    n_streams = 0 if stage.is_first else 1  # the gradient that goes back
    if not stage.is_last:  # what was sent waits for its backward pass; two gradients may be on their way
        n_streams += micro_batches_in_flight(stage, train, parallel) + 2
    return n_streams * stream


class Gathered(NamedTuple):
    """Bytes of sharded weights that are whole for a while and of gradients on their way, at three moments."""

    loss: int
    backward: int
    end: int


def _gathered_bytes(stage: Stage, train: UpdateConfig, parallel: ParallelConfig) -> Gathered:
    """Embedding and head are gathered in fp32 for a whole step; the loss makes a 16-bit copy of the head and its fp32
    gradient anew. Of the layers two are there at a time in the products' format, one with its gradient, which is made
    fp32 to be summed; those that copies of the network sum wait for the end of the backward pass. Gathered once a step, all
    layers stay until the last backward pass has come to them, in a pipeline until it has ended. At the end embedding's and
    head's gradients go in one piece.
    """
    if parallel.shard == 1:
        return Gathered(0, 0, 0)
    c, layer = VALUE_BYTES[train.precision].product, stage.layer_matrices
    tables = FP32_BYTES * stage.tables
    head_copy = c * stage.table if c < FP32_BYTES else 0
    head_gradient = FP32_BYTES * stage.table if stage.is_last else 0
    staying = c * (stage.n_layers * layer + stage.projections) if parallel.gathers_once else 0
    passing = 0 if parallel.gathers_once else 2 * c * layer
    # Of slices the fp32 logits are let go of before the first chunk makes the head's gradient.
    has_gradient = parallel.tensor == 1 or train.micro_batch_size * train.seq_len > LOSS_CHUNK_TOKENS
    in_loss = staying + tables + head_copy + (head_gradient if has_gradient else 0)
    if micro_batches_of_a_rank(train, parallel) > 1:
        head_gradient = 0  # the backward pass begins with adding it to the former ones
    in_backward = staying + tables + head_gradient + passing
    if parallel.pipeline > 1:
        return Gathered(in_loss, in_backward, staying + tables)
    summed = FP32_BYTES * stage.n_layers * layer // parallel.shard if parallel.replicate > 1 else 0  # until the end
    at_layer = (passing or c * layer) + (c + FP32_BYTES) * layer
    return Gathered(in_loss, in_backward, summed + tables + max(at_layer, tables))
