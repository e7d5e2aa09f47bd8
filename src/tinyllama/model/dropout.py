"""Dropout whose masks are a pure function of where they are applied, not of what was drawn before.

A mask bit depends on (seed, step, sample, layer, site, position in the sample's tensor) alone. So a resumed run, another
micro-batch size or another number of devices drops the same values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Multipliers of the 32-bit finaliser "lowbias32" (C. Wellons, hash-prospector, 2018); arithmetic is modulo 2^32 in int64.
_MULTIPLIER_1, _MULTIPLIER_2 = 0x7FEB352D, 0x846CA68B
_MASK_32 = 0xFFFFFFFF

# Sites of one layer; the embedding is layer -1.
EMBEDDING, ATTENTION, ATTENTION_RESIDUAL, FEED_FORWARD_RESIDUAL = range(4)


@dataclass(frozen=True)
class DropoutKey:
    """What the masks of one forward pass depend on: the run's seed, the step, and each row's sample index, shape (B,)."""

    seed: int
    step: int
    samples: Tensor


def hash_32(values: Tensor) -> Tensor:
    """Mix each 32-bit value (held in int64) into another, evenly: the generator's only primitive."""
    values = values ^ (values >> 16)
    values = (values * _MULTIPLIER_1) & _MASK_32
    values = values ^ (values >> 15)
    values = (values * _MULTIPLIER_2) & _MASK_32
    return values ^ (values >> 16)


def keep_mask(shape: torch.Size, probability: float, key: DropoutKey, layer: int, site: int) -> Tensor:
    """Boolean mask of `shape` (B, ...): True with 1 - probability. Row b is fixed by the key's sample b."""
    device = key.samples.device
    state = torch.zeros_like(key.samples, dtype=torch.int64)  # (B,)
    for part in (key.seed, key.seed >> 32, key.step, key.samples, key.samples >> 32, layer + 1, site):
        state = hash_32((state * 31 + part + 1) & _MASK_32)
    per_sample = shape[1:].numel()
    position = torch.arange(per_sample, device=device, dtype=torch.int64)
    bits = hash_32(hash_32(position)[None, :] ^ state[:, None])  # (B, per_sample)
    return (bits >= int(probability * 2**32)).view(shape)


def dropout(values: Tensor, probability: float, key: DropoutKey | None, layer: int, site: int) -> Tensor:
    """Drop values of shape (B, ...) and scale the rest by 1 / (1 - probability). Without a key: evaluation, no change."""
    if key is None or probability == 0.0:
        return values
    mask = keep_mask(values.shape, probability, key, layer, site)
    return values * mask.to(values.dtype) * (1.0 / (1.0 - probability))
