"""The gradients of one update, summed over its micro-batches, and over the ranks, in fp32.

A 16-bit gradient is taken as it is, which loses nothing; the second one of an update makes the sum fp32. So a step of one
micro-batch needs no fp32 gradients, and accumulation never adds in 16 bits.

With lanes (see parallel/reductions.py) each lane's micro-batches are summed so, and the lanes join in the tree's order.
"""

from functools import partial

import torch
from torch import Tensor, nn

from tinyllama.model.packed_llama import PackedParameter
from tinyllama.parallel.layout import Layout
from tinyllama.parallel.ranks import Ranks
from tinyllama.parallel.reductions import BucketedSum, LaneTree, fp32, is_sharded
from tinyllama.train.optimizer import optimizer_kernel


class Gradients:
    """Takes the gradient of each packed parameter's leaf away from it, as soon as the backward pass has made it.

    A step: for each micro-batch the backward pass and `end`; then `join`, and `clear` after the update. `totals` are
    figures of the same step that are summed in the same way.
    """

    def __init__(
        self,
        packed: list[PackedParameter],
        head: int = 0,
        layout: Layout = Layout(ranks=1, micro_batches=1),  # noqa: B008 (frozen)
        ranks: Ranks | None = None,
    ) -> None:
        """`head`: number of the parameter whose gradient, or a part of it, is not made by the backward pass but set."""
        self._sums: list[Tensor | None] = [None] * len(packed)
        self._totals: Tensor | None = None
        self._ranks, self._layout = ranks or Ranks(), layout
        self._ended = 0
        self._times = [0] * len(packed)  # that a sum's addition was the last one of its micro-batch
        self._tree = LaneTree() if layout.lanes else None
        self._over_ranks = self._sums_over_copies(packed)
        # A tied head's sum is final only when the backward pass has come to the embedding.
        self._final_when_set = head if head > 0 else None
        for number, parameter in enumerate(packed):
            if not is_sharded(parameter.leaf):  # else FSDP takes it
                parameter.leaf.register_post_accumulate_grad_hook(partial(self._take, number))

    def _sums_over_copies(self, packed: list[PackedParameter]) -> BucketedSum | None:
        """What sums over the ranks while the backward pass goes on."""
        if self._ranks.is_alone or self._layout.lanes:
            return None
        return BucketedSum([parameter.master.numel() for parameter in packed], packed[0].master.itemsize)

    def end(self, totals: Tensor) -> None:
        """A micro-batch is done; `totals` are its figures, one row."""
        self._ended += 1
        self._totals = totals if self._totals is None else self._totals + totals
        if self._tree is not None and self._ended % self._layout.micro_batches_per_lane == 0:
            lane = [*self.all(), self._totals]
            self._sums, self._totals = [None] * len(self._sums), None
            self._tree.push(lane)

    def join(self) -> Tensor:
        """Sum over the lanes and the ranks; returns the totals."""
        if self._tree is not None:
            sums = self._tree.result()
            self._ranks.tree_sum(sums)
            self._sums, self._totals = [*sums[:-1]], sums[-1]
        assert self._totals is not None
        if self._over_ranks is not None:
            with self._ranks.waiting():
                self._sums = [*self._over_ranks.finish()]
            self._totals = self._ranks.sum(self._totals)
        return self._totals

    def _take(self, number: int, leaf: nn.Parameter) -> None:
        new, leaf.grad = leaf.grad, None
        assert new is not None
        total = self._sums[number]
        if total is None:
            total = new
        elif total.dtype in (torch.bfloat16, torch.float16):
            total = total.float().add_(new)
        elif optimizer_kernel is not None and total.is_cuda and new.dtype != total.dtype:
            optimizer_kernel.accumulate(total, new)
        else:
            total.add_(new)
        self._keep(number, total, is_final=True)

    def __getitem__(self, number: int) -> Tensor | None:
        return self._sums[number]

    def __setitem__(self, number: int, total: Tensor) -> None:
        """Put a sum that was made elsewhere, the former one in it, in its place."""
        self._keep(number, total, is_final=number == self._final_when_set)

    def _keep(self, number: int, total: Tensor, *, is_final: bool) -> None:
        self._sums[number] = total
        self._times[number] += is_final
        if self._over_ranks is not None and self._times[number] == self._layout.micro_batches_per_rank:
            self._sums[number] = None
            with self._ranks.waiting():
                self._over_ranks.ready(number, fp32(total))

    def all(self) -> list[Tensor]:
        """The sums, in the order of the packed parameters."""
        return [total for total in self._sums if total is not None]

    def norm(self) -> Tensor:
        """Norm over all sums together, a 0-dimensional tensor in fp32 at least: nothing waits for the device."""
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for total in self.all():
            by_dtype.setdefault(total.dtype, []).append(total)
        norms: list[Tensor] = []
        for dtype, totals in by_dtype.items():
            exact_dtype = torch.promote_types(dtype, torch.float32)
            norms += torch._foreach_norm(totals, dtype=exact_dtype)  # pyright: ignore[reportPrivateImportUsage] (one launch for all)
        return torch.linalg.vector_norm(torch.stack(norms))

    def clear(self) -> None:
        """Let go of all sums, after an update."""
        self._sums = [None] * len(self._sums)
        self._times = [0] * len(self._sums)
        self._totals, self._ended = None, 0
