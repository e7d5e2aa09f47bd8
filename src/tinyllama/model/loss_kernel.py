"""Triton kernel: cross-entropy of each row of logits; the gradient overwrites the row. Reference: `loss_gradient`.

One program reads one row once into registers (V up to MAX_BLOCK); a longer row is read twice, mostly from cache.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from tinyllama.model.loss import IGNORED

DTYPES = (torch.bfloat16, torch.float16)
MAX_BLOCK = 32_768


def loss_in_place(
    logits: Tensor, targets: Tensor, z_loss: float, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, squared log-partition and correctness of each row, (n,) each; logits (n, V) become their gradient."""
    n, V = logits.shape
    loss, z = (torch.empty(n, device=logits.device, dtype=torch.float32) for _ in range(2))
    correct = torch.empty(n, device=logits.device, dtype=torch.int64)
    block = min(MAX_BLOCK, triton.next_power_of_2(V))
    scale = torch.ones((), device=logits.device) if scale is None else scale
    kernel: Any = _rows  # Triton's `kernel[grid](...)` has no types
    kernel[(n,)](
        logits, targets, loss, z, correct, scale, z_loss, V, logits.stride(0), IGNORED, block, block >= V,
        num_warps=min(32, max(4, block // 1024)),
    )  # fmt: skip
    return loss, z, correct


@triton.jit
def _rows(
    logits_ptr, targets_ptr, loss_ptr, z_ptr, correct_ptr, scale_ptr, z_loss, stride,
    V: tl.constexpr, IGNORED_TARGET: tl.constexpr, BLOCK: tl.constexpr, IS_WHOLE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    target = tl.load(targets_ptr + row)
    is_counted = target != IGNORED_TARGET
    wanted = tl.load(logits_ptr + tl.where(is_counted, target, 0)).to(tl.float32)
    columns = tl.arange(0, BLOCK)
    block = tl.load(logits_ptr + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
    largest = tl.max(block, axis=0)
    total = tl.sum(tl.exp(block - largest), axis=0)
    if not IS_WHOLE:  # running maximum and sum (Milakov and Gimelshein 2018)
        for start in range(BLOCK, V, BLOCK):
            inside = start + columns < V
            block = tl.load(logits_ptr + start + columns, mask=inside, other=float("-inf")).to(tl.float32)
            larger = tl.maximum(largest, tl.max(block, axis=0))
            total = total * tl.exp(largest - larger) + tl.sum(tl.exp(block - larger), axis=0)
            largest = larger
    log_partition = largest + tl.log(total)
    tl.store(loss_ptr + row, tl.where(is_counted, log_partition - wanted, 0.0))
    tl.store(z_ptr + row, tl.where(is_counted, log_partition * log_partition, 0.0))
    tl.store(correct_ptr + row, tl.where(is_counted & (wanted >= largest), 1, 0))
    tl.debug_barrier()  # every thread reads the row's target before it is overwritten
    scale = tl.where(is_counted, tl.load(scale_ptr), 0.0)
    factor = scale * (1 + 2 * z_loss * log_partition)
    if IS_WHOLE:
        gradient = tl.exp(block - log_partition) * factor - tl.where(columns == target, scale, 0.0)
        tl.store(logits_ptr + columns, gradient.to(logits_ptr.dtype.element_ty), mask=columns < V)
    else:
        for start in range(0, V, BLOCK):
            inside = start + columns < V
            block = tl.load(logits_ptr + start + columns, mask=inside, other=float("-inf")).to(tl.float32)
            gradient = tl.exp(block - log_partition) * factor - tl.where(start + columns == target, scale, 0.0)
            tl.store(logits_ptr + start + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)
