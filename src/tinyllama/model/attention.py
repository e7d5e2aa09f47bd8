"""Causal attention with grouped keys and values: PyTorch's fused kernel, and a reference implementation.

Letters: B batch, T queries, S keys, H query heads, G key and value heads, K head_dim.
"""

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tinyllama.model.dropout import ATTENTION, dropout


def fastest_first() -> AbstractContextManager:
    """Context in which `attend` prefers cuDNN's kernel: on an H100 faster than FlashAttention-2 (docs/training.md)."""
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Fused attention. q (B, H, T, K), k and v (B, G, S, K), mask (B or 1, 1, T, S) True where a query sees a key.

    Without a mask: causal, the T queries being the last of the S tokens.
    """
    T, S = q.shape[-2], k.shape[-2]
    if mask is None and 1 < T < S:  # a single query sees all keys; the kernel's own causal mask is for T = S
        mask = causal_mask(T, S, q.device)
    if mask is not None and T > 1 and q.is_cuda and q.shape[1] != k.shape[1]:
        # With a mask a GPU's fused kernels need a key head for each query head; else the scores are materialised.
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    is_causal = False
    if mask is None and T == S:  # a branch, because in a graph for any shape SDPA does not accept the comparison itself
        is_causal = True
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` without a mask for S = T, without a comparison of shapes."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """True where one of the last T of S tokens sees an earlier one or itself, shape (T, S)."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(diagonal=S - T)


def attend_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_probability: float = 0.0,
    dropout_keys: Tensor | None = None,
    first_head: int = 0,
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, in fp32, with dropout of the weights. Shapes as in `attend`.

    `first_head`: number of q's first head in the layer, if q has only some of its heads.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, K)
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) / math.sqrt(q.shape[-1])
    if mask is None:
        mask = causal_mask(scores.shape[-2], scores.shape[-1], q.device)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)  # (B, H, T, S)
    weights = dropout(weights, dropout_probability, dropout_keys, ATTENTION, first_head * weights[0, 0].numel())
    return weights.to(v.dtype) @ v
