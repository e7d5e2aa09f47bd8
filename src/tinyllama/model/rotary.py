"""Rotary position embedding (Su et al. 2021) as in Llama: value i of a head is paired with i + K/2.

Letters: B batch, T tokens, H heads, K head_dim.
"""

import math

import torch
from torch import Tensor

from tinyllama.model.llama_config import LlamaConfig


def rotary_frequencies(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rotation of each pair of a head in radians per position, shape (K / 2,), fastest first.

    Without scaling theta^(-2i / K). `linear` divides all by the factor (Chen et al. 2023). `llama3` (Llama 3.1) divides
    those with less than `rope_low_freq_factor` turns within `rope_original_seq_len` tokens, keeps those with more than
    `rope_high_freq_factor` turns, and interpolates in between.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    plain = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, device=device, dtype=dtype) / config.head_dim)
    if config.rope_scaling == "none":
        return plain
    slow = plain / config.rope_factor
    if config.rope_scaling == "linear":
        return slow
    turns = config.rope_original_seq_len * plain / (2 * math.pi)
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * plain + (1 - kept) * slow


def rotary_table(positions: Tensor, config: LlamaConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of each position's angles, both of shape (B or 1, 1, T, K); `positions` (B or 1, T).

    The angles are computed in fp32 at least: bf16 cannot tell neighbouring positions apart.
    """
    frequencies = rotary_frequencies(config, positions.device, dtype)
    angles = positions.to(frequencies.dtype)[:, None, :, None] * frequencies  # (B or 1, 1, T, K / 2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # (B, H, T, K) -> (B, H, T, K)
    """Rotate each pair (i, i + K/2) of a head by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
