"""Bytes that the forward pass saves for the backward pass, and that the loss and the layer being computed add.

Letters as in the model: D dim, H heads, G key and value heads, K head_dim, F ffn_dim, V vocab_size, E embedding_dim,
T seq_len; c bytes of a value in the matmuls, s in the residual stream, t the tensor axis.
"""

from dataclasses import dataclass
from typing import NamedTuple

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.train.train_config import UpdateConfig

LOSS_CHUNK_TOKENS = 8192  # the loss computes logits in chunks of this many tokens


class ValueBytes(NamedTuple):
    """Bytes of one value in the matmuls, in the residual stream, and in the input that a matmul saves."""

    compute: int
    residual: int
    saved_input: int


VALUE_BYTES = {
    "fp32": ValueBytes(4, 4, 4),
    "bf16": ValueBytes(2, 2, 2),
    "fp16": ValueBytes(2, 4, 2),
    "fp8": ValueBytes(2, 2, 1),
}


@dataclass(frozen=True)
class Activations:
    """Bytes for one token on one rank with the settings of `train`, in layers that are compiled or not.

    After Korthikanti et al. 2022 (section 4), for the layer of model/packed_llama.py (i: bytes of a saved matmul input):

        begin          residual stream and its norm                    s D / t + i D
        attention      queries and attention's output                  2 c H K / t
                       keys and values                                 2 c G K / t
                       attention's log-sum-exp, fp32                   4 H / t
        middle         attention's addition to the stream, its norm,   c D / t + i D + 8 / t
                       1 / rms of both norms
        feed_forward   gate and up                                     2 c F / t
                       their product (fp8: recomputed)                 c F / t

    With a tensor axis the stream is sliced by tokens (sequence parallel), but matmuls save their gathered input. The score
    matrix is stored only with attention dropout: softmax (fp32), mask and product, (4 + 4 + c) H T / t. A GPU has no fused
    attention in fp32 for fewer key heads than heads: the softmax is stored, 4 H T / t, and keys and values of all heads,
    8 H K / t. Residual dropout saves two masks, 2 c D / t.

    Layers that are not compiled save intermediate values: a norm its fp32 input and quotient, 8 D / t instead of s D / t,
    and SwiGLU the result of silu, c F / t.
    """

    model: LlamaConfig
    train: UpdateConfig
    tensor: int = 1
    compiled: bool = True
    on_gpu: bool = True

    @property
    def value_bytes(self) -> ValueBytes:
        return VALUE_BYTES[self.train.precision]

    def layer_parts(self) -> dict[str, int]:
        """What one layer saves, by the sub-layer it comes from, without recomputation."""
        (c, s, saved_input), D, F, t = self.value_bytes, self.model.dim, self.model.ffn_dim, self.tensor
        masks = 2 * c * D if self.model.dropout > 0 else 0
        n_saved = 2 if self.train.precision == "fp8" else 3
        return {
            "begin": (s if self.compiled else 8) * D // t + saved_input * D,
            "attention": self._attention_bytes() // t,
            "middle": ((c if self.compiled else 8) * D + 8 + masks) // t + saved_input * D,
            "feed_forward": (n_saved + (not self.compiled)) * c * F // t,
        }

    def _attention_bytes(self) -> int:
        c, model, T = self.value_bytes.compute, self.model, self.train.seq_len
        queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
        n_bytes = 2 * c * queries + 2 * c * keys + 4 * model.n_heads
        if model.attention_dropout > 0:
            return n_bytes + (4 + 4 + c) * model.n_heads * T
        if self.writes_scores:
            return n_bytes + 4 * model.n_heads * T + 8 * queries
        return n_bytes

    @property
    def writes_scores(self) -> bool:
        """Whether attention has no fused kernel: in fp32 on a GPU with grouped heads."""
        return self.on_gpu and self.train.precision == "fp32" and self.model.n_heads != self.model.n_kv_heads

    def saved(self) -> int:
        """What one layer saves until its backward pass."""
        parts, (c, s, saved_input), D = self.layer_parts(), self.value_bytes, self.model.dim
        if (
            self.train.recompute == "selective"
        ):  # the norm before the feed-forward is saved before it is gathered or cast
            return sum(parts.values()) - parts["feed_forward"] - saved_input * D + c * D // self.tensor
        if self.train.recompute == "full":  # the input of a layer: its slice of the stream and of the norm
            return (s + c) * D // self.tensor
        return sum(parts.values())

    def after_layers(self) -> int:
        """What is saved after the last layer: the stream and its norm; with projections their inputs and the result."""
        c, s, _ = self.value_bytes
        E = 2 * self.model.embedding_dim if self.model.has_projections else 0
        return (s + c) * self.model.dim // self.tensor + c * E // self.tensor

    def working(self) -> int:
        """What the last layer adds when its backward pass begins: gradients of gate, up and the stream, and recomputed
        values. Compared with measurements on an H100: within 0.4% of the peak."""
        c = self.value_bytes.compute
        recomputed = sum(self.layer_parts().values()) - self.saved()
        return 2 * c * self.model.ffn_dim // self.tensor + c * self.model.dim + recomputed


def chunk_bytes(model: LlamaConfig, n_tokens: int, precision: str, tensor: int = 1) -> int:
    """Bytes of the loss's logits over `n_tokens`, overwritten by their gradient: of the current chunk and the one before.

    In fp32 a chunk's logarithms are stored as well; with slices of the vocabulary, 16-bit logits are also stored in fp32.
    """
    c = VALUE_BYTES[precision].compute
    chunk = min(n_tokens, LOSS_CHUNK_TOKENS) * model.vocab_size // tensor
    if tensor > 1 and c < 4:
        return (c + 4) * chunk
    return (2 if n_tokens > LOSS_CHUNK_TOKENS or (c == 4 and tensor == 1) else 1) * c * chunk
