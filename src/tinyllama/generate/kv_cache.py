"""Keys and values of the tokens seen so far, in buffers of fixed size."""

import torch
from torch import Tensor

from tinyllama.model.llama_config import LlamaConfig


class KVCache:
    """A `Cache` of the network: for each layer, keys and values of at most `max_tokens` tokens of `batch` sequences.

    Memory: 2 L B G max_tokens K values. All sequences have the same number of tokens.
    """

    def __init__(
        self, config: LlamaConfig, batch: int, max_tokens: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, max_tokens, config.head_dim)  # (L, B, G, S, K)
        self._k = torch.empty(shape, device=device, dtype=dtype)
        self._v = torch.empty(shape, device=device, dtype=dtype)
        self._n_layers, self._max_tokens = config.n_layers, max_tokens
        self._n_tokens = 0

    @property
    def n_tokens(self) -> int:
        """Tokens that every layer has stored."""
        return self._n_tokens

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, G, T, K); return all of its own, (B, G, n_tokens + T, K).

        The last layer's update ends the forward pass: then the tokens count as seen. Raises ValueError past `max_tokens`.
        """
        end = self._n_tokens + k.shape[2]
        if end > self._max_tokens:
            raise ValueError(f"{end} tokens in a cache of {self._max_tokens}")
        self._k[layer, :, :, self._n_tokens : end] = k
        self._v[layer, :, :, self._n_tokens : end] = v
        if layer == self._n_layers - 1:
            self._n_tokens = end
        return self._k[layer, :, :, :end], self._v[layer, :, :, :end]
