"""A rank's coordinate along each axis of the layout, and its process group along each."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tinyllama.parallel.layout import ParallelConfig


class RankMesh:
    """The ranks as a grid, axes as in `ParallelConfig.sizes`; of one process, a grid of size 1.

    A layout that slices or shards the network needs process groups along its axes: `connect` makes them.
    """

    def __init__(self, parallel: ParallelConfig, rank: int = 0) -> None:
        self.parallel, self.rank = parallel, rank
        self.coordinates = parallel.coordinates(rank)
        self._devices: DeviceMesh | None = None
        self._ends: ProcessGroup | None = None

    def connect(self, device: torch.device) -> None:
        """Make the process groups; all ranks call it together, after torch.distributed was initialised."""
        if not self.parallel.is_model_parallel:
            return
        sizes = self.parallel.sizes
        self._devices = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self._ends = self._group_of_ends(self._devices)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def world_size(self) -> int:
        return self.parallel.world_size

    def size(self, axis: str) -> int:
        """Ranks along an axis."""
        return self.parallel.sizes[axis]

    def at(self, axis: str) -> int:
        """This rank's coordinate along an axis."""
        return self.coordinates[axis]

    def group(self, axis: str) -> ProcessGroup:
        """The ranks along an axis through this one."""
        assert self._devices is not None
        return self._devices.get_group(axis)

    @property
    def data(self) -> DeviceMesh:
        """The ranks that share micro-batches, for FSDP: replicas x shards, or shards alone."""
        assert self._devices is not None
        return self._devices["replicate", "shard"] if self.size("replicate") > 1 else self._devices["shard"]

    @property
    def is_first_stage(self) -> bool:
        return self.at("pipeline") == 0

    @property
    def is_last_stage(self) -> bool:
        return self.at("pipeline") == self.size("pipeline") - 1

    def sum(self, tensor: Tensor, axis: str) -> None:
        """Sum over the ranks along an axis, in place."""
        if self.size(axis) > 1:
            dist.all_reduce(tensor, group=self.group(axis))

    def sum_over_ends(self, tensor: Tensor) -> None:
        """Sum over the first and the last stage, in place; the stages between have nothing to do."""
        if self._ends is not None and (self.is_first_stage or self.is_last_stage):
            dist.all_reduce(tensor, group=self._ends)

    def broadcast(self, tensor: Tensor) -> None:
        """Give rank 0's values to all ranks, in place."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=0)

    def _group_of_ends(self, devices: DeviceMesh) -> ProcessGroup | None:
        """Of the first and the last stage on this line of stages; every rank makes every group, in the same order."""
        stages = self.size("pipeline")
        if stages == 1:
            return None
        lines = devices.mesh.reshape(stages, -1).T.tolist()  # ranks of each line of stages
        found: Any = None
        for line in lines:
            group = dist.new_group([line[0], line[-1]])
            if self.rank in (line[0], line[-1]):
                found = group
        return found
