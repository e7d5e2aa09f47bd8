"""Bytes of what the forward pass leaves for the backward pass.

Letters as in the network: D dim, H heads, G key and value heads, K head_dim, F ffn_dim, V vocab_size, T seq_len; c bytes
of a value in the products, s in the residual stream, t the tensor axis.
"""

from typing import NamedTuple

from tinyllama.model.llama_config import LlamaConfig

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


def layer_bytes_per_token(model: LlamaConfig, seq_len: int, precision: str, tensor: int = 1) -> dict[str, int]:
    """Bytes of activations that one compiled layer keeps on one rank, for one token, by where they arise.

    After Korthikanti et al. 2022 (section 4), for this network's layer (model/packed_llama.py):

        begin          residual stream as it enters, and its norm      s D / t + kept D
        attention      queries and attention's output                  2 c H K / t
                       keys and values                                 2 c G K / t
                       attention's log-sum-exp, fp32                   4 H / t
        middle         residual stream, its norm, both 1 / rms         s D / t + kept D + 8 / t
        feed_forward   gate and up                                     2 c F / t
                       their product (fp8: computed again)             c F / t

    With a tensor axis the stream is sliced by tokens (sequence parallel), but products keep their gathered input. The
    score matrix is never stored, unless attention weights are dropped: then their softmax (fp32), mask and product are,
    (4 + 4 + c) H T / t. Residual dropout keeps two masks, 2 c D / t.
    """
    (c, s, kept), D, F = VALUE_BYTES[precision], model.dim, model.ffn_dim
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    attention = 2 * c * queries + 2 * c * keys + 4 * model.n_heads
    if model.attention_dropout > 0:
        attention += (4 + 4 + c) * model.n_heads * seq_len
    masks = 2 * c * D if model.dropout > 0 else 0
    return {
        "begin": s * D // tensor + kept * D,
        "attention": attention // tensor,
        "middle": (s * D + 8 + masks) // tensor + kept * D,
        "feed_forward": (2 if precision == "fp8" else 3) * c * F // tensor,
    }


def kept_bytes_per_token(model: LlamaConfig, seq_len: int, precision: str, recompute: str, tensor: int = 1) -> int:
    """Bytes that one layer keeps of one token until its backward pass, with what is computed again left out."""
    parts, (_, s, kept), D = layer_bytes_per_token(model, seq_len, precision, tensor), VALUE_BYTES[precision], model.dim
    if recompute == "selective":  # the feed-forward's norm is kept before it is gathered
        return sum(parts.values()) - parts["feed_forward"] - kept * D + kept * D // tensor
    if recompute == "full":  # what enters a layer: its slice of the stream and of the norm
        return (s + kept) * D // tensor
    return sum(parts.values())


def at_work_bytes_per_token(model: LlamaConfig, seq_len: int, precision: str, recompute: str, tensor: int = 1) -> int:
    """Bytes that the layer at work adds where the backward pass begins: its gradients of gate and up and of their product,
    and what it computes again."""
    c = VALUE_BYTES[precision].product
    whole = sum(layer_bytes_per_token(model, seq_len, precision, tensor).values())
    again = whole - kept_bytes_per_token(model, seq_len, precision, recompute, tensor)
    return 3 * c * model.ffn_dim // tensor + 2 * c * model.dim + again


def activation_bytes_per_token(model: LlamaConfig, seq_len: int, precision: str, recompute: str = "none") -> int:
    """Bytes of all layers' activations of one token at the peak, where the backward pass begins, on one device."""
    kept = kept_bytes_per_token(model, seq_len, precision, recompute)
    return model.n_layers * kept + at_work_bytes_per_token(model, seq_len, precision, recompute)


def uncompiled_activation_bytes(n_bytes: int, precision: str) -> int:
    """Activations of layers that are not compiled, from those of compiled ones: chains keep what lies between their parts.

    Measured by counting what autograd keeps of this network: 1.33 times in fp32, 1.60 in bf16, 1.41 in fp16.
    """
    return n_bytes * {"fp32": 133, "bf16": 160, "fp16": 141, "fp8": 160}[precision] // 100


def logits_bytes(model: LlamaConfig, n_tokens: int, precision: str, tensor: int = 1) -> int:
    """Bytes of the loss over `n_tokens`: one chunk's logits, which become their gradient, and the hidden states' gradient.

    With a tensor axis a rank has its slice of the vocabulary, in fp32 too, and the hidden states are gathered.
    """
    c = VALUE_BYTES[precision].product
    chunk, hidden = min(n_tokens, LOSS_CHUNK_TOKENS) * model.vocab_size, n_tokens * model.embedding_dim
    if tensor == 1:
        return c * (chunk + hidden)
    return (c if c == 4 else c + 4) * chunk // tensor + 2 * c * hidden + c * hidden // tensor
