"""config.json and tensor names beside ours, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import tiny_config
from tinyllama.errors import InputError
from tinyllama.exchange.hugging_face_names import (
    config_from_hugging_face,
    config_to_hugging_face,
    is_ignored,
)
from tinyllama.exchange.tensor_names import to_hugging_face
from tinyllama.model.llama_config import LlamaConfig

NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "layers.0.attention_norm.weight": "model.layers.0.input_layernorm.weight",
    "layers.10.attention.q.weight": "model.layers.10.self_attn.q_proj.weight",
    "layers.1.attention.k.weight": "model.layers.1.self_attn.k_proj.weight",
    "layers.1.attention.v.weight": "model.layers.1.self_attn.v_proj.weight",
    "layers.1.attention.o.weight": "model.layers.1.self_attn.o_proj.weight",
    "layers.1.feed_forward_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "layers.1.feed_forward.gate.weight": "model.layers.1.mlp.gate_proj.weight",
    "layers.1.feed_forward.up.weight": "model.layers.1.mlp.up_proj.weight",
    "layers.1.feed_forward.down.weight": "model.layers.1.mlp.down_proj.weight",
}
LEAST: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 500, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6,
    "intermediate_size": 40,
}  # fmt: skip
OURS = LlamaConfig(
    vocab_size=500, seq_len=64, dim=24, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=10, ffn_dim=40, norm_eps=1e-6,
    rope_theta=5e5, tied_head=True,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def read(path: Path, **changes: Any) -> LlamaConfig:
    path.write_text(json.dumps(LEAST | changes))
    return config_from_hugging_face(path)


def test_names_of_tensors():
    assert {ours: to_hugging_face(ours) for ours in NAMES} == NAMES
    with pytest.raises(KeyError):
        to_hugging_face("embedding_projection.weight")


def test_what_is_passed_over():
    rotary = "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert is_ignored(rotary, False)
    assert is_ignored(rotary, True)
    assert is_ignored("lm_head.weight", True)
    for name, tied in (("lm_head.weight", False), ("model.norm.weight", True), ("model.embed_tokens.weight", True)):
        assert not is_ignored(name, tied)


def test_every_setting_has_its_key():
    written = config_to_hugging_face(OURS, 1, None)
    assert written == {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 500, "max_position_embeddings": 64,
        "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 40,
        "num_key_value_heads": 2, "head_dim": 10, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 5e5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "use_cache": True, "bos_token_id": 1, "eos_token_id": None, "dtype": "float32", "torch_dtype": "float32",
    }  # fmt: skip


SCALED = tiny_config(
    rope_scaling="llama3",
    rope_factor=8.0,
    rope_low_freq_factor=1.5,
    rope_high_freq_factor=3.0,
    rope_original_seq_len=24,
)


@pytest.mark.parametrize(
    ("ours", "scaling"),
    [
        (tiny_config(rope_scaling="linear", rope_factor=4.0), {"rope_type": "linear", "factor": 4.0}),
        (
            SCALED,
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.5,
                "high_freq_factor": 3.0,
                "original_max_position_embeddings": 24,
            },
        ),
    ],
)
def test_stretched_rope_is_written_for_new_and_old_readers(path: Path, ours: LlamaConfig, scaling: dict[str, Any]):
    written = config_to_hugging_face(ours, None, None)
    assert written["rope_parameters"] == scaling | {"rope_theta": ours.rope_theta}
    assert written["rope_scaling"] == scaling | {"type": scaling["rope_type"]}
    for left_out in ("rope_parameters", "rope_scaling", None):
        path.write_text(json.dumps({key: value for key, value in written.items() if key != left_out}))
        assert config_from_hugging_face(path) == ours


def test_what_is_written_is_read(path: Path):
    path.write_text(json.dumps(config_to_hugging_face(OURS, None, None)))
    assert config_from_hugging_face(path) == OURS


def test_what_a_config_leaves_out_has_their_default(path: Path):
    found = read(path)
    assert (found.seq_len, found.n_kv_heads, found.head_dim, found.norm_eps) == (2048, 6, 4, 1e-6)
    assert (found.rope_theta, found.rope_scaling, found.tied_head) == (10_000.0, "none", False)
    assert (found.vocab_size, found.dim, found.n_layers, found.n_heads, found.ffn_dim) == (500, 24, 3, 6, 40)
    nulls = (
        "num_key_value_heads head_dim tie_word_embeddings hidden_act attention_bias mlp_bias partial_rotary_factor "
        "quantization_config rope_scaling rope_parameters max_position_embeddings"
    )
    assert read(path, **dict.fromkeys(nulls.split())) == found
    off = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0}
    assert read(path, **off) == found
    assert read(path, rope_parameters={"partial_rotary_factor": 1.0}) == found


def test_each_setting_is_read(path: Path):
    found = read(
        path, max_position_embeddings=99, num_key_value_heads=3, head_dim=8, rms_norm_eps=1e-4, rope_theta=7.0,
        tie_word_embeddings=True, vocab_size=501, hidden_size=48, num_hidden_layers=4, intermediate_size=41,
    )  # fmt: skip
    assert found == LlamaConfig(
        vocab_size=501, seq_len=99, dim=48, n_layers=4, n_heads=6, n_kv_heads=3, head_dim=8, ffn_dim=41, norm_eps=1e-4,
        rope_theta=7.0, tied_head=True,
    )  # fmt: skip
    linear = read(path, rope_theta=7.0, rope_scaling={"type": "linear", "factor": 3, "rope_theta": 9.0})
    assert (linear.rope_scaling, linear.rope_factor, linear.rope_theta) == ("linear", 3.0, 9.0)
    both = read(path, rope_scaling={"type": "linear", "factor": 3}, rope_parameters={"rope_type": "default"})
    assert both.rope_scaling == "linear"
    assert read(path, rope_scaling={"rope_type": "linear", "type": "yarn", "factor": 3}).rope_scaling == "linear"


def test_frequency_factors_are_read_each_under_its_name(path: Path):
    given: dict[str, Any] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.5, "high_freq_factor": 3.0}
    found = read(path, rope_parameters=given | {"original_max_position_embeddings": 24})
    values = (found.rope_factor, found.rope_low_freq_factor, found.rope_high_freq_factor, found.rope_original_seq_len)
    assert values == (8.0, 1.5, 3.0, 24)
    assert read(path, rope_parameters=given, max_position_embeddings=77).rope_original_seq_len == 77


@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
)
def test_a_size_that_must_be_there(path: Path, key: str):
    with pytest.raises(InputError, match=f"{key}: None must be a valid integer"):
        read(path, **{key: None})
    path.write_text(json.dumps({name: value for name, value in LEAST.items() if name != key}))
    with pytest.raises(InputError, match=f"{key}: missing"):
        config_from_hugging_face(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size: 0 must be greater than 0"),
        ({"vocab_size": 2**31}, "vocab_size: 2147483648"),
        ({"vocab_size": True}, "vocab_size: True"),
        ({"vocab_size": 500.0}, "vocab_size: 500.0"),
        ({"max_position_embeddings": 0}, "max_position_embeddings: 0"),
        ({"head_dim": 0}, "head_dim: 0"),
        ({"head_dim": 7}, "head_dim"),
        ({"rms_norm_eps": 0}, "rms_norm_eps: 0 must be greater than 0"),
        ({"rms_norm_eps": None}, "rms_norm_eps: None"),
        ({"rms_norm_eps": True}, "rms_norm_eps: True"),
        ({"rope_theta": float("inf")}, "rope_theta: inf"),
        ({"rope_theta": float("nan")}, "rope_theta: nan"),
        ({"rope_theta": -1.0}, "rope_theta: -1.0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: 1 must be a valid boolean"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 must be greater than or equal to 1"),
        ({"hidden_act": "relu"}, "hidden_act: 'relu' must be 'silu'"),
        ({"quantization_config": {}}, "quantization_config: {} must be None; convert the weights"),
        ({"rope_parameters": {"partial_rotary_factor": 2.0}}, "rope_parameters.partial_rotary_factor: 2.0"),
        ({"rope_scaling": "linear"}, "rope_scaling: 'linear' must be a valid dictionary"),
        ({"rope_scaling": {"type": 3}}, "rope_scaling.rope_type: 3 must be one of default, linear, llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor: 0"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: missing"),
        ({"attention_bias": True}, "attention_bias: True must be False"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling.rope_type: 'yarn' must be one of"),
        ({"model_type": None}, "model_type: None must be 'llama'; only Llama networks are supported"),
    ],
)
def test_what_is_no_setting_of_ours_is_named(path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        read(path, **changes)
    assert message in str(caught.value)


def test_the_largest_size_is_read(path: Path):
    assert read(path, vocab_size=2**31 - 1).vocab_size == 2**31 - 1
    path.write_text("[]")
    with pytest.raises(InputError, match="not a JSON object"):
        config_from_hugging_face(path)
