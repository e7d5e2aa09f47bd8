"""Keys and values of the tokens seen so far, in buffers of fixed size.

A token's slot is its position, so prompts of several lengths lie in one cache without filler before them: what a longer
prompt's padding leaves behind a shorter one is overwritten slot by slot, and never attended before that.
"""

import torch
from torch import Tensor

from tinyllama.model.llama_config import LlamaConfig


class KVCache:
    """A `Cache` of the network: for each layer, keys and values of at most `max_tokens` tokens of `batch` sequences.

    Memory: 2 L B G max_tokens K values. Here all sequences get the same number of tokens; see `OneTokenEach`.
    """

    def __init__(
        self, config: LlamaConfig, batch: int, max_tokens: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, max_tokens, config.head_dim)  # (L, B, G, S, K)
        self._k = torch.zeros(
            shape, device=device, dtype=dtype
        )  # a slot not yet written may weigh 0, but not times NaN
        self._v = torch.zeros(shape, device=device, dtype=dtype)
        self._n_layers, self.max_tokens = config.n_layers, max_tokens
        self._n_tokens = 0

    @property
    def n_tokens(self) -> int:
        """Tokens that every layer has stored."""
        return self._n_tokens

    def clear(self) -> None:
        """Start anew; the buffers stay where they are."""
        self._n_tokens = 0

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """The buffers of a layer's keys and values, each (B, G, S, K)."""
        return self._k[layer], self._v[layer]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, G, T, K); return all of its own, (B, G, n_tokens + T, K).

        The last layer's update ends the forward pass: then the tokens count as seen. Raises ValueError past `max_tokens`.
        """
        end = self._n_tokens + k.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"{end} tokens in a cache of {self.max_tokens}")
        self._k[layer, :, :, self._n_tokens : end] = k
        self._v[layer, :, :, self._n_tokens : end] = v
        if layer == self._n_layers - 1:
            self._n_tokens = end
        return self._k[layer, :, :, :end], self._v[layer, :, :, :end]


class OneTokenEach:
    """A `Cache` for one step in which every sequence stores one token, each at its own slot.

    `slots` (B,) int64 on the cache's device; `reach`: how many slots attention is shown, more than the largest slot.
    """

    def __init__(self, cache: KVCache, slots: Tensor, reach: int) -> None:
        self._cache, self._reach = cache, reach
        _, G, _, K = cache.layer(0)[0].shape
        self._where = slots[:, None, None, None].expand(-1, G, 1, K)

    @property
    def n_tokens(self) -> int:
        """Positions differ between sequences: the caller gives them."""
        raise ValueError("sequences of several lengths have no common number of tokens; give positions")

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, G, 1, K); return the layer's first `reach` slots, (B, G, reach, K)."""
        keys, values = self._cache.layer(layer)
        keys.scatter_(2, self._where, k)
        values.scatter_(2, self._where, v)
        return keys[:, :, : self._reach], values[:, :, : self._reach]
