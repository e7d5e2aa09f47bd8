"""Maps the settings of a Llama between GGUF metadata and ours, in both directions, and the row order of q and k.

In the rotary embedding llama.cpp rotates the pairs (2i, 2i + 1) of a head, we rotate (i, i + K/2).
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.exchange.file_settings import FileSettings, Positive, Size
from tinyllama.exchange.gguf_format import GgufFile
from tinyllama.exchange.tensor_names import to_gguf
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.rotary import rotary_frequencies

ARCHITECTURE, EMBEDDING, ROPE_FACTORS = "llama", "token_embd.weight", "rope_freqs.weight"
Metadata = dict[str, Any]


class _GgufSizes(FileSettings):
    """Sizes of the network, by our names."""

    seq_len: Size = Field(alias="llama.context_length")
    dim: Size = Field(alias="llama.embedding_length")
    n_layers: Size = Field(alias="llama.block_count")
    ffn_dim: Size = Field(alias="llama.feed_forward_length")
    n_heads: Size = Field(alias="llama.attention.head_count")


class _Llama3Factors(FileSettings):
    """llama.cpp stores the scaling of Llama 3 only as a tensor of factors; these are what they are computed from."""

    rope_factor: Positive | None = Field(None, alias="tinyllama.rope_factor")
    rope_low_freq_factor: Positive = Field(1.0, alias="tinyllama.rope_low_freq_factor")  # defaults: Llama 3.1 and 3.2
    rope_high_freq_factor: Positive = Field(4.0, alias="tinyllama.rope_high_freq_factor")
    rope_original_seq_len: Size = Field(8192, alias="tinyllama.rope_original_seq_len")


class _NetworkMetadata(_GgufSizes):
    """Settings that are read from the metadata. Those with one permitted value would change the network in another way."""

    architecture: Literal["llama"] = Field(
        alias="general.architecture", description="only Llama networks are supported"
    )
    n_experts: Literal[0] = Field(0, alias="llama.expert_count", description="mixtures of experts are not supported")
    n_files: Literal[1] = Field(1, alias="split.count", description="join the files: llama-gguf-split --merge")
    n_kv_heads: Size | None = Field(None, alias="llama.attention.head_count_kv")
    key_length: Size | None = Field(None, alias="llama.attention.key_length")
    value_length: Size | None = Field(None, alias="llama.attention.value_length")
    rotary_length: Size | None = Field(None, alias="llama.rope.dimension_count")
    norm_eps: Positive = Field(alias="llama.attention.layer_norm_rms_epsilon")
    rope_theta: Positive = Field(10_000.0, alias="llama.rope.freq_base")
    rope_scaling: Literal["none", "linear"] | None = Field(None, alias="llama.rope.scaling.type")
    rope_factor: Positive | None = Field(None, alias="llama.rope.scaling.factor")


def n_heads_of(name: str, config: LlamaConfig) -> int | None:
    """Number of heads of a tensor (by GGUF's name) whose rows have another order in GGUF; None for all others."""
    if name.endswith(".attn_q.weight"):
        return config.n_heads
    return config.n_kv_heads if name.endswith(".attn_k.weight") else None


def to_neighbours(weight: Tensor, heads: int) -> Tensor:  # (heads x K, D) -> the same
    """Rows of each head from (i, i + K/2) order to llama.cpp's."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def to_halves(weight: Tensor, heads: int) -> Tensor:  # (heads x K, D) -> the same
    """The inverse of `to_neighbours`."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def rope_factors(config: LlamaConfig) -> Tensor:
    """The divisor of each pair's unscaled frequency under llama3 scaling, shape (K / 2,)."""
    plain = replace(config, rope_scaling="none")
    cpu, fp64 = torch.device("cpu"), torch.float64
    return (rotary_frequencies(plain, cpu, fp64) / rotary_frequencies(config, cpu, fp64)).float()


def config_to_metadata(config: LlamaConfig) -> Metadata:
    """Metadata of a network without projections."""
    found: Metadata = _by_key(_GgufSizes, config)
    found |= {
        "llama.vocab_size": config.vocab_size,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
    }
    if config.rope_scaling == "linear":
        found |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        found |= _by_key(_Llama3Factors, config)
    return found


def _by_key(settings: type[FileSettings], config: LlamaConfig) -> Metadata:
    return {field.alias or ours: getattr(config, ours) for ours, field in settings.model_fields.items()}


class GgufWeights:
    """The network's tensors in a GGUF file, by GGUF's names, with rows in our order."""

    def __init__(self, file: GgufFile, config: LlamaConfig) -> None:
        self._file, self._config = file, config
        self.shapes = {name: shape for name, shape in file.shapes.items() if name != ROPE_FACTORS}
        self.path_of = dict.fromkeys(self.shapes, file.path)

    def tensor(self, name: str) -> Tensor:
        """The tensor in fp32 on the CPU. Raises InputError when it holds a NaN or an infinity."""
        values, heads = self._file.tensor(name), n_heads_of(name, self._config)
        return values if heads is None else to_halves(values, heads)


def config_from_metadata(file: GgufFile) -> LlamaConfig:
    """The network that a GGUF file describes.

    Raises InputError, with file, key and value, for another architecture or a setting that our network does not have.
    """
    path, found = file.path, _NetworkMetadata.read(file.metadata, file.path)
    embedding = file.shapes.get(EMBEDDING)
    if embedding is None or len(embedding) != 2:
        raise InputError(f"{path}: tensor {EMBEDDING} is missing or not a matrix")
    try:
        config = LlamaConfig(
            **found.model_dump(include=set(_GgufSizes.model_fields)),
            vocab_size=embedding[0],
            n_kv_heads=found.n_kv_heads or found.n_heads,
            head_dim=found.key_length or found.dim // found.n_heads,
            tied_head=to_gguf("head.weight") not in file.shapes,
            norm_eps=found.norm_eps,
            rope_theta=found.rope_theta,
            **_rope_scaling(file, found),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    for name in ("value_length", "rotary_length"):
        if getattr(found, name) not in (None, config.head_dim):
            key = _NetworkMetadata.model_fields[name].alias
            raise InputError(f"{path}: {key}: {getattr(found, name)} must be the heads' width {config.head_dim}")
    if config.rope_scaling == "llama3":
        right_size = file.shapes[ROPE_FACTORS] == (config.head_dim // 2,)
        if not right_size or not torch.allclose(rope_factors(config), file.tensor(ROPE_FACTORS), rtol=1e-3):
            raise InputError(f"{path}: tensor {ROPE_FACTORS} is not that of Llama 3.1's rotary scaling")
    return config


def _rope_scaling(file: GgufFile, found: _NetworkMetadata) -> dict[str, Any]:
    kind = found.rope_scaling or ("none" if found.rope_factor is None else "linear")  # old files name no type
    if ROPE_FACTORS in file.shapes:
        if kind != "none":
            raise InputError(
                f"{file.path}: llama.rope.scaling.type: {kind!r} beside tensor {ROPE_FACTORS} is not supported"
            )
        rope = _Llama3Factors.read(file.metadata, file.path).model_dump()
        rope["rope_factor"] = rope["rope_factor"] or file.tensor(ROPE_FACTORS).max().item()
        return rope | {"rope_scaling": "llama3"}
    return {"rope_scaling": kind, "rope_factor": found.rope_factor or 1.0} if kind == "linear" else {}
