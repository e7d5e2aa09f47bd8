"""Causal attention with grouped keys and values: PyTorch's fused kernel, and the obvious reference that judges it.

Letters: B batch, T queries, S keys, H query heads, G key and value heads, K head_dim.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyllama.model.dropout import ATTENTION, dropout


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Fused attention. q (B, H, T, K), k and v (B, G, S, K), mask (B or 1, 1, T, S) True where seen; None: causal, T = S."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
    )


def attend_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_probability: float = 0.0,
    dropout_keys: Tensor | None = None,
    layer: int = 0,
) -> Tensor:
    """The same, written out: softmax(q k^T / sqrt(K)) v in fp32, with dropout of the weights. Shapes as in `attend`."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, K)
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) / math.sqrt(q.shape[-1])
    if mask is None:
        T, S = scores.shape[-2:]
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)  # (B, H, T, S)
    weights = dropout(weights, dropout_probability, dropout_keys, layer, ATTENTION)
    return weights.to(v.dtype) @ v
