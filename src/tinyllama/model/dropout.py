"""Counter-based dropout: masks are a pure function of where they are applied.

A mask bit depends on (seed, step, sample, layer, site, position in the sample's tensor) alone. So a resumed run, another
micro-batch size or another number of devices drops the same values.
"""

import torch
from torch import Tensor

# Multipliers of the 32-bit finaliser "lowbias32" (C. Wellons, hash-prospector, 2018); arithmetic is modulo 2^32 in int64.
_MULTIPLIER_1, _MULTIPLIER_2 = 0x7FEB352D, 0x846CA68B
_MASK_32 = 0xFFFFFFFF

# Sites of one layer; the embedding is layer -1.
EMBEDDING, ATTENTION, ATTENTION_RESIDUAL, FEED_FORWARD_RESIDUAL = range(4)


def hash_32(values: Tensor) -> Tensor:
    """Hash each 32-bit value (in int64): a bijection, and the only primitive of the generator."""
    values = values ^ (values >> 16)
    values = (values * _MULTIPLIER_1) & _MASK_32
    values = values ^ (values >> 15)
    values = (values * _MULTIPLIER_2) & _MASK_32
    return values ^ (values >> 16)


def sample_keys(seed: int, step: int, samples: Tensor) -> Tensor:
    """Keys of one forward pass: int64 (B,), from the run's seed, the step and the sample index of each row (B,)."""
    state = torch.zeros_like(samples, dtype=torch.int64)
    for value in (seed & _MASK_32, seed >> 32 & _MASK_32, step, samples & _MASK_32, samples >> 32):
        state = _mix_in(state, value)
    return state


def layer_keys(keys: Tensor | None, layer: int) -> Tensor | None:
    """Keys (B,) of one layer, -1: the embedding. Keys are an input of the layer, so that one compiled graph serves all."""
    return None if keys is None else _mix_in(keys, layer + 1)


def keep_mask(shape: torch.Size, probability: float, keys: Tensor, site: int, first: int = 0) -> Tensor:
    """Boolean mask of `shape` (B, ...): True with 1 - probability. Row b depends on keys[b], of a layer, and site.

    `first`: index of each sample's first value in the sample's whole tensor, if `shape` is a slice of it.
    """
    state = _mix_in(keys, site)  # (B,)
    position = first + torch.arange(shape[1:].numel(), device=keys.device, dtype=torch.int64)
    bits = hash_32(hash_32(position)[None, :] ^ state[:, None])  # (B, values of a sample)
    return (bits >= int(probability * 2**32)).view(shape)


def dropout(values: Tensor, probability: float, keys: Tensor | None, site: int, first: int = 0) -> Tensor:
    """Drop values of shape (B, ...) and scale the rest by 1 / (1 - probability). Without keys: evaluation, no change.

    `first` as in `keep_mask`.
    """
    if keys is None or probability == 0.0:
        return values
    mask = keep_mask(values.shape, probability, keys, site, first)
    return values * mask.to(values.dtype) * (1.0 / (1.0 - probability))


def dropout_rows(
    rows: Tensor, probability: float, keys: Tensor | None, site: int, first_row: int, rows_per_sample: int
) -> Tensor:
    """`dropout` of rows (R, D), which are rows `first_row` and following of all samples' rows in order."""
    if keys is None or probability == 0.0:
        return rows
    R, D = rows.shape
    number = first_row + torch.arange(R, device=keys.device, dtype=torch.int64)
    state = _mix_in(keys, site)[number // rows_per_sample]  # (R,)
    position = (number % rows_per_sample * D)[:, None] + torch.arange(D, device=keys.device, dtype=torch.int64)
    mask = hash_32(hash_32(position) ^ state[:, None]) >= int(probability * 2**32)
    return rows * mask.to(rows.dtype) * (1.0 / (1.0 - probability))


def _mix_in(state: Tensor, value: int | Tensor) -> Tensor:
    return hash_32((state * 31 + value + 1) & _MASK_32)
