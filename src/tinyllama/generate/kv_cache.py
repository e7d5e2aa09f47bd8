"""Keys and values of earlier tokens, in buffers of fixed size.

A token's slot is its position, so prompts of different lengths share a cache without padding before them. What the padding
after a shorter prompt wrote is overwritten slot by slot and never attended before that.
"""

import torch
from torch import Tensor

from tinyllama.model.llama_config import LlamaConfig


class KVCache:
    """A `Cache` of the network: for each layer, keys and values of at most `max_tokens` tokens of `batch` sequences.

    Memory: 2 L B G max_tokens K values. All sequences get the same number of tokens; see `OneTokenEach` for the other case.
    """

    def __init__(
        self, config: LlamaConfig, batch: int, max_tokens: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, max_tokens, config.head_dim)  # (L, B, G, S, K)
        # Zeros: attention gives an unwritten slot weight 0, but 0 times NaN would be NaN.
        self._k = torch.zeros(shape, device=device, dtype=dtype)
        self._v = torch.zeros(shape, device=device, dtype=dtype)
        self._n_layers, self.max_tokens = config.n_layers, max_tokens
        self.n_tokens = 0  # that every layer has stored

    def clear(self) -> None:
        """Forget all tokens; the buffers are kept."""
        self.n_tokens = 0

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """The buffers of a layer's keys and values, each (B, G, S, K)."""
        return self._k[layer], self._v[layer]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, G, T, K); return all of them, (B, G, n_tokens + T, K).

        The last layer's update ends the forward pass and adds T to `n_tokens`. Raises ValueError past `max_tokens`.
        """
        end = self.n_tokens + k.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"{end} tokens in a cache of {self.max_tokens}")
        self._k[layer, :, :, self.n_tokens : end] = k
        self._v[layer, :, :, self.n_tokens : end] = v
        if layer == self._n_layers - 1:
            self.n_tokens = end
        return self._k[layer, :, :, :end], self._v[layer, :, :, :end]


class OneTokenEach:
    """A `Cache` for one step in which every sequence stores one token, each at its own slot.

    `slots` (B,) int64 on the cache's device; `n_visible`: attention sees the slots below it; above the largest slot.
    """

    def __init__(self, cache: KVCache, slots: Tensor, n_visible: int) -> None:
        self._cache, self._n_visible = cache, n_visible
        _, G, _, K = cache.layer(0)[0].shape
        self._index = slots[:, None, None, None].expand(-1, G, 1, K)

    @property
    def n_tokens(self) -> int:
        """Raises ValueError: positions differ between sequences, so the caller must pass them."""
        raise ValueError("sequences of several lengths have no common number of tokens; give positions")

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, G, 1, K); return the layer's visible slots, (B, G, n_visible, K)."""
        keys, values = self._cache.layer(layer)
        keys.scatter_(2, self._index, k)
        values.scatter_(2, self._index, v)
        return keys[:, :, : self._n_visible], values[:, :, : self._n_visible]
