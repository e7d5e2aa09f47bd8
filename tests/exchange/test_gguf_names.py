"""A GGUF's keys and tensors beside ours, by hand."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny_model import tiny_config
from tinyllama.errors import InputError
from tinyllama.exchange.gguf_names import (
    GgufWeights,
    config_from_metadata,
    config_to_metadata,
    n_heads_of,
    rope_factors,
    to_halves,
    to_neighbours,
)
from tinyllama.exchange.tensor_names import to_gguf
from tinyllama.model.llama_config import LlamaConfig

NAMES = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
    "layers.0.attention_norm.weight": "blk.0.attn_norm.weight",
    "layers.10.attention.q.weight": "blk.10.attn_q.weight",
    "layers.1.attention.k.weight": "blk.1.attn_k.weight",
    "layers.1.attention.v.weight": "blk.1.attn_v.weight",
    "layers.1.attention.o.weight": "blk.1.attn_output.weight",
    "layers.1.feed_forward_norm.weight": "blk.1.ffn_norm.weight",
    "layers.1.feed_forward.gate.weight": "blk.1.ffn_gate.weight",
    "layers.1.feed_forward.up.weight": "blk.1.ffn_up.weight",
    "layers.1.feed_forward.down.weight": "blk.1.ffn_down.weight",
}
VALUES: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 48,
    "llama.embedding_length": 32,
    "llama.block_count": 2,
    "llama.feed_forward_length": 40,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-06,
}
SHAPES: dict[str, tuple[int, ...]] = {"token_embd.weight": (512, 32), "output.weight": (512, 32)}


def gguf(
    values: dict[str, Any], shapes: dict[str, tuple[int, ...]] = SHAPES, factors: torch.Tensor | None = None
) -> Any:
    """Stands for an open file; a value of None is left out."""
    shapes = shapes if factors is None else {**shapes, "rope_freqs.weight": tuple(factors.shape)}
    kept = {key: value for key, value in (VALUES | values).items() if value is not None}
    return SimpleNamespace(path=Path("x.gguf"), metadata=kept, shapes=shapes, tensor=lambda name: factors)


def config(values: dict[str, Any], **given: Any) -> LlamaConfig:
    return config_from_metadata(gguf(values, **given))


def test_names_of_tensors():
    assert {ours: to_gguf(ours) for ours in NAMES} == NAMES
    for name in ("embedding_projection.weight", "layers.0.attention.qkv.weight"):
        with pytest.raises(KeyError):
            to_gguf(name)


def test_rows_of_q_and_k_alone_are_reordered_each_by_its_own_heads():
    ours = tiny_config(n_heads=4, n_kv_heads=2)
    assert {name: n_heads_of(name, ours) for name in NAMES.values()} == {
        name: 4 if "attn_q" in name else 2 if "attn_k" in name else None for name in NAMES.values()
    }
    rows = torch.tensor([[10 * head + row] for head in range(2) for row in range(6)])
    neighbours = to_neighbours(rows, 2)
    assert neighbours.flatten().tolist() == [0, 3, 1, 4, 2, 5, 10, 13, 11, 14, 12, 15]
    assert torch.equal(to_halves(neighbours, 2), rows)
    assert torch.equal(to_halves(to_neighbours(rows.repeat(1, 5), 3), 3), rows.repeat(1, 5))


def test_weights_are_read_in_our_order():
    ours = tiny_config(n_heads=4, n_kv_heads=2)
    rows = torch.arange(32.0)[:, None]
    file: Any = SimpleNamespace(
        path=Path("x"),
        shapes={"a": (1,), "rope_freqs.weight": (4,)},
        tensor=lambda name: rows[: 16 + 16 * ("q" in name)],
    )
    weights = GgufWeights(file, ours)
    assert weights.shapes == {"a": (1,)}
    assert weights.path_of == {"a": Path("x")}
    assert weights.tensor("blk.0.attn_q.weight")[:8, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert weights.tensor("blk.0.attn_k.weight")[8:, 0].tolist() == [8, 10, 12, 14, 9, 11, 13, 15]
    assert torch.equal(weights.tensor("blk.0.attn_v.weight"), rows[:16])


def test_every_setting_has_its_key():
    ours = LlamaConfig(
        vocab_size=500, seq_len=64, dim=24, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=10, ffn_dim=40, norm_eps=1e-6,
        rope_theta=5e5, rope_scaling="linear", rope_factor=4.0,
    )  # fmt: skip
    plain = {
        "llama.vocab_size": 500, "llama.context_length": 64, "llama.embedding_length": 24, "llama.block_count": 3,
        "llama.attention.head_count": 6, "llama.attention.head_count_kv": 2, "llama.attention.key_length": 10,
        "llama.attention.value_length": 10, "llama.feed_forward_length": 40, "llama.rope.dimension_count": 10,
        "llama.attention.layer_norm_rms_epsilon": 1e-6, "llama.rope.freq_base": 5e5,
    }  # fmt: skip
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert config_to_metadata(ours) == plain | linear
    assert config_to_metadata(tiny_config()).keys() == plain.keys()
    metadata = {"general.architecture": "llama", **plain, **linear}
    file: Any = SimpleNamespace(
        path=Path("x"), metadata=metadata, shapes={"token_embd.weight": (500, 24), "output.weight": (500, 24)}
    )
    assert config_from_metadata(file) == ours
    scaled = tiny_config(rope_scaling="llama3", rope_factor=8.0, rope_low_freq_factor=1.5, rope_high_freq_factor=3.0,
                         rope_original_seq_len=24)  # fmt: skip
    written = config_to_metadata(scaled)
    assert {key: value for key, value in written.items() if key.startswith("tinyllama")} == {
        "tinyllama.rope_factor": 8.0,
        "tinyllama.rope_low_freq_factor": 1.5,
        "tinyllama.rope_high_freq_factor": 3.0,
        "tinyllama.rope_original_seq_len": 24,
    }
    assert "llama.rope.scaling.type" not in written
    again = config({"llama.feed_forward_length": 48, "llama.attention.layer_norm_rms_epsilon": scaled.norm_eps} | written,
                   factors=rope_factors(scaled))  # fmt: skip
    assert again == scaled


def test_what_a_file_leaves_out_has_llama_cpps_default():
    found = config({})
    assert (found.n_kv_heads, found.head_dim, found.rope_theta, found.rope_scaling) == (4, 8, 10_000.0, "none")
    assert (found.seq_len, found.dim, found.n_layers, found.ffn_dim, found.vocab_size) == (48, 32, 2, 40, 512)
    assert found.norm_eps == 1e-6
    assert not found.tied_head
    assert config({}, shapes={"token_embd.weight": (512, 32)}).tied_head
    stretched = config({"llama.rope.scaling.factor": 4.0})  # old files name no type
    assert (stretched.rope_scaling, stretched.rope_factor) == ("linear", 4.0)
    assert config({"llama.rope.scaling.type": "linear"}).rope_factor == 1.0
    assert config({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}).rope_scaling == "none"
    for values in ({"llama.expert_count": 0}, {"split.count": 1}):
        assert config(values) == found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"general.architecture": "qwen" * 20}, "general.architecture: 'qwen.*' must be 'llama'; only Llama"),
        ({"general.architecture": None}, "general.architecture: missing"),
        ({"llama.expert_count": 1}, "llama.expert_count: 1 must be 0; mixtures of experts"),
        ({"split.count": 2}, "split.count: 2 must be 1; join the files: llama-gguf-split --merge"),
        ({"llama.attention.key_length": 9}, "head_dim"),
        (
            {"llama.attention.key_length": 4, "llama.attention.value_length": 8},
            "value_length: 8 must be the heads' width 4",
        ),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count: 4 must be the heads' width 8"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type: 'yarn'"),
        ({"llama.rope.freq_base": 0.0}, "llama.rope.freq_base: 0.0 must be greater than 0"),
        ({"llama.rope.freq_base": math.inf}, "llama.rope.freq_base: inf must be a finite number"),
        ({"llama.rope.freq_base": math.nan}, "llama.rope.freq_base: nan"),
        ({"llama.rope.freq_base": True}, "llama.rope.freq_base: True"),
        ({"llama.rope.freq_base": "1" * 99}, "llama.rope.freq_base: '1{12}...1{13}' must be a valid number"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon: missing"),
        ({"llama.context_length": 0}, "llama.context_length: 0 must be greater than 0"),
        ({"llama.context_length": 2**31}, "llama.context_length: 2147483648 must be less than 2147483648"),
        ({"llama.context_length": True}, "llama.context_length: True"),
        ({"llama.context_length": 48.0}, "llama.context_length: 48.0"),
        ({"llama.attention.head_count_kv": 3}, "n_kv_heads"),
    ],
)
def test_settings_that_we_do_not_have_are_named(values: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        config(values)


def test_the_largest_size_and_a_whole_number_for_a_number_are_read():
    assert config({"llama.context_length": 2**31 - 1}).seq_len == 2**31 - 1
    found = config({"llama.rope.freq_base": 1}).rope_theta
    assert (found, type(found)) == (1.0, float)


@pytest.mark.parametrize("shapes", [{}, {"token_embd.weight": (512,)}, {"token_embd.weight": (512, 32, 1)}])
def test_without_an_embedding_there_is_no_vocabulary(shapes: dict[str, tuple[int, ...]]):
    with pytest.raises(InputError, match=r"token_embd\.weight is missing or not a matrix"):
        config({}, shapes=shapes)


def test_factors_of_llama_3_by_hand():
    """With theta 16 and 4 pairs the angles are 1, 1/2, 1/4, 1/8: wave lengths 6.3, 12.6, 25.1, 50.3."""
    ours = LlamaConfig(
        vocab_size=512, seq_len=48, dim=32, n_layers=2, n_heads=4, n_kv_heads=4, ffn_dim=40, head_dim=8, rope_theta=16.0,
        rope_scaling="llama3", rope_factor=4.0, rope_low_freq_factor=1.0, rope_high_freq_factor=4.0,
        rope_original_seq_len=48,
    )  # fmt: skip
    found = rope_factors(ours).tolist()
    share = [(48 / (2 * math.pi * 2**n) - 1) / 3 for n in range(4)]  # of the plain angle, where it is between 0 and 1
    wanted = [1 / (min(max(s, 0), 1) * 1 + (1 - min(max(s, 0), 1)) / 4) for s in share]
    assert found == pytest.approx(wanted, rel=1e-6)
    assert found[0] == 1
    assert found[3] == 4
    assert 1 < found[2] < 4


def llama3(theta: float = 500_000.0) -> LlamaConfig:
    """Llama 3.1's own scaling on a small network."""
    return LlamaConfig(
        vocab_size=512, seq_len=48, dim=32, n_layers=2, n_heads=4, n_kv_heads=4, ffn_dim=40, rope_theta=theta, norm_eps=1e-6,
        rope_scaling="llama3", rope_factor=8.0, rope_low_freq_factor=1.0, rope_high_freq_factor=4.0,
        rope_original_seq_len=8192,
    )  # fmt: skip


def test_llama_3s_factors_alone_tell_its_scaling():
    factors = rope_factors(llama3())
    assert config({"llama.rope.freq_base": 5e5}, factors=factors) == llama3()
    near = factors * torch.tensor([1.0005, 1.0, 1.0005, 1.0])  # as far as their rounding may take them
    assert config({"llama.rope.freq_base": 5e5}, factors=near).rope_factor == pytest.approx(8.0)
    message = "rope_freqs.weight is not that of Llama 3.1"
    off = factors.clone()
    off[1] *= 1.0015
    for given in (off, factors[:3], factors.view(2, 2)):
        with pytest.raises(InputError, match=message):
            config({"llama.rope.freq_base": 5e5}, factors=given)
    with pytest.raises(InputError, match=r"llama\.rope\.scaling\.type: 'linear' beside tensor rope_freqs"):
        config({"llama.rope.scaling.type": "linear"}, factors=factors)
