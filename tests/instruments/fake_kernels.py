"""Stand-ins for a GPU's kernels in a layer and in the loss: they compute nothing, and make and keep tensors of like shapes.

What the kernels keep for the backward pass: attention its queries, keys, values, output and log-sum-exp; SwiGLU its input;
addition with norm the sum and 1 / rms of each row. Compiled products in fp8 keep their input in one byte; but that of o is
attention's output, and that of down is computed again from gate and up. Letters as in packed_llama.py; N tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn


@contextmanager
def on_layers(packed_llama: ModuleType) -> Iterator[None]:
    """Layers of the module use these."""
    norm = SimpleNamespace(MAX_DIM=1 << 30, add_rms_norm=_AddNorm.apply)
    with (
        mock.patch.object(packed_llama, "norm_kernel", norm),
        mock.patch.object(packed_llama, "swiglu_kernel", SimpleNamespace(swiglu=_SwiGLU.apply)),
        mock.patch.object(packed_llama, "attend_causal", _Attention.apply),
        mock.patch.object(packed_llama.PackedLayer, "_uses_kernels", _always),
    ):
        yield


@contextmanager
def on_loss(loss_gradient: ModuleType) -> Iterator[None]:
    """The loss makes its gradient in the logits' place, and adds the head's in fp32."""
    with (
        mock.patch.object(loss_gradient, "_loss_in_place", _loss_in_place),
        mock.patch.object(loss_gradient, "_add_matmul", _add_matmul),
    ):
        yield


def use_fp8(network: nn.Module) -> None:
    """The layers' products are in fp8."""
    layers: Any = network.get_submodule("layers")
    for layer in layers:
        for product, keep in (("qkv", "short"), ("o", "input"), ("gate_up", "short"), ("down", "nothing")):
            module = getattr(layer, product)
            module.forward = partial(_fp8_product, module, keep)


def _fp8_product(module: nn.Linear, keep: str, rows: Tensor) -> Tensor:
    return _Fp8Product.apply(rows, module.weight, keep)


def _loss_in_place(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    row = logits.new_empty(len(logits), dtype=torch.float32)
    return row, torch.empty_like(row), torch.empty_like(row, dtype=torch.bool)


def _add_matmul(total: Tensor | None, logits: Tensor, hidden: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[1], hidden.shape[1], dtype=torch.float32) if total is None else total


def _always(layer: Any, x: Tensor) -> bool:
    return True  # a mock of the library would keep x


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The norm before the first layer, as it is when compiled."""
    return _Norm.apply(x, weight, dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Any:
        total, normed = torch.empty_like(x), torch.empty_like(x)
        inverse_rms = torch.empty(len(x), dtype=torch.float32, device=x.device)
        ctx.save_for_backward(total, inverse_rms, weight)
        return total, normed, inverse_rms

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total, _, weight = ctx.saved_tensors
        both = torch.empty_like(total)
        return both, both, torch.empty_like(weight), None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        inverse_rms = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
        ctx.save_for_backward(x, inverse_rms, weight)
        return torch.empty_like(x, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, _, weight = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:  # (N, 2 F) -> (N, F)
        ctx.save_for_backward(gate_up)
        return gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return torch.empty_like(ctx.saved_tensors[0])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, H, T, K)
        B, H, T, K = q.shape
        out = q.new_empty(B, T, H, K).transpose(1, 2)  # as cuDNN and FlashAttention lay it
        ctx.save_for_backward(q, k, v, out, q.new_empty(B, H, T, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return tuple(torch.empty_like(value) for value in ctx.saved_tensors[:3])


class _Fp8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, keep: str) -> Tensor:  # (N, I) and (O, I) -> (N, O)
        short, _short_weight = _in_one_byte(rows), _in_one_byte(weight)
        ctx.save_for_backward(weight, *({"short": [short], "input": [rows], "nothing": []}[keep]))
        ctx.again = None if keep != "nothing" else rows.shape
        return rows.new_empty(*rows.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        weight, *kept = ctx.saved_tensors
        (gradient,) = gradients
        if ctx.again is not None:
            kept = [gradient.new_empty(ctx.again)]
        _at_work = [_in_one_byte(value) for value in (gradient, weight, *kept)]
        return gradient.new_empty(*gradient.shape[:-1], weight.shape[1]), torch.empty_like(weight), None


def _in_one_byte(values: Tensor) -> Tensor:
    return torch.empty_like(values, dtype=torch.uint8)
