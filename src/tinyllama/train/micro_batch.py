"""A micro-batch on its way through an update, and the figures that come of it."""

from typing import NamedTuple

import torch
from torch import Tensor

from tinyllama.model.loss import LossSums


class DeviceBatch(NamedTuple):
    """A micro-batch on the device: token ids and their successors, (B, T), and each row's sample index, (B,)."""

    tokens: Tensor
    targets: Tensor
    samples: Tensor


def figures(sums: LossSums, requests: list[float]) -> Tensor:
    """Loss, hits, count and the requests of one micro-batch, in a row: what is summed beside the gradients."""
    return with_requests(
        torch.stack([sums.loss, sums.correct.to(sums.loss.dtype), sums.count.to(sums.loss.dtype)]), requests
    )


def with_requests(row: Tensor, requests: list[float]) -> Tensor:
    """A row of figures, and what some rank asks of all after it."""
    if not requests:
        return row
    # A copy to a GPU would wait for it: only where there is something to say.
    asked = row.new_tensor(requests) if any(requests) else row.new_zeros(len(requests))
    return torch.cat([row, asked])
