"""What Hugging Face and GGUF call the tensors of a Llama, by our names."""

# Outside the layers, then inside one. All names end in `.weight`.
_OUTER = {
    "embedding": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
}
_LAYER = {
    "attention_norm": ("input_layernorm", "attn_norm"),
    "attention.q": ("self_attn.q_proj", "attn_q"),
    "attention.k": ("self_attn.k_proj", "attn_k"),
    "attention.v": ("self_attn.v_proj", "attn_v"),
    "attention.o": ("self_attn.o_proj", "attn_output"),
    "feed_forward_norm": ("post_attention_layernorm", "ffn_norm"),
    "feed_forward.gate": ("mlp.gate_proj", "ffn_gate"),
    "feed_forward.up": ("mlp.up_proj", "ffn_up"),
    "feed_forward.down": ("mlp.down_proj", "ffn_down"),
}


def to_hugging_face(name: str) -> str:
    """Hugging Face's name of one of our parameters. Raises KeyError for embedding projections, which it does not have."""
    return _translated(name, 0, "model.layers")


def to_gguf(name: str) -> str:
    """GGUF's name of one of our parameters. Raises KeyError for embedding projections, which it does not have."""
    return _translated(name, 1, "blk")


def _translated(name: str, column: int, layers: str) -> str:
    name = name.removesuffix(".weight")
    if name.startswith("layers."):
        _, number, rest = name.split(".", 2)
        return f"{layers}.{number}.{_LAYER[rest][column]}.weight"
    return f"{_OUTER[name][column]}.weight"
