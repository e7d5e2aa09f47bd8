"""The gradients of one update, summed over its micro-batches in fp32.

A 16-bit gradient is taken as it is, which loses nothing; the second one of an update makes the sum fp32. So a step of one
micro-batch needs no fp32 gradients, and accumulation never adds in 16 bits.
"""

from functools import partial

import torch
from torch import Tensor, nn

from tinyllama.model.packed_llama import PackedParameter
from tinyllama.train.optimizer import optimizer_kernel


class Gradients:
    """Takes the gradient of each packed parameter's leaf away from it, as soon as the backward pass has made it."""

    def __init__(self, packed: list[PackedParameter]) -> None:
        self._sums: list[Tensor | None] = [None] * len(packed)
        for number, parameter in enumerate(packed):
            parameter.leaf.register_post_accumulate_grad_hook(partial(self._take, number))

    def _take(self, number: int, leaf: nn.Parameter) -> None:
        new, leaf.grad = leaf.grad, None
        assert new is not None
        total = self._sums[number]
        if total is None:
            self._sums[number] = new
        elif total.dtype in (torch.bfloat16, torch.float16):
            self._sums[number] = total.float().add_(new)
        elif optimizer_kernel is not None and total.is_cuda and new.dtype != total.dtype:
            optimizer_kernel.accumulate(total, new)
        else:
            total.add_(new)

    def __getitem__(self, number: int) -> Tensor | None:
        return self._sums[number]

    def __setitem__(self, number: int, total: Tensor) -> None:
        """Put a sum that was made elsewhere, the former one in it, in its place."""
        self._sums[number] = total

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
            exact = torch.promote_types(dtype, torch.float32)
            norms += torch._foreach_norm(totals, dtype=exact)  # pyright: ignore[reportPrivateImportUsage] (one launch for all)
        return torch.linalg.vector_norm(torch.stack(norms))

    def clear(self) -> None:
        """Let go of all sums, after an update."""
        self._sums = [None] * len(self._sums)
