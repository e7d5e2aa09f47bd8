"""What Hugging Face calls the settings and tensors of a Llama, and what we do: both ways, and nowhere else.

Both turn the halves of a head together in the rotary embedding, so tensors pass unchanged.
"""

from pathlib import Path
from typing import Any

from tinyllama.errors import InputError
from tinyllama.files import read_json
from tinyllama.model.llama_config import LlamaConfig

MODEL_TYPE, ARCHITECTURE = "llama", "LlamaForCausalLM"

# config.json: our name, theirs, the value that theirs has when it is left out (None: it must be there).
_SIZES: tuple[tuple[str, str, int | None], ...] = (
    ("vocab_size", "vocab_size", None),
    ("seq_len", "max_position_embeddings", 2048),
    ("dim", "hidden_size", None),
    ("n_layers", "num_hidden_layers", None),
    ("n_heads", "num_attention_heads", None),
    ("ffn_dim", "intermediate_size", None),
)
# Settings that change the network and that ours does not have: the values that mean "off".
_ONLY: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("hidden_act", (None, "silu")),
    ("attention_bias", (None, False)),
    ("mlp_bias", (None, False)),
    ("rope_scaling", (None,)),
    ("partial_rotary_factor", (None, 1.0)),
    ("quantization_config", (None,)),
)
_MAX_SIZE = 2**31

# Tensors outside the layers, then those of layer N after `layers.N.` and `model.layers.N.`.
_OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.q.weight": "self_attn.q_proj.weight",
    "attention.k.weight": "self_attn.k_proj.weight",
    "attention.v.weight": "self_attn.v_proj.weight",
    "attention.o.weight": "self_attn.o_proj.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.gate.weight": "mlp.gate_proj.weight",
    "feed_forward.up.weight": "mlp.up_proj.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
}


def to_hugging_face(name: str) -> str:
    """Hugging Face's name of a canonical parameter. Raises KeyError for one that it has not (projections)."""
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        return f"model.layers.{layer}.{_LAYER[rest]}"
    return _OUTER[name]


def is_ignored(name: str, tied_head: bool) -> bool:
    """Whether a tensor of theirs holds nothing to load: a rotary table of old files, or a tied head written twice."""
    return name.endswith(".rotary_emb.inv_freq") or (tied_head and name == _OUTER["head.weight"])


def config_to_hugging_face(config: LlamaConfig, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """config.json of a network without projections. Old readers find `rope_theta`, newer ones `rope_parameters`."""
    sizes = {theirs: getattr(config, ours) for ours, theirs, _ in _SIZES}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        **sizes,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_head,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def config_from_hugging_face(path: Path) -> LlamaConfig:
    """The network that a config.json describes.

    Raises InputError, with file, key and value, for another architecture or a setting that our network does not have.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object")
    if values.get("model_type") != MODEL_TYPE:
        raise InputError(f"{path}: model_type: {values.get('model_type')!r}; only {MODEL_TYPE!r} is read")
    for key, allowed in _ONLY:
        value = values.get(key)
        if value not in allowed and not (key == "rope_scaling" and _is_default_rope(value)):
            raise InputError(f"{path}: {key}: {value!r} is not supported; only {allowed[-1]!r} is")
    found = {ours: _size(path, values, theirs, default) for ours, theirs, default in _SIZES}
    heads = found["n_heads"]
    try:
        return LlamaConfig(
            **found,
            n_kv_heads=_size(path, values, "num_key_value_heads", heads),
            head_dim=_size(path, values, "head_dim", 0),
            tied_head=_flag(path, values, "tie_word_embeddings"),
            rope_theta=_rope_theta(path, values),
            norm_eps=_positive(path, "rms_norm_eps", values.get("rms_norm_eps", 1e-6)),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _is_default_rope(value: Any) -> bool:
    return isinstance(value, dict) and value.get("rope_type", value.get("type", "default")) == "default"


def _rope_theta(path: Path, values: dict[str, Any]) -> float:
    parameters = values.get("rope_parameters")
    if parameters is None:
        return _positive(path, "rope_theta", values.get("rope_theta", 10_000.0))
    if not _is_default_rope(parameters):
        raise InputError(f"{path}: rope_parameters: {parameters!r} is not supported; only rope_type 'default' is")
    return _positive(
        path, "rope_parameters.rope_theta", parameters.get("rope_theta", values.get("rope_theta", 10_000.0))
    )


def _size(path: Path, values: dict[str, Any], key: str, default: int | None) -> int:
    value = values.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
        raise InputError(f"{path}: {key}: {value!r} is not a whole number above 0")
    return value


def _flag(path: Path, values: dict[str, Any], key: str) -> bool:
    value = values.get(key)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{path}: {key}: {value!r} is not true or false")
    return bool(value)


def _positive(path: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{path}: {key}: {value!r} is not a number above 0")
    return float(value)
