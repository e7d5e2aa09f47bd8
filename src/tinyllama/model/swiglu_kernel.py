"""Triton kernels: SwiGLU's activation silu(gate) * up and its gradient, each in one pass at the speed of memory.

It is a custom operation because torch.compile would compute silu(gate) * up again in the backward pass and write it to
memory: 17% more bytes than the gradient needs.

Letters: N tokens, F ffn_dim.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

ROWS, WIDEST = 4, 1024  # of a program's tile


@torch.library.custom_op("tinyllama::swiglu", mutates_args=())
def swiglu(gate_up: Tensor) -> Tensor:  # (N, 2 F) -> (N, F)
    """silu(gate) * up of rows that hold gate, then up; computed in fp32, rounded once."""
    N, F = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(N, F)
    kernel: Any = _swiglu_forward  # Triton's `kernel[grid](...)` has no types
    block = _block(F)
    kernel[(triton.cdiv(N, ROWS), triton.cdiv(F, block))](gate_up, out, N, F, ROWS, block, num_warps=4)
    return out


@swiglu.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.custom_op("tinyllama::swiglu_backward", mutates_args=())
def swiglu_backward(gradient: Tensor, gate_up: Tensor) -> Tensor:  # (N, F), (N, 2 F) -> (N, 2 F)
    """The gradient of `gate_up` from that of `swiglu`'s result."""
    N, F = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty_like(gate_up)
    kernel: Any = _swiglu_backward
    block = _block(F)
    kernel[(triton.cdiv(N, ROWS), triton.cdiv(F, block))](gradient, gate_up, out, N, F, ROWS, block, num_warps=4)
    return out


@swiglu_backward.register_fake
def _(gradient: Tensor, gate_up: Tensor) -> Tensor:
    return torch.empty_like(gate_up)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> Tensor:
    return swiglu_backward(gradient.contiguous(), *ctx.saved_tensors)


swiglu.register_autograd(_differentiate, setup_context=_keep)


def _block(F: int) -> int:
    """The largest power of two that divides F, if it is at least 128; else the widest tile. At most WIDEST."""
    divisor = F & -F
    return min(WIDEST, divisor) if divisor >= 128 else min(WIDEST, triton.next_power_of_2(F))


@triton.jit
def _swiglu_forward(x_ptr, out_ptr, N, F: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    columns = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (rows < N) & (columns < F)
    gate = tl.load(x_ptr + rows * 2 * F + columns, mask=inside).to(tl.float32)
    up = tl.load(x_ptr + rows * 2 * F + F + columns, mask=inside).to(tl.float32)
    tl.store(out_ptr + rows * F + columns, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(d_ptr, x_ptr, out_ptr, N, F: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    columns = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (rows < N) & (columns < F)
    d = tl.load(d_ptr + rows * F + columns, mask=inside).to(tl.float32)
    gate = tl.load(x_ptr + rows * 2 * F + columns, mask=inside).to(tl.float32)
    up = tl.load(x_ptr + rows * 2 * F + F + columns, mask=inside).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    d_gate = d * up * sigmoid * (1 + gate * (1 - sigmoid))
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + rows * 2 * F + columns, d_gate.to(dtype), mask=inside)
    tl.store(out_ptr + rows * 2 * F + F + columns, (d * gate * sigmoid).to(dtype), mask=inside)
