"""How fast the ranks along an axis of a layout reach each other.

Ranks are numbered with tensor innermost, then shard, replicate, pipeline, so that those who say most to each other are
neighbours: with 8 devices a node, `tensor` 8 stays inside it.
"""

import math

from tinyllama.devices import GpuKind
from tinyllama.parallel.layout import ParallelConfig


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
