"""Bytes that one device needs, by part, under data parallelism.

Letters as in the network: D dim, H heads, G key and value heads, K head_dim, F ffn_dim, V vocab_size, T seq_len.
Weights, gradients and AdamW's moments are fp32; products run in `precision` (bf16 casts the weights, fp32 does not).

`replicate`: every device holds all of it. `shard`: weights, gradients and moments are divided by the devices (FSDP,
Zhao et al. 2023), and the layer at work and the next one are gathered.
"""

from typing import Literal

from tinyllama.model.llama_config import LlamaConfig

Parallel = Literal["replicate", "shard"]

FP32_BYTES = 4
CONTEXT_BYTES = 1_500_000_000  # assumed: driver context, library workspaces, communication buffers
LOSS_CHUNK_TOKENS = 4096  # logits are made in chunks of so many tokens
USABLE_SHARE = 0.95  # assumed: the rest is lost between blocks of the allocator


def compute_bytes(precision: str) -> int:
    """Bytes of one value in the products' number format."""
    return {"bf16": 2, "fp32": 4}[precision]


def activation_bytes_per_token(model: LlamaConfig, seq_len: int, precision: str) -> int:
    """Bytes of activations kept for the backward pass, all layers, for one token.

    After Korthikanti et al. 2022 (section 4.1), for Llama's layer with the element-wise chains fused, c bytes a value
    in the products and the residual stream in fp32:

        residual stream before each of two norms    8 D
        output of each norm                         2 c D
        queries and attention's output              2 c H K
        keys and values                             2 c G K
        attention's log-sum-exp, fp32               4 H
        gate, up and their product                  3 c F

    The score matrix is never stored, unless attention weights are dropped: then their softmax (fp32), mask and product
    are, (4 + 4 + c) H T.
    """
    c, D, F = compute_bytes(precision), model.dim, model.ffn_dim
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    layer = 8 * D + 2 * c * D + 2 * c * queries + 2 * c * keys + 4 * model.n_heads + 3 * c * F
    if model.dropout > 0:
        layer += 2 * c * D  # the mask of each residual, in the products' format
    if model.attention_dropout > 0:
        layer += (4 + 4 + c) * model.n_heads * seq_len
    return model.n_layers * layer


def uncompiled_activation_bytes(n_bytes: int, precision: str) -> int:
    """Activations of layers that are not compiled, from those of compiled ones: chains keep what lies between their parts.

    Measured by counting what autograd keeps of this network: 1.35 to 1.38 times in fp32, 1.61 to 1.65 times in bf16.
    """
    return n_bytes * {"fp32": 138, "bf16": 165}[precision] // 100


def logits_bytes(model: LlamaConfig, n_tokens: int, precision: str) -> int:
    """Bytes of the loss over `n_tokens`: each one's log-softmax (fp32), and one chunk's logits and gradients."""
    chunk = min(n_tokens, LOSS_CHUNK_TOKENS)
    return model.vocab_size * (n_tokens * FP32_BYTES + chunk * (2 * FP32_BYTES + compute_bytes(precision)))


def memory_parts(
    model: LlamaConfig,
    *,
    micro_batch_size: int,
    seq_len: int,
    precision: str,
    parallel: Parallel,
    n_gpus: int,
    compiled: bool = True,
) -> dict[str, int]:
    """Bytes of one device by part; their sum is the peak, reached where the backward pass begins.

    The optimizer is taken to update in place (a fused kernel): it needs nothing beyond its moments.
    """
    N = model.n_parameters
    held = -(-N // n_gpus) if parallel == "shard" else N
    n_tokens = micro_batch_size * seq_len
    activations = n_tokens * activation_bytes_per_token(model, seq_len, precision)
    return {
        "weights": FP32_BYTES * held,
        "compute_copy": _compute_copy_bytes(model, precision, parallel),
        "gradients": FP32_BYTES * held,
        "optimizer": 2 * FP32_BYTES * held,
        "activations": activations if compiled else uncompiled_activation_bytes(activations, precision),
        "logits": logits_bytes(model, n_tokens, precision),
        "context": CONTEXT_BYTES,
    }


def _compute_copy_bytes(model: LlamaConfig, precision: str, parallel: Parallel) -> int:
    """Weights in the products' format: all when replicated, the gathered ones and their gradients when sharded."""
    c = compute_bytes(precision)
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
