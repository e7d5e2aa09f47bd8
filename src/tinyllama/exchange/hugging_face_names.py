"""Maps the settings of a Llama between Hugging Face's config.json and ours, in both directions.

Both implementations rotate the two halves of a head in the rotary embedding, so tensors are not reordered.
"""

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tinyllama.errors import InputError
from tinyllama.exchange.file_settings import FileSettings, Positive, Size
from tinyllama.exchange.tensor_names import to_hugging_face
from tinyllama.files import read_json
from tinyllama.model.llama_config import LlamaConfig

One = Annotated[float, Field(ge=1, le=1)]
DEFAULT_SEQ_LEN = 2048  # Transformers' default of max_position_embeddings


class _ConfigSizes(FileSettings):
    """Sizes of the network, by our names."""

    vocab_size: Size
    seq_len: Size | None = Field(None, alias="max_position_embeddings")
    dim: Size = Field(alias="hidden_size")
    n_layers: Size = Field(alias="num_hidden_layers")
    n_heads: Size = Field(alias="num_attention_heads")
    ffn_dim: Size = Field(alias="intermediate_size")
    n_kv_heads: Size | None = Field(None, alias="num_key_value_heads")
    head_dim: Size | None = None


class _ConfigJson(_ConfigSizes):
    """Settings that are read from config.json. Those with one permitted value would change the network in another way."""

    model_type: Literal["llama"] = Field(description="only Llama networks are supported")
    norm_eps: Positive = Field(1e-6, alias="rms_norm_eps")
    tied_head: bool | None = Field(None, alias="tie_word_embeddings")
    rope_theta: Positive | None = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    hidden_act: Literal["silu"] | None = None
    attention_bias: Literal[False] | None = None
    mlp_bias: Literal[False] | None = None
    partial_rotary_factor: One | None = None
    quantization_config: None = Field(None, description="convert the weights to f32, f16 or bf16")


class _Rope(FileSettings):
    """Rotary settings without scaling, from either object; `rope_theta` may also be a key of config.json itself."""

    rope_theta: Positive
    partial_rotary_factor: One = 1.0


class _LinearRope(_Rope):
    rope_factor: Positive = Field(alias="factor")


class _Llama3Rope(_LinearRope):
    rope_low_freq_factor: Positive = Field(alias="low_freq_factor")
    rope_high_freq_factor: Positive = Field(alias="high_freq_factor")
    rope_original_seq_len: Size | None = Field(None, alias="original_max_position_embeddings")


_ROPE_KINDS = {"default": _Rope, "linear": _LinearRope, "llama3": _Llama3Rope}


def is_ignored(name: str, tied_head: bool) -> bool:
    """Whether a tensor need not be loaded: a rotary table of old files, or a tied head that is stored again."""
    return name.endswith(".rotary_emb.inv_freq") or (tied_head and name == to_hugging_face("head.weight"))


def config_to_hugging_face(config: LlamaConfig, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """config.json of a network without projections. Old versions read `rope_theta`, newer ones `rope_parameters`."""
    sizes = {field.alias or ours: getattr(config, ours) for ours, field in _ConfigSizes.model_fields.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
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
    found = _ConfigJson.read(values, path)
    sizes = found.model_dump(include=set(_ConfigSizes.model_fields))
    sizes["seq_len"] = sizes["seq_len"] or DEFAULT_SEQ_LEN
    sizes["n_kv_heads"] = sizes["n_kv_heads"] or found.n_heads
    sizes["head_dim"] = sizes["head_dim"] or 0
    rope = _rope_from(path, found, sizes["seq_len"])
    try:
        return LlamaConfig(**sizes, **rope, tied_head=bool(found.tied_head), norm_eps=found.norm_eps)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _rope_from(path: Path, config: _ConfigJson, seq_len: int) -> dict[str, Any]:
    """Our rotary settings, from `rope_parameters` of newer files, or `rope_theta` and `rope_scaling` of older ones."""
    key = "rope_parameters" if config.rope_scaling is None else "rope_scaling"
    given = getattr(config, key) or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_KINDS:
        raise InputError(f"{path}: {key}.rope_type: {reprlib.repr(kind)} must be one of {', '.join(_ROPE_KINDS)}")
    found = _ROPE_KINDS[kind].read({"rope_theta": config.rope_theta} | given, path, key)
    rope = found.model_dump(exclude={"partial_rotary_factor"})
    if kind == "llama3":
        rope["rope_original_seq_len"] = rope["rope_original_seq_len"] or seq_len
    return rope | {"rope_scaling": "none" if kind == "default" else kind}


def _rope_to(config: LlamaConfig) -> dict[str, Any]:
    """Rotary settings in both spellings: `rope_parameters`; `rope_theta` and `rope_scaling`."""
    kind = "default" if config.rope_scaling == "none" else config.rope_scaling
    scaling: dict[str, Any] = {"rope_type": kind}
    scaling |= {
        field.alias: getattr(config, ours) for ours, field in _ROPE_KINDS[kind].model_fields.items() if field.alias
    }
    both = {"rope_theta": config.rope_theta, "rope_parameters": {**scaling, "rope_theta": config.rope_theta}}
    return both if kind == "default" else {**both, "rope_scaling": {**scaling, "type": kind}}
