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
    ("partial_rotary_factor", (None, 1.0)),
    ("quantization_config", (None,)),
)
_MAX_SIZE = 2**31
# Stretchings of the rotary angles: their name, ours; and by their name what each is told, beside theta.
_ROPE_TYPES = {"default": "none", "linear": "linear", "llama3": "llama3"}
_ROPE_FACTORS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"rope_factor": "factor"},
    "llama3": {
        "rope_factor": "factor",
        "rope_low_freq_factor": "low_freq_factor",
        "rope_high_freq_factor": "high_freq_factor",
    },
}

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
        **_rope_to(config),
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
        if value not in allowed:
            raise InputError(f"{path}: {key}: {value!r} is not supported; only {allowed[-1]!r} is")
    found = {ours: _size(path, values, theirs, default) for ours, theirs, default in _SIZES}
    heads = found["n_heads"]
    try:
        return LlamaConfig(
            **found,
            n_kv_heads=_size(path, values, "num_key_value_heads", heads),
            head_dim=_size(path, values, "head_dim", 0),
            tied_head=_flag(path, values, "tie_word_embeddings"),
            **_rope_from(path, values, found["seq_len"]),
            norm_eps=_positive(path, "rms_norm_eps", values.get("rms_norm_eps", 1e-6)),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _rope_from(path: Path, values: dict[str, Any], seq_len: int) -> dict[str, Any]:
    """Our rotary settings, from `rope_parameters` of newer files or `rope_theta` with `rope_scaling` of older ones."""
    key = "rope_scaling" if values.get("rope_scaling") is not None else "rope_parameters"
    given = values.get(key)
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InputError(f"{path}: {key}: {given!r} is not an object")
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_TYPES:
        raise InputError(f"{path}: {key}.rope_type: {kind!r} is not supported; only {', '.join(_ROPE_TYPES)} are")
    theta = given.get("rope_theta", values.get("rope_theta", 10_000.0))
    found: dict[str, Any] = {"rope_theta": _positive(path, "rope_theta", theta), "rope_scaling": _ROPE_TYPES[kind]}
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"{path}: {key}.partial_rotary_factor: {given['partial_rotary_factor']!r}; only 1.0 is read")
    for ours, theirs in _ROPE_FACTORS[kind].items():
        found[ours] = _positive(path, f"{key}.{theirs}", given.get(theirs))
    if kind == "llama3":
        found["rope_original_seq_len"] = _size(path, given, "original_max_position_embeddings", seq_len)
    return found


def _rope_to(config: LlamaConfig) -> dict[str, Any]:
    """Theirs: `rope_parameters`, and the older `rope_theta` beside `rope_scaling`."""
    kind = next(theirs for theirs, ours in _ROPE_TYPES.items() if ours == config.rope_scaling)
    scaling: dict[str, Any] = {"rope_type": kind}
    scaling |= {theirs: getattr(config, ours) for ours, theirs in _ROPE_FACTORS[kind].items()}
    if kind == "llama3":
        scaling["original_max_position_embeddings"] = config.rope_original_seq_len
    both = {"rope_theta": config.rope_theta, "rope_parameters": {**scaling, "rope_theta": config.rope_theta}}
    return both if kind == "default" else {**both, "rope_scaling": {**scaling, "type": kind}}


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
