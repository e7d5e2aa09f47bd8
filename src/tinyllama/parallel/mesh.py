"""Where a rank stands in the layout: its coordinate along each axis, and the ranks that it works with along one."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tinyllama.parallel.layout import ParallelConfig


class RankMesh:
    """One DeviceMesh of all ranks, axes as in `ParallelConfig.sizes`; made by all ranks together, after they connected."""

    def __init__(self, parallel: ParallelConfig, device: torch.device, rank: int) -> None:
        self.parallel = parallel
        sizes = parallel.sizes
        self.devices: DeviceMesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self.coordinates = parallel.coordinates(rank)
        self._ends = self._group_of_ends()

    def size(self, axis: str) -> int:
        """Ranks along an axis."""
        return self.parallel.sizes[axis]

    def at(self, axis: str) -> int:
        """This rank's place along an axis."""
        return self.coordinates[axis]

    def group(self, axis: str) -> ProcessGroup:
        """The ranks along an axis through this one."""
        return self.devices.get_group(axis)

    @property
    def data(self) -> DeviceMesh:
        """The ranks that share micro-batches, for FSDP: copies x shards, or shards alone."""
        return self.devices["replicate", "shard"] if self.size("replicate") > 1 else self.devices["shard"]

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

    def _group_of_ends(self) -> ProcessGroup | None:
        """Of the first and the last stage on this line of stages; every rank makes every group, in the same order."""
        stages = self.size("pipeline")
        if stages == 1:
            return None
        lines = self.devices.mesh.reshape(stages, -1).T.tolist()  # ranks of each line of stages
        found: Any = None
        for line in lines:
            group = dist.new_group([line[0], line[-1]])
            if dist.get_rank() in (line[0], line[-1]):
                found = group
        return found
