"""One decoding step of the network in few kernels, for a GPU and 16-bit weights: fused q k v, gate and up, norms.

It computes what `Llama.logits(Llama.hidden(...))` does, with the residual stream in fp32.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyllama.generate import decode_kernels
from tinyllama.generate.kv_cache import KVCache
from tinyllama.model.llama import Llama
from tinyllama.model.packed_llama import pack
from tinyllama.model.rotary import rotary_table


class Tile(NamedTuple):
    """How a product is cut: rows of weights and columns of a program, its warps, loads under way."""

    block_n: int
    block_w: int
    warps: int
    stages: int


# Fastest of those tried on an H100 with tinyllama-1.1b's shapes; see docs/generation.md.
MATVEC_VALUES = 16384  # weights that one program asks for at once
MATMUL = Tile(64, 128, 4, 4)
GATED_MATMUL = Tile(64, 128, 4, 3)
MAX_SPLITS = 16  # portions of one sequence's slots
MAX_BATCH = 256  # beyond, products are no longer bound by reading weights
LOG2_E = math.log2(math.e)
kernels: Any = decode_kernels  # Triton's `kernel[grid](...)` has no types


def can_fuse(model: Llama, batch: int) -> bool:
    """Whether the kernels know this network: 16-bit on a GPU of 2020 or later, head_dim a power of two from 32 on."""
    weight, K = model.embedding.weight, model.config.head_dim
    return (
        weight.is_cuda
        and weight.dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(weight.device) >= (8, 0)
        and K >= 32
        and K & (K - 1) == 0
        and batch <= MAX_BATCH
    )


class FusedStep:
    """The network for `batch` sequences that add one token each to `cache`. Raises nothing on the device: slots are
    the caller's to keep inside the cache."""

    def __init__(self, model: Llama, cache: KVCache, batch: int) -> None:
        config = model.config
        self._model, self._cache, self._batch = model, cache, batch
        device, dtype = model.embedding.weight.device, model.embedding.weight.dtype
        D, H, G, K = config.dim, config.n_heads, config.n_kv_heads, config.head_dim
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        # Several sequences: the next kernel's programs, waiting, would take shared memory from those at work.
        self._pdl = batch == 1 and torch.cuda.get_device_capability(device) >= (9, 0)
        self._layers: list[Any] = list(model.layers)
        self._qkv_weights = [pack([layer.attention.q, layer.attention.k, layer.attention.v]) for layer in self._layers]
        self._gate_up_weights = [pack([layer.feed_forward.gate, layer.feed_forward.up]) for layer in self._layers]
        cos, sin = rotary_table(torch.arange(cache.max_tokens, device=device)[None], config, torch.float32)
        self._cos, self._sin = (table[0, 0, :, : K // 2].contiguous() for table in (cos, sin))  # (S, K / 2)

        def buffer(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self._block_b = max(16, min(64, 1 << (batch - 1).bit_length()))
        self._tiles_b = -(-batch // self._block_b)
        self._parts_qkv = self._parts((H + 2 * G) * K, D, multiprocessors)
        self._parts_o = self._parts(D, H * K, multiprocessors)
        self._parts_down = self._parts(D, config.ffn_dim, multiprocessors)
        between = torch.float32 if batch == 1 else dtype  # what products read; with one sequence fp32 costs nothing
        self._x = buffer(batch, D)
        self._normed = buffer(batch, D, dtype=dtype)
        self._qkv = buffer(self._parts_qkv, batch, (H + 2 * G) * K)
        self._attended = buffer(batch, H * K, dtype=between)
        self._o = buffer(self._parts_o, batch, D)
        self._gated = buffer(batch, config.ffn_dim, dtype=between)
        self._down = buffer(self._parts_down, batch, D)
        self._projected = buffer(batch, config.embedding_dim, dtype=between)
        self._logits = buffer(batch, config.vocab_size)
        self._block_r = max(16, 1 << (H // G - 1).bit_length())
        self._splits = min(MAX_SPLITS, 1 << max(1, multiprocessors // (batch * G)).bit_length() - 1)
        self._acc = buffer(batch * G * self._splits, self._block_r, K)
        self._stats = buffer(batch * G * self._splits, 2, self._block_r)
        self._arrived = buffer(batch * G, dtype=torch.int32)

    def _parts(self, n: int, width: int, multiprocessors: int) -> int:
        """In how many parts a product's sums are made, so that there are about as many tiles as multiprocessors."""
        if self._batch == 1:
            return 1
        tiles = -(-n // MATMUL.block_n) * self._tiles_b
        return max(1, min(8, round(multiprocessors / tiles), width // 256))

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Token ids and their positions, both (B,) int64, to logits (B, V) in fp32; overwritten by the next call."""
        model = self._model
        x = F.embedding(tokens, model.embedding.weight)
        if model.embedding_projection is not None:
            x = F.linear(x, model.embedding_projection.weight)
        self._x.copy_(x)
        step = self._layer_single if self._batch == 1 else self._layer_batched
        for layer in range(model.config.n_layers):
            step(layer, positions)
        return self._head_single() if self._batch == 1 else self._head_batched()

    # -- one sequence: matrix times vector -------------------------------------------------------------------------

    def _layer_single(self, layer: int, positions: Tensor) -> None:
        block = self._layers[layer]
        self._matvec(self._x, self._qkv_weights[layer], self._qkv, norm=block.attention_norm)
        self._attend(layer, positions)
        self._matvec(self._attended, block.attention.o.weight, self._x, add=True)
        norm, weights = block.feed_forward_norm, self._gate_up_weights[layer]
        n, width = len(weights) // 2, weights.shape[1]
        block_n, block_w, warps = self._matvec_shape(width)
        kernels.gated_matvec[(-(-n // block_n),)](
            self._x, norm.weight, weights, self._gated, norm.eps, n, width, block_n, block_w,
            num_warps=warps, **self._pdl_options(),
        )  # fmt: skip
        self._matvec(self._gated, block.feed_forward.down.weight, self._x, add=True)

    def _head_single(self) -> Tensor:
        model = self._model
        if model.head_projection is None:
            self._matvec(self._x, model.output_weight, self._logits, norm=model.norm)
        else:
            self._matvec(self._x, model.head_projection.weight, self._projected, norm=model.norm)
            self._matvec(self._projected, model.output_weight, self._logits)
        return self._logits

    def _matvec(self, x: Tensor, w: Tensor, out: Tensor, norm: Any = None, add: bool = False) -> None:
        n, width = w.shape
        block_n, block_w, warps = self._matvec_shape(width)
        scale, eps = (w, 0.0) if norm is None else (norm.weight, norm.eps)
        kernels.matvec[(-(-n // block_n),)](
            x, scale, w, out, eps, n, width, block_n, block_w, norm is not None, add,
            num_warps=warps, **self._pdl_options(),
        )  # fmt: skip

    @staticmethod
    def _matvec_shape(width: int) -> tuple[int, int, int]:
        """Rows of a program, its columns and its warps: some 16 kB of weights asked for at once."""
        block_w = 1 << (width - 1).bit_length()
        block_n = max(1, MATVEC_VALUES // block_w)
        return block_n, block_w, 8 if block_w > 4096 else 4

    # -- several sequences: thin matrix products -----------------------------------------------------------------

    def _layer_batched(self, layer: int, positions: Tensor) -> None:
        block = self._layers[layer]
        self._add_norm(self._down if layer else None, block.attention_norm)
        self._matmul(self._normed, self._qkv_weights[layer], self._qkv)
        self._attend(layer, positions)
        self._matmul(self._attended, block.attention.o.weight, self._o)
        self._add_norm(self._o, block.feed_forward_norm)
        weights = self._gate_up_weights[layer]
        n, width = len(weights) // 2, weights.shape[1]
        block_n, block_w, warps, stages = GATED_MATMUL
        kernels.gated_matmul[(-(-n // block_n), self._tiles_b)](
            self._normed, weights, self._gated, self._batch, n, width, self._block_b, block_n, block_w,
            num_warps=warps, num_stages=stages, **self._pdl_options(),
        )  # fmt: skip
        self._matmul(self._gated, block.feed_forward.down.weight, self._down)

    def _head_batched(self) -> Tensor:
        model = self._model
        self._add_norm(self._down, model.norm)
        hidden = self._normed
        if model.head_projection is not None:
            hidden = F.linear(hidden, model.head_projection.weight)
        self._matmul(hidden, model.output_weight, self._logits[None])
        return self._logits

    def _add_norm(self, parts: Tensor | None, norm: Any) -> None:
        D = self._model.config.dim
        kernels.add_norm[(self._batch,)](
            self._x, self._x if parts is None else parts, norm.weight, self._normed, norm.eps, self._batch, D,
            1 << (D - 1).bit_length(), 0 if parts is None else len(parts), num_warps=8, **self._pdl_options(),
        )  # fmt: skip

    def _matmul(self, x: Tensor, w: Tensor, out: Tensor) -> None:
        (n, width), parts = w.shape, len(out)
        block_n, block_w, warps, stages = MATMUL
        part = -(-width // (parts * block_w)) * block_w
        kernels.split_matmul[(-(-n // block_n), parts, self._tiles_b)](
            x, w, out, self._batch, n, width, part, self._block_b, block_n, block_w,
            num_warps=warps, num_stages=stages, **self._pdl_options(),
        )  # fmt: skip

    # -- both ------------------------------------------------------------------------------------------------------

    def _attend(self, layer: int, positions: Tensor) -> None:
        config = self._model.config
        G, K = config.n_kv_heads, config.head_dim
        k, v = self._cache.layer(layer)
        kernels.attend_step[(self._batch * G, self._splits)](
            self._qkv, self._cos, self._sin, k, v, positions, self._attended, self._acc, self._stats, self._arrived,
            LOG2_E / math.sqrt(K), self._batch, self._cache.max_tokens, G, config.n_heads // G, K // 2, len(self._qkv),
            self._block_r, 32 if self._splits > 1 else 64, self._splits, num_warps=4, **self._pdl_options(),
        )  # fmt: skip

    def _pdl_options(self) -> dict[str, bool]:
        return {"PDL": self._pdl, **({"launch_pdl": True} if self._pdl else {})}
