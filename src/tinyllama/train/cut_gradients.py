"""Gradients where ranks hold parts of the network: summed over copies, and where several ranks hold the same values.

Sharded parameters' gradients are summed by FSDP while the backward pass goes on, all others here.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from tinyllama.model.packed_llama import PackedParameter
from tinyllama.parallel.full_tensors import FullTensors
from tinyllama.parallel.layout import Layout
from tinyllama.parallel.ranks import Ranks
from tinyllama.parallel.reductions import BucketedSum, flat_views, fp32, is_sharded, local
from tinyllama.train.gradients import Gradients


class CutGradients(Gradients):
    """`Gradients` of one rank's part. The global norm counts each parameter once."""

    def __init__(
        self, packed: list[PackedParameter], head: int | None, layout: Layout, ranks: Ranks, full_tensors: FullTensors,
        *, ties_stages: bool,
    ) -> None:  # fmt: skip
        """`ties_stages`: the head is the embedding's matrix, and they are on different ranks."""
        assert ranks.mesh is not None
        self._packed, self._mesh, self._full_tensors = packed, ranks.mesh, full_tensors
        self._counted = [number for number, parameter in enumerate(packed) if full_tensors.is_counted(parameter)]
        self._ties_stages = ties_stages
        self._is_whole = [not full_tensors.is_sliced(parameter) for parameter in packed]
        super().__init__(packed, -1 if head is None else head, layout, ranks)

    def _sums_over_copies(self, packed: list[PackedParameter]) -> BucketedSum | None:
        if self._mesh.size("replicate") == 1 or self._mesh.size("shard") > 1:
            return None
        sizes, width = [parameter.master.numel() for parameter in packed], packed[0].master.itemsize
        return BucketedSum(sizes, width, self._mesh.group("replicate"))

    def join(self) -> Tensor:
        """As `Gradients.join`, over all axes; the totals are those of all ranks."""
        sharded = [number for number, parameter in enumerate(self._packed) if is_sharded(parameter.leaf)]
        if self._over_ranks is not None:
            self._sums = [*self._over_ranks.finish()]
        for number in sharded:
            leaf = self._packed[number].leaf
            assert leaf.grad is not None
            self._sums[number], leaf.grad = local(leaf.grad), None
        if sharded:
            plain = [number for number in range(len(self._packed)) if number not in sharded]
            for axis in ("shard", "replicate"):
                self._sum(plain, axis)
        self._sum([number for number, is_whole in enumerate(self._is_whole) if is_whole], "tensor")
        for number, parameter in enumerate(self._packed):
            if self._ties_stages and parameter.names == ("embedding.weight",):
                total = self._sums[number] = fp32(self._of(number))
                self._mesh.sum_over_ends(total)
        assert self._totals is not None
        dist.all_reduce(self._totals)
        return self._totals

    def norm(self) -> Tensor:
        """Norm over all parameters of the network, the same on every rank."""
        counted = [fp32(self._of(number)) for number in self._counted]
        dtype = self._totals.dtype if self._totals is not None else torch.float32
        squares = torch.zeros((), dtype=dtype, device=self._packed[0].master.device)
        if counted:
            norms = torch._foreach_norm(counted)  # pyright: ignore[reportPrivateImportUsage] (one launch for all)
            squares = torch.stack(norms).square().sum().to(dtype)
        dist.all_reduce(squares)
        return squares.sqrt()

    def _of(self, number: int) -> Tensor:
        total = self._sums[number]
        assert total is not None
        return total

    @torch.no_grad()
    def _sum(self, numbers: list[int], axis: str) -> None:
        """Sum some gradients, all small, over the ranks along an axis, in one piece."""
        if not numbers or self._mesh.size(axis) == 1:
            return
        totals = [fp32(self._of(number)) for number in numbers]
        flat, views = flat_views(totals, 1)
        torch._foreach_copy_(views, totals)  # pyright: ignore[reportPrivateImportUsage]
        self._mesh.sum(flat, axis)
        for number, view in zip(numbers, views, strict=True):
            self._sums[number] = view
