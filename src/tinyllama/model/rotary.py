"""Rotary position embedding (Su et al. 2021), halves of a head turned together as in Llama, plain or stretched.

Letters: B batch, T tokens, H heads, K head_dim.
"""

import math

import torch
from torch import Tensor

from tinyllama.model.llama_config import LlamaConfig


def rotary_frequencies(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Radians a position by which each of a head's pairs is turned, shape (K / 2,), fastest first.

    Without scaling theta^(-2i / K). `linear` divides all by the factor (Chen et al. 2023). `llama3` (Llama 3.1) divides
    those that turn less than `rope_low_freq_factor` times within `rope_original_seq_len` tokens, leaves those that turn
    more than `rope_high_freq_factor` times, and goes smoothly from one to the other.
    """
    exact = torch.promote_types(dtype, torch.float32)
    plain = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, device=device, dtype=exact) / config.head_dim)
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
    """Turn each pair (i, i + K/2) of a head by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
