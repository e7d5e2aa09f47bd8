"""How one update's gradients are summed over ranks: not at all, in lanes of a fixed order, or over the axes of the mesh."""

import torch
import torch.distributed as dist
from torch import Tensor

from tinyllama.model.packed_llama import PackedParameter
from tinyllama.parallel.full_tensors import FullTensors
from tinyllama.parallel.layout import Layout
from tinyllama.parallel.ranks import Ranks
from tinyllama.parallel.reductions import BucketedSum, LaneTree, flat_views, fp32, is_sharded, local

Sums = list[Tensor | None]  # one for each packed parameter


class GradientReduction:
    """Of one process: its own sums are the result. The base of the others."""

    is_begun_early = False  # whether `begin` takes a parameter's sum as soon as the last micro-batch has added to it

    def begin(self, number: int, total: Tensor) -> None:
        """Start to sum parameter `number` over the ranks, beside the rest of the backward pass."""
        raise NotImplementedError

    def end_micro_batch(self, sums: Sums, totals: Tensor) -> bool:
        """After a micro-batch's backward pass: True when its sums were taken, and the next ones start from nothing."""
        return False

    def join(self, sums: Sums, totals: Tensor | None) -> tuple[Sums, Tensor]:
        """The sums over all ranks, and those of the loss and counts."""
        assert totals is not None
        return sums, totals

    def norm(self, sums: Sums) -> Tensor:
        """Norm of all gradients of the network together, (), in fp32 at least."""
        return torch.linalg.vector_norm(_norms([total for total in sums if total is not None]))


class LaneReduction(GradientReduction):
    """Sums in one order for every number of ranks (see reductions.py): micro-batches in lanes, lanes in a binary tree."""

    def __init__(self, micro_batches_per_lane: int, ranks: Ranks) -> None:
        self._each, self._ranks = micro_batches_per_lane, ranks
        self._in_lane = 0
        self._tree = LaneTree()

    def end_micro_batch(self, sums: Sums, totals: Tensor) -> bool:
        self._in_lane += 1
        if self._in_lane < self._each:
            return False
        self._in_lane = 0
        self._tree.push([*(total for total in sums if total is not None), totals])
        return True

    def join(self, sums: Sums, totals: Tensor | None) -> tuple[Sums, Tensor]:
        joined = self._tree.result()
        self._ranks.tree_sum(joined)
        return [*joined[:-1]], joined[-1]


class MeshReduction(GradientReduction):
    """Sums over the axes of the mesh.

    Over replicas in buckets, beside the backward pass. Sharded parameters' gradients FSDP has summed. What several
    tensor ranks hold whole (the norms) is summed over them, and a tied matrix over the first and the last stage.
    """

    def __init__(self, packed: list[PackedParameter], full_tensors: FullTensors) -> None:
        self._packed, self._full_tensors, self._mesh = packed, full_tensors, full_tensors.mesh
        self._over_replicas: BucketedSum | None = None
        if self._mesh.size("replicate") > 1 and self._mesh.size("shard") == 1:
            sizes, width = [parameter.master.numel() for parameter in packed], packed[0].master.itemsize
            group = self._mesh.group("replicate") if self._mesh.parallel.is_model_parallel else None
            self._over_replicas = BucketedSum(sizes, width, group)
        self.is_begun_early = self._over_replicas is not None
        self._counted = [number for number, parameter in enumerate(packed) if full_tensors.is_counted(parameter)]
        self._is_whole = [not full_tensors.is_sliced(parameter) for parameter in packed]

    def begin(self, number: int, total: Tensor) -> None:
        assert self._over_replicas is not None
        self._over_replicas.ready(number, fp32(total))

    def join(self, sums: Sums, totals: Tensor | None) -> tuple[Sums, Tensor]:
        if self._over_replicas is not None:
            sums = [*self._over_replicas.finish()]
        sharded = [number for number, parameter in enumerate(self._packed) if is_sharded(parameter.leaf)]
        for number in sharded:
            leaf = self._packed[number].leaf
            assert leaf.grad is not None
            sums[number], leaf.grad = local(leaf.grad), None
        if sharded:
            plain = [number for number in range(len(self._packed)) if number not in sharded]
            for axis in ("shard", "replicate"):
                self._sum(sums, plain, axis)
        self._sum(sums, [number for number, is_whole in enumerate(self._is_whole) if is_whole], "tensor")
        for number, parameter in enumerate(self._packed):
            if self._full_tensors.ties_stages and parameter.names == ("embedding.weight",):
                total = sums[number] = fp32(_of(sums, number))
                self._mesh.sum_over_ends(total)
        assert totals is not None
        dist.all_reduce(totals)
        return sums, totals

    def norm(self, sums: Sums) -> Tensor:
        """The same on every rank; a parameter that several ranks hold is counted once."""
        if not self._mesh.parallel.is_model_parallel:
            return super().norm(sums)
        counted = [_of(sums, number) for number in self._counted]
        dtype = torch.promote_types(_of(sums, 0).dtype, torch.float32)
        squares = torch.zeros((), dtype=dtype, device=self._packed[0].master.device)
        if counted:
            squares = _norms(counted).square().sum().to(dtype)
        dist.all_reduce(squares)
        return squares.sqrt()

    @torch.no_grad()
    def _sum(self, sums: Sums, numbers: list[int], axis: str) -> None:
        """Sum some gradients, all small, over the ranks along an axis, in one buffer."""
        if not numbers or self._mesh.size(axis) == 1:
            return
        totals = [fp32(_of(sums, number)) for number in numbers]
        flat, views = flat_views(totals, 1)
        torch._foreach_copy_(views, totals)  # pyright: ignore[reportPrivateImportUsage]
        self._mesh.sum(flat, axis)
        for number, view in zip(numbers, views, strict=True):
            sums[number] = view


def gradient_reduction(
    packed: list[PackedParameter], layout: Layout, ranks: Ranks, full_tensors: FullTensors
) -> GradientReduction:
    """What the layout of a run asks for."""
    if layout.lanes:
        return LaneReduction(layout.micro_batches_per_lane, ranks)
    return GradientReduction() if ranks.is_alone else MeshReduction(packed, full_tensors)


def _of(sums: Sums, number: int) -> Tensor:
    total = sums[number]
    assert total is not None
    return total


def _norms(totals: list[Tensor]) -> Tensor:
    """Norm of each tensor, (n,), in fp32 at least: nothing waits for the device."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for total in totals:
        by_dtype.setdefault(total.dtype, []).append(total)
    norms: list[Tensor] = []
    for dtype, group in by_dtype.items():
        norms += torch._foreach_norm(group, dtype=torch.promote_types(dtype, torch.float32))  # pyright: ignore[reportPrivateImportUsage] (one launch for all)
    return torch.stack(norms)
