"""fp8 matmuls of a layer that is sliced over tensor ranks, with the scales of the unsliced layer.

A tensor's scale comes from its largest value. A rank that holds a slice knows only the slice's largest value, so ranks
take the maximum over all: every value is then rounded as without slicing. Two kinds of matmuls
(parallel/tensor_parallel.py); what is the same on all ranks needs no exchange:

| matmul             | weight | input | gradient of the output |
|--------------------|--------|-------|------------------------|
| q, k, v; gate, up  | slice  | whole | slice                  |
| o; down            | slice  | slice | whole                  |

So ranks exchange one or two values per matmul, forward and, for the first kind, backward.
"""

from typing import Any

import torch
import torch.distributed._functional_collectives as collectives
from torch import Tensor, nn
from torchao.float8.float8_linear import Float8Linear
from torchao.float8.float8_training_tensor import GemmInputRole, LinearMMConfig, hp_tensor_and_scale_to_float8
from torchao.float8.float8_utils import amax_to_scale, tensor_to_amax

from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.tensor_parallel import TensorCollectives

SLICED_BY_ROWS = {"qkv": True, "o": False, "gate_up": True, "down": False}
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2  # of inputs and weights; of gradients


def slice_matmuls(network: PackedLlama, slices: TensorCollectives) -> None:
    """Replace each of torchao's layers by one for a slice, with the same weight."""
    for layer in network.layers:
        for name, is_row_sliced in SLICED_BY_ROWS.items():
            setattr(layer, name, Fp8Slice(getattr(layer, name), slices.group.group_name, is_row_sliced))


class Fp8Slice(nn.Module):
    """One of the matmuls of a slice, x W^T."""

    def __init__(self, linear: Float8Linear, group: Any, is_row_sliced: bool) -> None:
        """`group`: name of the ranks that hold slices of the same layer, which is what a compiled graph can hold."""
        super().__init__()
        self.weight = linear.weight
        self._settings: LinearMMConfig = linear.linear_mm_config
        self._group, self._is_row_sliced = group, is_row_sliced

    def forward(self, rows: Tensor) -> Tensor:
        """(N, I) to (N, O), the rows of all tokens."""
        return _SliceMatmul.apply(rows, self.weight, self._settings, self._group, self._is_row_sliced)


@torch._dynamo.allow_in_graph  # what torchao's tensors do inside is for the next tracer
class _SliceMatmul(torch.autograd.Function):
    """The scales found in the forward pass serve the backward pass too."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, settings: LinearMMConfig, group: Any, is_row_sliced: bool
    ) -> Tensor:
        if is_row_sliced:
            row_scale, (weight_scale,) = _scale(rows), _common_scales([weight], group)
        else:
            row_scale, weight_scale = _common_scales([rows, weight], group)
        ctx.save_for_backward(rows, row_scale, weight, weight_scale)
        ctx.settings, ctx.group, ctx.is_row_sliced = settings, group, is_row_sliced
        in_fp8 = hp_tensor_and_scale_to_float8(rows, row_scale, E4M3, settings, GemmInputRole.INPUT)
        return torch.mm(in_fp8, _fp8_weight(weight, weight_scale, settings).t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, row_scale, weight, weight_scale = ctx.saved_tensors
        (gradient,), settings = gradients, ctx.settings
        scale = _common_scales([gradient], ctx.group, E5M2)[0] if ctx.is_row_sliced else _scale(gradient, E5M2)
        in_fp8 = hp_tensor_and_scale_to_float8(gradient, scale, E5M2, settings, GemmInputRole.GRAD_OUTPUT)
        fp8_rows = hp_tensor_and_scale_to_float8(rows, row_scale, E4M3, settings, GemmInputRole.INPUT)
        of_rows = torch.mm(in_fp8, _fp8_weight(weight, weight_scale, settings))
        return of_rows, torch.mm(in_fp8.t(), fp8_rows), None, None, None


def _fp8_weight(weight: Tensor, scale: Tensor, settings: LinearMMConfig) -> Tensor:
    return hp_tensor_and_scale_to_float8(weight, scale, E4M3, settings, GemmInputRole.WEIGHT)


def _scale(tensor: Tensor, dtype: torch.dtype = E4M3) -> Tensor:
    return amax_to_scale(tensor_to_amax(tensor), dtype)


def _common_scales(tensors: list[Tensor], group: Any, dtype: torch.dtype = E4M3) -> list[Tensor]:
    """Scales of tensors of which each rank has a slice."""
    largest = torch.stack([tensor_to_amax(tensor) for tensor in tensors])
    in_fp32 = largest.to(torch.promote_types(largest.dtype, torch.float32))  # a collective that all backends have
    of_all = collectives.wait_tensor(collectives.all_reduce(in_fp32, "max", group))
    return [amax_to_scale(value, dtype) for value in of_all.unbind()]
