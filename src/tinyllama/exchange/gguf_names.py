"""What GGUF files call the settings and tensors of a Llama, and what we do: both ways, and nowhere else.

llama.cpp turns neighbours (2i, 2i + 1) of a head in the rotary embedding, we turn (i, i + K/2): rows of q and k are
reordered on the way.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.exchange.gguf_format import GgufFile
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.rotary import rotary_frequencies

ARCHITECTURE, ROPE_FACTORS = "llama", "rope_freqs.weight"
Metadata = dict[str, Any]

# Tensors outside the layers, then those of layer N after `layers.N.` and `blk.N.`.
_OUTER = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight"}
_LAYER = {
    "attention_norm.weight": "attn_norm.weight",
    "attention.q.weight": "attn_q.weight",
    "attention.k.weight": "attn_k.weight",
    "attention.v.weight": "attn_v.weight",
    "attention.o.weight": "attn_output.weight",
    "feed_forward_norm.weight": "ffn_norm.weight",
    "feed_forward.gate.weight": "ffn_gate.weight",
    "feed_forward.up.weight": "ffn_up.weight",
    "feed_forward.down.weight": "ffn_down.weight",
}
_SIZES = {
    "seq_len": "llama.context_length",
    "dim": "llama.embedding_length",
    "n_layers": "llama.block_count",
    "ffn_dim": "llama.feed_forward_length",
    "n_heads": "llama.attention.head_count",
}
# llama.cpp knows llama3's scaling only as the resulting factors; these say what they came from.
_LLAMA3 = {
    "rope_factor": "tinyllama.rope_factor",
    "rope_low_freq_factor": "tinyllama.rope_low_freq_factor",
    "rope_high_freq_factor": "tinyllama.rope_high_freq_factor",
    "rope_original_seq_len": "tinyllama.rope_original_seq_len",
}


def to_gguf(name: str) -> str:
    """GGUF's name of a canonical parameter. Raises KeyError for one that it has not (projections)."""
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        return f"blk.{layer}.{_LAYER[rest]}"
    return _OUTER[name]


def n_heads_of(name: str, config: LlamaConfig) -> int | None:
    """Heads of a tensor (in GGUF's name) whose rows are in another order there; None for all others."""
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
    """By what each pair's plain angle is divided under llama3 scaling, shape (K / 2,)."""
    plain = replace(config, rope_scaling="none")
    cpu, exact = torch.device("cpu"), torch.float64
    return (rotary_frequencies(plain, cpu, exact) / rotary_frequencies(config, cpu, exact)).float()


def config_to_metadata(config: LlamaConfig) -> Metadata:
    """Metadata of a network without projections."""
    found: Metadata = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
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
        found |= {theirs: getattr(config, ours) for ours, theirs in _LLAMA3.items()}
    return found


class GgufWeights:
    """A GGUF file's tensors as a network's: by GGUF's names, rows in our order. Closing it closes the file."""

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
    path, values = file.path, file.metadata
    if values.get("general.architecture") != ARCHITECTURE:
        found = str(values.get("general.architecture"))[:40]
        raise InputError(f"{path}: general.architecture: {found!r}; only {ARCHITECTURE!r} is read")
    if values.get("llama.expert_count", 0) != 0:
        raise InputError(f"{path}: llama.expert_count: a mixture of experts is not supported")
    if values.get("split.count", 1) != 1:
        raise InputError(f"{path}: split.count: one of several files; llama-gguf-split --merge makes them one")
    sizes = {ours: _size(path, values, theirs) for ours, theirs in _SIZES.items()}
    embedding = file.shapes.get(_OUTER["embedding.weight"])
    if embedding is None or len(embedding) != 2:
        raise InputError(f"{path}: tensor {_OUTER['embedding.weight']} is missing or no matrix")
    try:
        config = LlamaConfig(
            **sizes,
            vocab_size=embedding[0],
            n_kv_heads=_size(path, values, "llama.attention.head_count_kv", sizes["n_heads"]),
            head_dim=_size(path, values, "llama.attention.key_length", sizes["dim"] // sizes["n_heads"]),
            tied_head=_OUTER["head.weight"] not in file.shapes,
            norm_eps=_number(path, values, "llama.attention.layer_norm_rms_epsilon"),
            **_rope(file),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if _size(path, values, key, config.head_dim) != config.head_dim:
            raise InputError(f"{path}: {key}: {values[key]} is not the heads' width {config.head_dim}")
    if config.rope_scaling == "llama3":
        right_size = file.shapes[ROPE_FACTORS] == (config.head_dim // 2,)
        if not right_size or not torch.allclose(rope_factors(config), file.tensor(ROPE_FACTORS), rtol=1e-3):
            raise InputError(f"{path}: tensor {ROPE_FACTORS} is not that of Llama 3.1's rotary scaling")
    return config


def _rope(file: GgufFile) -> dict[str, Any]:
    path, values = file.path, file.metadata
    theta = _number(path, values, "llama.rope.freq_base", 10_000.0)
    kind = values.get("llama.rope.scaling.type", "linear" if "llama.rope.scaling.factor" in values else "none")
    if ROPE_FACTORS in file.shapes:
        if kind != "none":
            raise InputError(f"{path}: llama.rope.scaling.type: {kind!r} beside tensor {ROPE_FACTORS} is not supported")
        defaults = {"rope_factor": file.tensor(ROPE_FACTORS).max().item(), "rope_low_freq_factor": 1.0}
        defaults |= {"rope_high_freq_factor": 4.0, "rope_original_seq_len": 8192}  # Llama 3.1's and 3.2's
        given = {ours: _number(path, values, theirs, defaults[ours]) for ours, theirs in _LLAMA3.items()}
        given["rope_original_seq_len"] = int(given["rope_original_seq_len"])
        return {"rope_theta": theta, "rope_scaling": "llama3", **given}
    if kind == "linear":
        factor = _number(path, values, "llama.rope.scaling.factor", 1.0)
        return {"rope_theta": theta, "rope_scaling": "linear", "rope_factor": factor}
    if kind != "none":
        raise InputError(f"{path}: llama.rope.scaling.type: {str(kind)[:40]!r} is not supported; none and linear are")
    return {"rope_theta": theta}


def _size(path: Path, values: Metadata, key: str, default: int | None = None) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise InputError(f"{path}: {key}: {str(value)[:40]} is not a whole number above 0")
    return value


def _number(path: Path, values: Metadata, key: str, default: float | None = None) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{path}: {key}: {str(value)[:40]} is not a number above 0")
    return float(value)
