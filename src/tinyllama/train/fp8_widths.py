"""Which networks' products can be computed in fp8. No torch."""

from tinyllama.model.llama_config import LlamaConfig

FP8_MULTIPLE = 16  # of every width of a product, its rows too: the backward pass sums over them


def check_fp8_widths(model: LlamaConfig, micro_batch_tokens: int, tensor: int = 1) -> None:
    """Raises ValueError, with the key and the arithmetic, for a width that fp8 products of `tensor` slices cannot have."""
    heads, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    widths = {  # name of a product's width, and what the slices share of it
        "columns of the residual stream (model.dim)": (model.dim, 1),
        "columns of the heads (model.n_heads x head_dim)": (heads, tensor),
        "columns of queries, keys and values ((n_heads + 2 n_kv_heads) x head_dim)": (heads + 2 * keys, tensor),
        "columns of the feed-forward (model.ffn_dim)": (model.ffn_dim, tensor),
        "tokens of a micro-batch (micro_batch_size x seq_len)": (micro_batch_tokens, 1),
    }
    for what, (count, ranks) in widths.items():
        if count % (FP8_MULTIPLE * ranks):
            share = f"{count} / {ranks} tensor ranks = {count / ranks:g}" if ranks > 1 else f"{count}"
            raise ValueError(
                f"train.precision: 'fp8' needs widths that are multiples of {FP8_MULTIPLE}; the {what} are {share}; "
                "'bf16' would work"
            )
