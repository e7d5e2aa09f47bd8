"""Triton kernels: residual addition and RMSNorm, forward and backward, each in one pass over memory.

The backward pass also computes the gradient of the norm's weight, as one partial sum per program; torch.compile needs
another pass for it.

Letters: N tokens, D dim, P programs of the backward pass.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

MAX_DIM = 16_384  # a program holds whole rows
PROGRAMS_PER_MULTIPROCESSOR = 8


@torch.library.custom_op("tinyllama::add_rms_norm", mutates_args=())
def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x + delta, its RMSNorm (Zhang and Sennrich 2019), and 1 / rms of each row.

    x and delta (N, D) of one 16-bit format, weight (D,) in fp32; results (N, D), (N, D) and (N,) in fp32. The norm is of
    the rounded sum.
    """
    N, D = x.shape
    total, normed = torch.empty_like(x), torch.empty_like(x)
    inverse_rms = torch.empty(N, device=x.device, dtype=torch.float32)
    kernel: Any = _add_norm_forward  # Triton's `kernel[grid](...)` has no types
    block = triton.next_power_of_2(D)
    kernel[(N,)](x, delta, weight, total, normed, inverse_rms, eps, D, block, num_warps=_warps(block))
    return total, normed, inverse_rms


@add_rms_norm.register_fake
def _(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x), x.new_empty(x.shape[0], dtype=torch.float32)


@torch.library.custom_op("tinyllama::add_rms_norm_backward", mutates_args=())
def add_rms_norm_backward(
    d_total: Tensor, d_normed: Tensor, total: Tensor, inverse_rms: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of x and of delta, which is the same (N, D), and of weight, (D,) in fp32."""
    N, D = total.shape
    programs = min(
        N, PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(total.device).multi_processor_count
    )
    out = torch.empty_like(total)
    partial_sums = torch.empty(programs, D, device=total.device, dtype=torch.float32)
    kernel: Any = _add_norm_backward
    block = triton.next_power_of_2(D)
    kernel[(programs,)](
        d_total, d_normed, total, inverse_rms, weight, out, partial_sums, N, D, block, programs, num_warps=_warps(block)
    )
    return out, partial_sums.sum(0)


@add_rms_norm_backward.register_fake
def _(d_total: Tensor, d_normed: Tensor, total: Tensor, inverse_rms: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(total), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
    total, _, inverse_rms = output
    ctx.save_for_backward(total, inverse_rms, inputs[2])


def _differentiate(
    ctx: Any, d_total: Tensor, d_normed: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, None]:
    both, d_weight = add_rms_norm_backward(d_total.contiguous(), d_normed.contiguous(), *ctx.saved_tensors)
    return both, both, d_weight, None


add_rms_norm.register_autograd(_differentiate, setup_context=_keep)


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))


@triton.jit
def _add_norm_forward(
    x_ptr, delta_ptr, weight_ptr, total_ptr, normed_ptr, inverse_ptr, eps, D: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    x = tl.load(x_ptr + row * D + columns, mask=inside, other=0.0).to(tl.float32)
    delta = tl.load(delta_ptr + row * D + columns, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    dtype = total_ptr.dtype.element_ty
    rounded = (x + delta).to(dtype)
    tl.store(total_ptr + row * D + columns, rounded, mask=inside)
    total = rounded.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(total * total, axis=0) / D + eps)
    tl.store(inverse_ptr + row, inverse)
    tl.store(normed_ptr + row * D + columns, (total * inverse * weight).to(dtype), mask=inside)


@triton.jit
def _add_norm_backward(
    d_total_ptr, d_normed_ptr, total_ptr, inverse_ptr, weight_ptr, out_ptr, partial_sums_ptr, N,
    D: tl.constexpr, BLOCK: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    d_weight = tl.zeros((BLOCK,), tl.float32)
    for row in range(program, N, PROGRAMS):
        at = row * D + columns
        d_total = tl.load(d_total_ptr + at, mask=inside, other=0.0).to(tl.float32)
        d_normed = tl.load(d_normed_ptr + at, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(inverse_ptr + row)
        unit = tl.load(total_ptr + at, mask=inside, other=0.0).to(tl.float32) * inverse
        d_weight += d_normed * unit
        d_unit = d_normed * weight
        shared = tl.sum(d_unit * unit, axis=0) / D
        out = d_total + (d_unit - unit * shared) * inverse
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(partial_sums_ptr + program * D + columns, d_weight, mask=inside)
