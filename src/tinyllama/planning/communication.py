"""Bytes and seconds of what the ranks send each other, axis by axis.

Collectives are rings: an all-gather or a reduce-scatter of b bytes over n ranks sends b (n - 1) / n from each device, an
all-reduce twice that (Thakur et al. 2005). A transfer takes its bytes over the slowest link of the ring, and a start; a
gather or scatter also moves the rank's own b / n from one place of its memory to another.
"""

import math
from typing import NamedTuple

from tinyllama.devices import GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.activations import VALUE_BYTES
from tinyllama.planning.stage_sizes import Stage
from tinyllama.train.train_config import UpdateConfig


# How fast the ranks along an axis of a layout reach each other.
#
# Ranks are numbered with tensor innermost, then shard, replicate, pipeline, so that those who say most to each other are
# neighbours: with 8 devices a node, `tensor` 8 stays inside it.
def stride(parallel: ParallelConfig, axis: str) -> int:
    """How far apart, in ranks, neighbours along the axis are."""
    outermost_first = list(parallel.sizes)
    return math.prod(parallel.sizes[inner] for inner in outermost_first[outermost_first.index(axis) + 1 :])


def crosses_nodes(parallel: ParallelConfig, axis: str, gpu: GpuKind) -> bool:
    """Whether some group of ranks along the axis is spread over more than one node."""
    if parallel.world_size <= gpu.gpus_per_node:
        return False
    return gpu.gpus_per_node % (stride(parallel, axis) * parallel.sizes[axis]) != 0


def bandwidth(parallel: ParallelConfig, axis: str, gpu: GpuKind) -> float:
    """Bytes a second that each device of a ring along the axis sends.

    Inside a node that is the link's. A ring over several nodes is as many rings as it has devices in a node, and each
    leaves the node through the adapter of another of them: with k devices a node it has k adapters, up to the link.
    """
    if not crosses_nodes(parallel, axis, gpu):
        return gpu.link_bandwidth
    in_a_node = min(parallel.sizes[axis], max(1, gpu.gpus_per_node // stride(parallel, axis)))
    return min(gpu.link_bandwidth, gpu.network_bandwidth * in_a_node)


FP32_BYTES = 4
COLLECTIVE_SECONDS = 40e-6  # a collective or a message takes no less; measured between two H200
OWN_BYTES_PER_SECOND = 1.2e12  # at which collectives move a rank's own share; fitted to gathers and scatters there

# Collectives of one layer and micro-batch along the tensor axis, each of the stream: gathered before q k v and before
# gate and up, scattered after o and after down; mirrored in the backward pass; and those of what is computed again.
TENSOR_COLLECTIVES = {"none": 8, "selective": 9, "full": 12}


class Transfer(NamedTuple):
    """Seconds of a transfer, and of the part of it that no computation can hide."""

    total: float
    alone: float


class ShardTransfers(NamedTuple):
    """Seconds in which layers' weights are gathered and their gradients summed, of a micro-batch, or of a step where that is
    done once a step; and of a step's transfers of embedding and head."""

    gathers: float
    sums: float
    tables: float

    @property
    def layers(self) -> float:
        return self.gathers + self.sums


def ring_seconds(n_bytes: float, ranks: int, bytes_per_second: float) -> float:
    """Seconds of an all-gather or reduce-scatter over `ranks` of `n_bytes`, the whole of what is gathered or scattered."""
    if ranks == 1:
        return 0.0
    own = n_bytes / ranks
    return (n_bytes - own) / bytes_per_second + own / OWN_BYTES_PER_SECOND + COLLECTIVE_SECONDS


def all_reduce_seconds(n_bytes: float, ranks: int, bytes_per_second: float) -> float:
    """Seconds of an all-reduce over `ranks` of `n_bytes`, in their place."""
    if ranks == 1:
        return 0.0
    return 2 * n_bytes * (ranks - 1) / ranks / bytes_per_second + COLLECTIVE_SECONDS


def replicate_seconds(stage: Stage, parallel: ParallelConfig, gpu: GpuKind) -> Transfer:
    """Sums over the copies of the network: an all-reduce of fp32 gradients, of a shard's where they are sharded.

    The backward pass makes the embedding's last, so nothing hides that.
    """
    speed = bandwidth(parallel, "replicate", gpu)

    def all_reduce(parameters: int) -> float:
        return all_reduce_seconds(FP32_BYTES * parameters / parallel.shard, parallel.replicate, speed)

    return Transfer(all_reduce(stage.parameters), all_reduce(stage.table if stage.is_first else stage.layer_matrices))


def shard_seconds(stage: Stage, parallel: ParallelConfig, gpu: GpuKind, precision: str) -> ShardTransfers:
    """Sharded weights: those of layers are gathered in the products' format, before their forward and before their backward
    pass or once a step, embedding and head in fp32; fp32 gradients are reduced and scattered."""
    speed = bandwidth(parallel, "shard", gpu)

    def seconds(value_bytes: int, parameters: int) -> float:
        return ring_seconds(value_bytes * parameters, parallel.shard, speed) if parameters else 0.0

    def of_layers(value_bytes: int) -> float:
        return stage.n_layers * seconds(value_bytes, stage.layer_matrices) + seconds(value_bytes, stage.projections)

    times = 1 if parallel.gathers_once else 2
    gathers = times * of_layers(VALUE_BYTES[precision].product)
    return ShardTransfers(gathers, of_layers(FP32_BYTES), 2 * seconds(FP32_BYTES, stage.tables))


def tensor_seconds(stage: Stage, parallel: ParallelConfig, gpu: GpuKind, train: UpdateConfig) -> float:
    """Seconds of one micro-batch's transfers along the tensor axis; products wait for all of them.

    Beside the layers': the embedding's sum is scattered, its gradient gathered, the head's input gathered and its gradient
    scattered; the loss over slices of the vocabulary is summed as three fp32 numbers a token.
    """
    if parallel.tensor == 1:
        return 0.0
    model, speed = stage.model, bandwidth(parallel, "tensor", gpu)
    n_tokens = train.micro_batch_size * train.seq_len
    c = VALUE_BYTES[train.precision].product
    stream = ring_seconds(c * n_tokens * model.dim, parallel.tensor, speed)
    embedded = ring_seconds(c * n_tokens * model.embedding_dim, parallel.tensor, speed)
    seconds = stage.n_layers * TENSOR_COLLECTIVES[train.recompute] * stream
    seconds += 2 * embedded * (stage.is_first + stage.is_last)
    if stage.is_last:
        seconds += all_reduce_seconds(3 * FP32_BYTES * n_tokens, parallel.tensor, speed)
    return seconds


def pipeline_seconds(model: LlamaConfig, parallel: ParallelConfig, gpu: GpuKind, train: UpdateConfig) -> float:
    """Seconds in which one micro-batch's stream goes to the next stage and its gradient comes back; not hidden."""
    if parallel.pipeline == 1:
        return 0.0
    n_values = train.micro_batch_size * train.seq_len * model.dim // parallel.tensor
    n_bytes = VALUE_BYTES[train.precision].stream * n_values
    return 2 * (n_bytes / bandwidth(parallel, "pipeline", gpu) + COLLECTIVE_SECONDS)
