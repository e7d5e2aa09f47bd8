"""Triton: one pass of AdamW over a parameter: gradient scaled, moments and master updated, 16-bit copy written."""

from typing import Any

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

BLOCK = 4096


def update(
    master: Tensor,
    copy: Tensor | None,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    state: Tensor,
    lr: float,
    rates: Any,  # optimizer.Rates
) -> None:
    """Update in place. `state` (4,) fp32: gradient's scale, whether the update is off, 1 - beta1^t, 1 - beta2^t."""
    n = master.numel()
    kernel: Any = _update  # Triton's `kernel[grid](...)` has no types
    kernel[(triton.cdiv(n, BLOCK),)](
        master, master if copy is None else copy, gradient.contiguous(), *moments, state,
        lr, 1 - lr * rates.weight_decay, rates.beta1, rates.beta2, rates.eps, n, copy is not None, BLOCK, num_warps=8,
    )  # fmt: skip


def accumulate(total: Tensor, new: Tensor) -> None:
    """total += new, in place; total in fp32, new in 16 bits."""
    n = total.numel()
    kernel: Any = _accumulate
    kernel[(triton.cdiv(n, BLOCK),)](total, new.contiguous(), n, BLOCK, num_warps=8)


@triton.jit
def _accumulate(total_ptr, new_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    total = tl.load(total_ptr + at, mask=inside) + tl.load(new_ptr + at, mask=inside).to(tl.float32)
    tl.store(total_ptr + at, total, mask=inside)


@triton.jit
def _update(
    master_ptr, copy_ptr, gradient_ptr, first_ptr, second_ptr, state_ptr,
    lr, keep, beta1, beta2, eps, n, HAS_COPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.load(state_ptr + 1) != 0:
        return
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    gradient = tl.load(gradient_ptr + at, mask=inside).to(tl.float32) * tl.load(state_ptr)
    first = tl.load(first_ptr + at, mask=inside).to(tl.float32)
    second = tl.load(second_ptr + at, mask=inside).to(tl.float32)
    weight = tl.load(master_ptr + at, mask=inside) * keep
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient * gradient
    correction1, correction2 = tl.load(state_ptr + 2), tl.load(state_ptr + 3)
    weight -= lr / correction1 * first / (tl.sqrt(second / correction2) + eps)
    tl.store(first_ptr + at, first.to(first_ptr.dtype.element_ty), mask=inside)
    tl.store(second_ptr + at, second.to(second_ptr.dtype.element_ty), mask=inside)
    tl.store(master_ptr + at, weight, mask=inside)
    if HAS_COPY:
        tl.store(copy_ptr + at, weight.to(copy_ptr.dtype.element_ty), mask=inside)
