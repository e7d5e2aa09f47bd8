"""Bytes that one device needs, by part, under data parallelism.

Letters as in the network: D dim, H heads, G key and value heads, K head_dim, F ffn_dim, V vocab_size, T seq_len; c bytes
of a value in the products, s in the residual stream. Weights are fp32, and copied once in the products' format.

`replicate`: every device holds all of it. `shard`: weights, gradients and moments are divided by the devices (FSDP,
Zhao et al. 2023), and the layer at work and the next one are gathered.
"""

from typing import Literal, NamedTuple

from tinyllama.model.llama_config import LlamaConfig

Parallel = Literal["replicate", "shard"]

FP32_BYTES = 4
CONTEXT_BYTES = 1_500_000_000  # assumed: driver context, library workspaces, communication buffers
LOSS_CHUNK_TOKENS = 8192  # logits are made in chunks of so many tokens
USABLE_SHARE = 0.95  # assumed: the rest is lost between blocks of the allocator


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


def layer_bytes_per_token(model: LlamaConfig, seq_len: int, precision: str) -> dict[str, int]:
    """Bytes of activations that one compiled layer keeps for the backward pass, for one token, by where they arise.

    After Korthikanti et al. 2022 (section 4.1), for this network's layer (model/packed_llama.py):

        begin          residual stream and its norm, as they enter     s D + kept D
        attention      queries and attention's output                  2 c H K
                       keys and values                                 2 c G K
                       attention's log-sum-exp, fp32                   4 H
        middle         residual stream, its norm, both 1 / rms         s D + kept D + 8
        feed_forward   gate and up                                     2 c F
                       their product (fp8: computed again)             c F

    The score matrix is never stored, unless attention weights are dropped: then their softmax (fp32), mask and product
    are, (4 + 4 + c) H T. Residual dropout keeps two masks, 2 c D.
    """
    (c, s, kept), D, F = VALUE_BYTES[precision], model.dim, model.ffn_dim
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    attention = 2 * c * queries + 2 * c * keys + 4 * model.n_heads
    if model.attention_dropout > 0:
        attention += (4 + 4 + c) * model.n_heads * seq_len
    return {
        "begin": (s + kept) * D,
        "attention": attention,
        "middle": (s + kept) * D + 8 + (2 * c * D if model.dropout > 0 else 0),
        "feed_forward": (2 if precision == "fp8" else 3) * c * F,
    }


def activation_bytes_per_token(model: LlamaConfig, seq_len: int, precision: str, recompute: str = "none") -> int:
    """Bytes of activations for one token at the peak, where the backward pass begins: what all layers keep, and what the
    last one makes anew: its gradients of gate and up and of their product, and what it computes again."""
    parts = layer_bytes_per_token(model, seq_len, precision)
    kept = {
        "none": sum(parts.values()),
        "selective": sum(parts.values()) - parts["feed_forward"],
        "full": parts["begin"],
    }[recompute]
    c = VALUE_BYTES[precision].product
    at_work = 3 * c * model.ffn_dim + 2 * c * model.dim + sum(parts.values()) - kept
    return model.n_layers * kept + at_work


def uncompiled_activation_bytes(n_bytes: int, precision: str) -> int:
    """Activations of layers that are not compiled, from those of compiled ones: chains keep what lies between their parts.

    Measured by counting what autograd keeps of this network: 1.33 times in fp32, 1.60 in bf16, 1.41 in fp16.
    """
    return n_bytes * {"fp32": 133, "bf16": 160, "fp16": 141, "fp8": 160}[precision] // 100


def logits_bytes(model: LlamaConfig, n_tokens: int, precision: str) -> int:
    """Bytes of the loss over `n_tokens`: one chunk's logits, which become their gradient, and the hidden states'."""
    c = VALUE_BYTES[precision].product
    return c * (min(n_tokens, LOSS_CHUNK_TOKENS) * model.vocab_size + n_tokens * model.embedding_dim)


def memory_parts(
    model: LlamaConfig,
    *,
    micro_batch_size: int,
    seq_len: int,
    precision: str,
    parallel: Parallel,
    n_gpus: int,
    compiled: bool = True,
    recompute: str = "none",
    optimizer_state: str = "fp32",
    micro_batches: int = 3,
) -> dict[str, int]:
    """Bytes of one device by part; their sum is the peak.

    Until the second of an update's `micro_batches` has made them fp32, gradients are in the products' format. Those of a
    single micro-batch take the place of activations: they count as far as they are larger. The optimizer updates in place.
    """
    N = model.n_parameters
    held = -(-N // n_gpus) if parallel == "shard" else N
    n_tokens = micro_batch_size * seq_len
    activations = n_tokens * activation_bytes_per_token(model, seq_len, precision, recompute)
    if not compiled:
        activations = uncompiled_activation_bytes(activations, precision)
    gradients = (VALUE_BYTES[precision].product if micro_batches < 3 else FP32_BYTES) * held
    if micro_batches == 1:
        head = FP32_BYTES * model.vocab_size * model.embedding_dim  # made before all others
        gradients = max(head, gradients - activations)
    return {
        "weights": FP32_BYTES * held,
        "compute_copy": _compute_copy_bytes(model, precision, parallel),
        "gradients": gradients,
        "optimizer": 2 * (2 if optimizer_state == "bf16" else FP32_BYTES) * held,
        "activations": activations,
        "logits": logits_bytes(model, n_tokens, precision),
        "context": CONTEXT_BYTES,
    }


def _compute_copy_bytes(model: LlamaConfig, precision: str, parallel: Parallel) -> int:
    """Weights in the products' format: all when replicated, the gathered ones and their gradients when sharded."""
    c = VALUE_BYTES[precision].product
    if parallel == "replicate":
        return c * model.n_matmul_parameters if precision != "fp32" else 0
    counts = model.parameter_counts()
    layer = (counts["attention"] + counts["feed_forward"]) // model.n_layers + 2 * model.dim
    outside = (
        model.n_parameters - layer * model.n_layers
    )  # embedding, head, projections, last norm: gathered throughout
    gathered = c * (outside + 2 * layer)
    unreduced_gradients = (c + FP32_BYTES) * max(outside, layer)
    return gathered + unreduced_gradients
