"""Matrices that read the same vector, one under another, so that one product does the work of several.

The packed matrix takes the place of the network's own, whose parameters become views of its rows: canonical names and
values stay, and no memory is used twice.
"""

import torch
from torch import Tensor, nn


@torch.inference_mode(False)  # the network may be used in other ways later
@torch.no_grad()
def pack(linears: list[nn.Linear]) -> Tensor:
    """The weights of `linears` (out_i, in) as one matrix (sum of out_i, in); packed before: the same matrix again."""
    weights = [linear.weight for linear in linears]
    sizes, width = [len(weight) for weight in weights], weights[0].shape[1]
    storages = {weight.untyped_storage().data_ptr() for weight in weights}
    offsets = [weight.storage_offset() - weights[0].storage_offset() for weight in weights]
    if len(storages) == 1 and offsets == [sum(sizes[:n]) * width for n in range(len(sizes))]:
        return weights[0].detach().as_strided((sum(sizes), width), (width, 1))
    packed = torch.cat([weight.detach() for weight in weights])
    for linear, part in zip(linears, packed.split(sizes), strict=True):
        linear.weight = nn.Parameter(part, requires_grad=linear.weight.requires_grad)
    return packed
