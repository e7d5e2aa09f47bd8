import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import PRESETS, LlamaConfig, preset


@pytest.mark.parametrize(("name", "count"), [("tinyllama-1.1b", 1_100_048_384), ("article-1.1b", 1_098_796_032)])
def test_presets_have_the_published_number_of_parameters(name: str, count: int):
    assert PRESETS[name].n_parameters == count


@pytest.mark.parametrize("name", PRESETS)
def test_counts_are_those_of_the_network(name: str):
    with torch.device("meta"):
        model = Llama(PRESETS[name])
    assert sum(value.numel() for value in model.parameters()) == PRESETS[name].n_parameters


def test_flops_of_tinyllama_by_hand():
    config = PRESETS["tinyllama-1.1b"]
    assert config.n_matmul_parameters == 1_034_512_384
    assert config.flops_per_token("palm") == 6 * 1_034_512_384 + 12 * 22 * 2048 * 2048
    assert config.flops_per_token("causal") == 6 * 1_034_512_384 + 6 * 22 * 2048 * 2048


def test_tied_head_counts_as_a_product_but_once_as_a_parameter():
    tied, untied = (
        LlamaConfig(vocab_size=100, dim=8, n_heads=2, n_kv_heads=1, tied_head=tied) for tied in (True, False)
    )
    assert untied.n_parameters - tied.n_parameters == 100 * 8
    assert untied.n_matmul_parameters == tied.n_matmul_parameters


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"dim": 0}, "dim"),
        ({"n_heads": 6, "n_kv_heads": 4}, "n_kv_heads"),
        ({"dim": 30, "n_heads": 4}, "n_heads"),
        ({"dim": 30, "n_heads": 4, "head_dim": 5}, "head_dim"),
        ({"dropout": 1.0}, "dropout"),
        ({"rope_scaling": "yarn"}, "rope_scaling: 'yarn' must be one of none, linear, llama3"),
        ({"rope_factor": 0.5}, "rope_factor"),
        ({"rope_low_freq_factor": 4.0}, "rope_low_freq_factor"),
        ({"rope_original_seq_len": 0}, "rope_original_seq_len"),
    ],
)
def test_impossible_shapes_are_named(values: dict, word: str):
    with pytest.raises(ValueError, match=word):
        LlamaConfig(**values)


def test_values_go_round():
    config = PRESETS["article-1.1b"]
    assert LlamaConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="n_legs"):
        LlamaConfig.from_dict({"n_legs": 4})


def test_preset_with_another_width_gets_heads_that_fit():
    config = preset("tinyllama-1.1b", dim=1024)
    assert (config.head_dim, config.embedding_dim, config.has_projections) == (32, 1024, False)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 2))
def test_counts_hold_for_any_shape(groups: int, per_group: int, layers: int, tied: bool, narrow: int):
    config = LlamaConfig(
        vocab_size=11, dim=24, n_layers=layers, n_heads=groups * per_group, n_kv_heads=groups, head_dim=6, ffn_dim=7,
        embedding_dim=24 - 8 * narrow, tied_head=tied,
    )  # fmt: skip
    with torch.device("meta"):
        assert sum(value.numel() for value in Llama(config).parameters()) == config.n_parameters
