"""Llama 2 (Touvron et al. 2023): the reference implementation of the network.

RMSNorm before each block, rotary position embedding, SwiGLU, grouped-query attention, no biases. Letters: B batch,
T tokens, D dim, H heads, G key and value heads, K head_dim, F ffn_dim, V vocab_size, E embedding_dim (D unless projected).

Parameter names here are canonical: checkpoints and all other modules use them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyllama.model.attention import attend, attend_reference
from tinyllama.model.dropout import ATTENTION_RESIDUAL, EMBEDDING, FEED_FORWARD_RESIDUAL, dropout, layer_keys
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.rotary import rotary_table, rotate


class Cache(Protocol):
    """Keys and values of the tokens seen so far; `update` stores a layer's new ones and returns all of them."""

    @property
    def n_tokens(self) -> int: ...

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]: ...


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019); the statistic in at least fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        D, H, G, K = config.dim, config.n_heads, config.n_kv_heads, config.head_dim
        self.layer, self.head_dim, self.dropout = layer, K, config.attention_dropout
        self.q = nn.Linear(D, H * K, bias=False)
        self.k = nn.Linear(D, G * K, bias=False)
        self.v = nn.Linear(D, G * K, bias=False)
        self.o = nn.Linear(H * K, D, bias=False)

    def forward(
        self,
        x: Tensor,  # (B, T, D)
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Cache | None,
        dropout_keys: Tensor | None,
    ) -> Tensor:
        B, T, _ = x.shape
        q = self.q(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H, T, K)
        k = self.k(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, G, T, K)
        v = self.v(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, G, T, K)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, G, S, K)
        if dropout_keys is not None and self.dropout > 0:  # the fused kernel's own dropout cannot be keyed by sample
            out = attend_reference(q, k, v, mask, self.dropout, dropout_keys)
        else:
            out = attend(q, k, v, mask)
        return self.o(out.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.up = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """Attention and feed-forward, each with a norm before it and a residual connection."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: Cache | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:  # (B, T, D) -> (B, T, D)
        attended = self.attention(self.attention_norm(x), rotary, mask, cache, dropout_keys)
        x = x + dropout(attended, self.dropout, dropout_keys, ATTENTION_RESIDUAL)
        fed = self.feed_forward(self.feed_forward_norm(x))
        return x + dropout(fed, self.dropout, dropout_keys, FEED_FORWARD_RESIDUAL)


class Llama(nn.Module):
    """The network. Create it on the meta device for shapes only; call `init_weights` before training."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        D, E, V = config.dim, config.embedding_dim, config.vocab_size
        self.embedding = nn.Embedding(V, E)
        self.embedding_projection = nn.Linear(E, D, bias=False) if config.has_projections else None
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(D, config.norm_eps)
        self.head_projection = nn.Linear(D, E, bias=False) if config.has_projections else None
        self.head = None if config.tied_head else nn.Linear(E, V, bias=False)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Token ids (B, T) to the normalised last layer (B, T, E), ready for `logits`.

        `positions` (B, T): default 0 to T-1, or those after the cache's tokens. `mask` (B or 1, 1, T, S), True where a
        query sees a key: default causal. `dropout_keys` (B,), from `dropout.sample_keys`: default no dropout.
        """
        if positions is None:
            start = 0 if cache is None else cache.n_tokens
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None, :]
        x = self.embedding(tokens)  # (B, T, E)
        x = dropout(x, self.config.dropout, layer_keys(dropout_keys, -1), EMBEDDING)
        if self.embedding_projection is not None:
            x = self.embedding_projection(x)  # (B, T, D)
        rotary = rotary_table(positions, self.config, self._compute_dtype(x))
        for number, layer in enumerate(self.layers):
            x = layer(x, rotary, mask, cache, layer_keys(dropout_keys, number))
        x = self.norm(x)
        return x if self.head_projection is None else self.head_projection(x)

    def logits(self, hidden: Tensor) -> Tensor:  # (..., E) -> (..., V)
        """Scores of the next token."""
        return F.linear(hidden, self.output_weight)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:  # (B, T) -> (B, T, V)
        return self.logits(self.hidden(tokens, positions, mask, cache, dropout_keys))

    @property
    def output_weight(self) -> Tensor:
        """The head's matrix, shape (V, E): its own, or the embedding's when tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    @staticmethod
    def _compute_dtype(x: Tensor) -> torch.dtype:
        """The number format of matmuls: autocast's if it is on."""
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type)
        return x.dtype

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Initialise all parameters, drawn on the CPU in the order of names, so that they are the same on every device.

        | parameter                      | distribution                         |
        |--------------------------------|--------------------------------------|
        | embedding, head                | normal, std sqrt(2 / (5 E))          |
        | q k v, gate up, projections    | normal, std sqrt(2 / (5 fan_in))     |
        | o, down                        | normal, std 1 / (sqrt(D) n_layers)   |
        | norms                          | 1                                    |

        These are TinyLlama's values (after GPT-NeoX: "small init" and "wang init").
        """
        shapes = {name: parameter.shape for name, parameter in self.named_parameters()}
        for name, values in initial_values(self.config, shapes, seed):
            self.get_parameter(name).copy_(values)


def initial_values(config: LlamaConfig, shapes: Mapping[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the initial values of parameters of these `shapes`, by name."""
    generator = torch.Generator().manual_seed(seed)
    small = math.sqrt(2 / 5)
    for name, shape in sorted(shapes.items()):
        if len(shape) == 1:
            yield name, torch.ones(shape)
            continue
        if name.endswith(("attention.o.weight", "feed_forward.down.weight")):
            std = 1 / (math.sqrt(config.dim) * config.n_layers)
        else:
            std = small / math.sqrt(shape[1])
        yield name, torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
