"""Seconds of communication between ranks, by parallel axis.

Collectives are rings: an all-gather or a reduce-scatter of b bytes over n ranks sends b (n - 1) / n from each device, an
all-reduce twice that (Thakur et al. 2005). A transfer takes a fixed latency plus its bytes over the slowest link of the
ring; a gather or scatter also copies the rank's own b / n inside its memory.
"""

import math
from typing import NamedTuple

from tinyllama.devices import GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.activations import VALUE_BYTES
from tinyllama.planning.stage_sizes import Stage
from tinyllama.train.train_config import UpdateConfig

FP32_BYTES = 4
COLLECTIVE_SECONDS = 40e-6  # minimum of a collective or a message; measured between two H200
LOCAL_COPY_BYTES_PER_SECOND = 1.2e12  # speed at which collectives copy a rank's own share; fitted between two H200

# Collectives of the residual stream in one layer and micro-batch along the tensor axis: gathered before q k v and before
# gate and up, scattered after o and after down; the same in the backward pass; and those that are recomputed.
TENSOR_COLLECTIVES = {"none": 8, "selective": 9, "full": 12}


def stride(parallel: ParallelConfig, axis: str) -> int:
    """Distance, in ranks, between neighbours along the axis.

    Ranks are numbered with tensor innermost, then shard, replicate, pipeline, so that ranks that communicate most are
    neighbours: with 8 devices per node, `tensor` 8 stays inside a node.
    """
    outermost_first = list(parallel.sizes)
    return math.prod(parallel.sizes[inner] for inner in outermost_first[outermost_first.index(axis) + 1 :])


def crosses_nodes(parallel: ParallelConfig, axis: str, gpu: GpuKind) -> bool:
    """Whether a group of ranks along the axis spans more than one node."""
    if parallel.world_size <= gpu.gpus_per_node:
        return False
    return gpu.gpus_per_node % (stride(parallel, axis) * parallel.sizes[axis]) != 0


def bandwidth(parallel: ParallelConfig, axis: str, gpu: GpuKind) -> float:
    """Bytes per second that each device of a ring along the axis sends.

    Inside a node this is the link's bandwidth. A ring over several nodes runs as k rings, for its k devices in each node,
    and each of them leaves the node through another network adapter: k times the network's bandwidth, up to the link's.
    """
    if not crosses_nodes(parallel, axis, gpu):
        return gpu.link_bandwidth
    in_a_node = min(parallel.sizes[axis], max(1, gpu.gpus_per_node // stride(parallel, axis)))
    return min(gpu.link_bandwidth, gpu.network_bandwidth * in_a_node)


class Transfer(NamedTuple):
    """Seconds of a transfer, and the seconds of it that cannot overlap with computation."""

    total: float
    exposed: float


class ShardTransfers(NamedTuple):
    """Seconds to gather the layers' weights and to reduce their gradients, per micro-batch, or per step where weights are
    gathered once per step; and to transfer the embedding and the head, per step."""

    gathers: float
    reductions: float
    tables: float

    @property
    def layers(self) -> float:
        """Seconds of both for the layers."""
        return self.gathers + self.reductions


def ring_seconds(n_bytes: float, ranks: int, bytes_per_second: float) -> float:
    """Seconds of an all-gather or reduce-scatter over `ranks`; `n_bytes`: size of the full tensor."""
    if ranks == 1:
        return 0.0
    own = n_bytes / ranks
    return (n_bytes - own) / bytes_per_second + own / LOCAL_COPY_BYTES_PER_SECOND + COLLECTIVE_SECONDS


def all_reduce_seconds(n_bytes: float, ranks: int, bytes_per_second: float) -> float:
    """Seconds of an in-place all-reduce of `n_bytes` over `ranks`."""
    if ranks == 1:
        return 0.0
    return 2 * n_bytes * (ranks - 1) / ranks / bytes_per_second + COLLECTIVE_SECONDS


def replicate_seconds(stage: Stage, parallel: ParallelConfig, gpu: GpuKind) -> Transfer:
    """All-reduce of fp32 gradients (of a shard, if sharded) over the replicas.

    The backward pass computes the embedding's gradient last, so that its transfer overlaps with nothing.
    """
    speed = bandwidth(parallel, "replicate", gpu)

    def all_reduce(parameters: int) -> float:
        return all_reduce_seconds(FP32_BYTES * parameters / parallel.shard, parallel.replicate, speed)

    return Transfer(all_reduce(stage.parameters), all_reduce(stage.table if stage.is_first else stage.layer_matrices))


def shard_seconds(stage: Stage, parallel: ParallelConfig, gpu: GpuKind, precision: str) -> ShardTransfers:
    """Sharded weights: layers are gathered in the matmuls' format, before their forward and their backward pass or once per
    step, embedding and head in fp32; fp32 gradients are reduce-scattered."""
    speed = bandwidth(parallel, "shard", gpu)

    def seconds(value_bytes: int, parameters: int) -> float:
        return ring_seconds(value_bytes * parameters, parallel.shard, speed) if parameters else 0.0

    def of_layers(value_bytes: int) -> float:
        return stage.n_layers * seconds(value_bytes, stage.layer_matrices) + seconds(value_bytes, stage.projections)

    times = 1 if parallel.gathers_once else 2
    gathers = times * of_layers(VALUE_BYTES[precision].compute)
    return ShardTransfers(gathers, of_layers(FP32_BYTES), 2 * seconds(FP32_BYTES, stage.tables))


def tensor_seconds(stage: Stage, parallel: ParallelConfig, gpu: GpuKind, train: UpdateConfig) -> float:
    """Seconds of one micro-batch's transfers along the tensor axis; matmuls wait for all of them.

    In addition to the layers, the embedding's sum is scattered and its gradient gathered, the head's input is gathered and
    its gradient scattered; the loss over slices of the vocabulary is reduced as three fp32 numbers per token.
    """
    if parallel.tensor == 1:
        return 0.0
    model, speed = stage.model, bandwidth(parallel, "tensor", gpu)
    n_tokens = train.micro_batch_size * train.seq_len
    c = VALUE_BYTES[train.precision].compute
    stream = ring_seconds(c * n_tokens * model.dim, parallel.tensor, speed)
    embedded = ring_seconds(c * n_tokens * model.embedding_dim, parallel.tensor, speed)
    seconds = stage.n_layers * TENSOR_COLLECTIVES[train.recompute] * stream
    seconds += 2 * embedded * (stage.is_first + stage.is_last)
    if stage.is_last:
        seconds += all_reduce_seconds(3 * FP32_BYTES * n_tokens, parallel.tensor, speed)
    return seconds


def pipeline_seconds(model: LlamaConfig, parallel: ParallelConfig, gpu: GpuKind, train: UpdateConfig) -> float:
    """Seconds to send one micro-batch's residual stream to the next stage and its gradient back; without overlap."""
    if parallel.pipeline == 1:
        return 0.0
    n_values = train.micro_batch_size * train.seq_len * model.dim // parallel.tensor
    n_bytes = VALUE_BYTES[train.precision].residual * n_values
    return 2 * (n_bytes / bandwidth(parallel, "pipeline", gpu) + COLLECTIVE_SECONDS)
