"""Bytes of what the forward pass leaves for the backward pass, and of what the loss and the layer at work add.

Letters as in the network: D dim, H heads, G key and value heads, K head_dim, F ffn_dim, V vocab_size, E embedding_dim,
T seq_len; c bytes of a value in the products, s in the residual stream, t the tensor axis.
"""

from dataclasses import dataclass
from typing import NamedTuple

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.train.train_config import UpdateConfig

LOSS_CHUNK_TOKENS = 8192  # logits are made in chunks of so many tokens


class ValueBytes(NamedTuple):
    """Bytes of one value by where it is: in the products, the residual stream, and what a product keeps of its input."""

    product: int
    stream: int
    kept_input: int


VALUE_BYTES = {
    "fp32": ValueBytes(4, 4, 4),
    "bf16": ValueBytes(2, 2, 2),
    "fp16": ValueBytes(2, 4, 2),
    "fp8": ValueBytes(2, 2, 1),
}


@dataclass(frozen=True)
class Activations:
    """Bytes for one token on one rank, as `train` computes, in layers that are compiled or not.

    After Korthikanti et al. 2022 (section 4), for this network's layer (model/packed_llama.py):

        begin          residual stream as it enters, and its norm      s D / t + kept D
        attention      queries and attention's output                  2 c H K / t
                       keys and values                                 2 c G K / t
                       attention's log-sum-exp, fp32                   4 H / t
        middle         what joins the stream, its norm, both 1 / rms   c D / t + kept D + 8 / t
        feed_forward   gate and up                                     2 c F / t
                       their product (fp8: computed again)             c F / t

    With a tensor axis the stream is sliced by tokens (sequence parallel), but products keep their gathered input. The
    score matrix is never stored, unless attention weights are dropped: then their softmax (fp32), mask and product are,
    (4 + 4 + c) H T / t. A GPU has no fused attention in fp32 for fewer key heads than heads: the softmax is stored,
    4 H T / t, and keys and values of all heads, 8 H K / t. Residual dropout keeps two masks, 2 c D / t.

    Not compiled, the chains keep what lies between their parts: a norm its fp32 input and quotient, 8 D / t in place of
    s D / t, and SwiGLU silu's result, c F / t more.
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
        """What one layer keeps, by where it arises, when nothing is computed again."""
        (c, s, kept), D, F, t = self.value_bytes, self.model.dim, self.model.ffn_dim, self.tensor
        masks = 2 * c * D if self.model.dropout > 0 else 0
        products = 2 if self.train.precision == "fp8" else 3
        return {
            "begin": (s if self.compiled else 8) * D // t + kept * D,
            "attention": self._attention_bytes() // t,
            "middle": ((c if self.compiled else 8) * D + 8 + masks) // t + kept * D,
            "feed_forward": (products + (not self.compiled)) * c * F // t,
        }

    def _attention_bytes(self) -> int:
        c, model, T = self.value_bytes.product, self.model, self.train.seq_len
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

    def kept(self) -> int:
        """What one layer keeps until its backward pass."""
        parts, (c, s, kept), D = self.layer_parts(), self.value_bytes, self.model.dim
        if self.train.recompute == "selective":  # the feed-forward's norm is kept before it is gathered or cast
            return sum(parts.values()) - parts["feed_forward"] - kept * D + c * D // self.tensor
        if self.train.recompute == "full":  # what enters a layer: its slice of the stream and of the norm
            return (s + c) * D // self.tensor
        return sum(parts.values())

    def after_layers(self) -> int:
        """What is kept of the last layer's end: the stream and its norm; with projections their inputs and the result."""
        c, s, _ = self.value_bytes
        E = 2 * self.model.embedding_dim if self.model.has_projections else 0
        return (s + c) * self.model.dim // self.tensor + c * E // self.tensor

    def at_work(self) -> int:
        """What the layer at work adds where the backward pass begins: gradients of gate, up and the stream, and what it
        computes again. Measured beside it on an H100: within 0.4% of the peak."""
        c = self.value_bytes.product
        again = sum(self.layer_parts().values()) - self.kept()
        return 2 * c * self.model.ffn_dim // self.tensor + c * self.model.dim + again


def chunk_bytes(model: LlamaConfig, n_tokens: int, precision: str, tensor: int = 1) -> int:
    """Bytes of the loss's logits over `n_tokens`, which become their gradient: the chunk at work and the one before it.

    In fp32 a chunk's logarithms are there beside it; with slices of the vocabulary 16-bit ones are there in fp32 too.
    """
    c = VALUE_BYTES[precision].product
    chunk = min(n_tokens, LOSS_CHUNK_TOKENS) * model.vocab_size // tensor
    if tensor > 1 and c < 4:
        return (c + 4) * chunk
    return (2 if n_tokens > LOSS_CHUNK_TOKENS or (c == 4 and tensor == 1) else 1) * c * chunk
