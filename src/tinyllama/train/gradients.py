"""The gradients of one update, summed over its micro-batches in fp32, and over the ranks by a `GradientReduction`.

A 16-bit gradient is kept as it is, which loses nothing; the second one of an update makes the sum fp32. So a step of one
micro-batch needs no fp32 gradients, and accumulation never adds in 16 bits.
"""

from functools import partial

import torch
from torch import Tensor, nn

from tinyllama.model.packed_llama import PackedParameter
from tinyllama.parallel.gradient_reduction import GradientReduction
from tinyllama.parallel.reductions import is_sharded
from tinyllama.train.optimizer import optimizer_kernel


class Gradients:
    """Takes the gradient of each packed parameter's leaf away from it, as soon as the backward pass has made it.

    A step: for each micro-batch its loss and counts to `add_totals`, the backward pass, `end_micro_batch`; then `join`,
    and `clear` after the update.
    """

    def __init__(
        self,
        packed: list[PackedParameter],
        head: int | None = 0,
        micro_batches: int = 1,
        reduction: GradientReduction | None = None,
    ) -> None:
        """`head`: number of the parameter whose gradient, or a share of it, is not made by the backward pass but set;
        None where another rank has it. `micro_batches` of this rank in a step. `reduction`: default of one process."""
        self._sums: list[Tensor | None] = [None] * len(packed)
        self._totals: Tensor | None = None
        self._micro_batches = micro_batches
        self._times = [0] * len(packed)  # that a sum's addition was the last one of its micro-batch
        self._reduction = reduction or GradientReduction()
        # A tied head's sum is final only when the backward pass has come to the embedding, entry 0.
        self._final_when_set = head or None
        for number, parameter in enumerate(packed):
            if not is_sharded(parameter.leaf):  # else FSDP takes it
                parameter.leaf.register_post_accumulate_grad_hook(partial(self._take, number))

    def add_totals(self, row: Tensor) -> None:
        """Add a micro-batch's loss and counts, one row, which are summed in the same way."""
        self._totals = row if self._totals is None else self._totals + row

    def end_micro_batch(self) -> None:
        """A micro-batch's backward pass is done."""
        assert self._totals is not None
        if self._reduction.end_micro_batch(self._sums, self._totals):
            self._sums, self._totals = [None] * len(self._sums), None

    def join(self) -> Tensor:
        """Sum over the ranks; returns the totals."""
        self._sums, self._totals = self._reduction.join(self._sums, self._totals)
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
        """Store a sum that was made elsewhere and includes the one before it."""
        self._keep(number, total, is_final=number == self._final_when_set)

    def _keep(self, number: int, total: Tensor, *, is_final: bool) -> None:
        self._sums[number] = total
        self._times[number] += is_final
        if self._reduction.is_begun_early and self._times[number] == self._micro_batches:
            self._sums[number] = None
            self._reduction.begin(number, total)

    def all(self) -> list[Tensor]:
        """The sums, in the order of the packed parameters."""
        return [total for total in self._sums if total is not None]

    def norm(self) -> Tensor:
        """Norm of all gradients of the network together, (), in fp32 at least; the same on every rank."""
        return self._reduction.norm(self._sums)

    def clear(self) -> None:
        """Free all sums, after an update."""
        self._sums = [None] * len(self._sums)
        self._times = [0] * len(self._sums)
        self._totals = None
