from dataclasses import replace

import pytest

from tinyllama.devices import KINDS
from tinyllama.parallel.layout import AXES, ParallelConfig
from tinyllama.planning.communication import bandwidth, crosses_nodes, stride

A100 = KINDS["A100-40G"]  # 240 GB/s in a node of 8, 25 GB/s of network a device


def test_strides_by_hand():
    parallel = ParallelConfig(replicate=2, shard=3, tensor=4, pipeline=5)
    assert {axis: stride(parallel, axis) for axis in AXES} == {"tensor": 1, "shard": 4, "replicate": 12, "pipeline": 24}


@pytest.mark.parametrize(
    ("sizes", "axis", "gigabytes"),
    [
        ({"replicate": 8}, "replicate", 240),  # one node
        ({"replicate": 16}, "replicate", 200),  # two nodes, eight rings, each over its own adapter
        ({"replicate": 2, "tensor": 8}, "replicate", 25),  # one device a node in each group
        ({"replicate": 2, "tensor": 8}, "tensor", 240),
        ({"replicate": 2, "shard": 8}, "replicate", 25),
        ({"replicate": 2, "shard": 8}, "shard", 240),
        ({"replicate": 4, "shard": 4}, "replicate", 50),  # two of four in a node
        ({"replicate": 4, "shard": 4}, "shard", 240),
        ({"pipeline": 2, "shard": 8}, "pipeline", 25),
        ({"pipeline": 2, "shard": 4}, "pipeline", 240),
    ],
)
def test_the_slowest_link_by_hand(sizes: dict[str, int], axis: str, gigabytes: int):
    assert bandwidth(ParallelConfig.model_validate(sizes), axis, A100) == gigabytes * 1e9


def test_smaller_nodes():
    parallel = ParallelConfig(shard=8)
    assert not crosses_nodes(parallel, "shard", A100)
    assert bandwidth(parallel, "shard", replace(A100, gpus_per_node=4)) == 100e9
    assert bandwidth(parallel, "shard", replace(A100, gpus_per_node=1)) == 25e9
    # groups of 3 do not divide a node of 8: one of them lies across
    assert crosses_nodes(ParallelConfig(replicate=8, tensor=3), "tensor", A100)


def test_a_fast_network_is_no_faster_than_the_link():
    assert bandwidth(ParallelConfig(shard=16), "shard", replace(A100, network_bandwidth=1e12)) == 240e9
