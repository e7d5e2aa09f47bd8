"""Stages share the layers so that the slowest is about as fast as may be; the head counts as what it costs."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.model.llama_config import PRESETS, LlamaConfig, preset
from tinyllama.parallel.pipeline_split import (
    SAME_SPEED,
    costs_outside_layers,
    layer_cost,
    layers_per_stage,
    stage_layers,
)

TINYLLAMA, ARTICLE, SMALL = (PRESETS[name] for name in ("tinyllama-1.1b", "article-1.1b", "small-120m"))


def test_costs_by_hand():
    """6 FLOPs a parameter: q and o, k and v, gate up down; attention 6 H K T, T 2048, three times; the head 6 V D."""
    products = 2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 5632
    assert layer_cost(TINYLLAMA) == 6 * products + 3 * 6 * 2048 * 2048 == 339_738_624
    assert costs_outside_layers(TINYLLAMA) == (0, 6 * 32_000 * 2048)
    head = costs_outside_layers(TINYLLAMA)[1] / layer_cost(TINYLLAMA)
    assert head == pytest.approx(393_216_000 / 339_738_624) == pytest.approx(1.157, abs=0.001)  # worth so many layers
    assert layer_cost(TINYLLAMA, "full") * 3 == layer_cost(TINYLLAMA) * 4  # one more forward pass of three
    assert layer_cost(TINYLLAMA, "selective") == 339_738_624 + 2 * 2 * 2048 * 5632
    # article: embeddings of width 1536, joined by projections; head_dim 192, 16 + 4 heads
    assert layer_cost(ARTICLE) == 6 * (2 * 3072 * 192 * 20 + 3 * 3072 * 1920) + 3 * 6 * 16 * 192 * 2048
    assert costs_outside_layers(ARTICLE) == (6 * 3072 * 1536, 6 * 3072 * 1536 + 6 * 32_000 * 1536)
    assert costs_outside_layers(preset("tinyllama-1.1b", tied_head=True)) == costs_outside_layers(TINYLLAMA)


def test_layers_and_head_are_all_of_the_network():
    counted_once = 22 * (layer_cost(TINYLLAMA) - 2 * 6 * 2048 * 2048) + sum(costs_outside_layers(TINYLLAMA))
    assert counted_once + 6 * TINYLLAMA.parameter_counts()["norms"] == TINYLLAMA.flops_per_token()


def test_divisions_by_hand():
    assert stage_layers(TINYLLAMA, 1) == [range(22)]
    # 12 against 10 + 1.16 would be the fastest; 11 against 12.16 is as fast, within 2%, and its first stage smaller
    assert stage_layers(TINYLLAMA, 2) == [range(11), range(11, 22)]
    assert stage_layers(TINYLLAMA, 2, "full") == [range(11), range(11, 22)]  # 11.87: the head is worth 0.87
    assert layers_per_stage(TINYLLAMA, 3) == [7, 8, 7]  # 8.16 at most; 8 with 8 8 6
    assert layers_per_stage(TINYLLAMA, 4) == [6, 6, 6, 4]  # 6 at most; 6 6 5 5 would be 6.16
    assert layers_per_stage(TINYLLAMA, 8) == [3, 3, 3, 3, 3, 3, 3, 1]
    assert layers_per_stage(TINYLLAMA, 22) == [1] * 22
    assert layers_per_stage(ARTICLE, 2) == [12, 12]  # 12.08 against 12.90; 13 and 11 would be 13.08
    assert layers_per_stage(SMALL, 2) == [7, 5]  # the head is worth 2.84 layers: 7.84; 8 and 4 would be 8
    assert layers_per_stage(SMALL, 4) == [3, 4, 4, 1]


@pytest.mark.parametrize("stages", [0, 23])
def test_more_stages_than_layers_are_refused(stages: int):
    with pytest.raises(ValueError, match=f"{stages} stages cannot share 22 layers, each needs one at least"):
        stage_layers(TINYLLAMA, stages)


def every_division(layers: int, stages: int) -> list[list[int]]:
    """All ways to give each stage one layer at least."""
    ends = itertools.combinations(range(1, layers), stages - 1)
    return [[b - a for a, b in itertools.pairwise([0, *inside, layers])] for inside in ends]


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4096), st.sampled_from([0, 4, 256]), st.sampled_from([16, 2048]),
    st.sampled_from(["none", "selective", "full"]),
)  # fmt: skip
def test_no_division_is_better(
    layers: int, stages: int, vocab_size: int, embedding_dim: int, seq_len: int, recompute: str
):
    """Beside every division there is: of those whose slowest stage is near the best, the most equal one."""
    stages = min(stages, layers)
    model = LlamaConfig(
        vocab_size=vocab_size, seq_len=seq_len, dim=32, n_layers=layers, n_heads=4, n_kv_heads=2, ffn_dim=48,
        embedding_dim=embedding_dim,
    )  # fmt: skip
    first, last = costs_outside_layers(model)

    def slowest(sizes: list[int]) -> int:
        costs = [size * layer_cost(model, recompute) for size in sizes]
        costs[0] += first
        costs[-1] += last
        return max(costs)

    found = stage_layers(model, stages, recompute)
    assert [layer for layers in found for layer in layers] == list(range(layers))
    every = every_division(layers, stages)
    allowed = int(min(map(slowest, every)) * (1 + SAME_SPEED))
    fast = [sizes for sizes in every if slowest(sizes) <= allowed]
    wanted = min(fast, key=lambda sizes: (sum(size**2 for size in sizes), sizes))
    assert layers_per_stage(model, stages, recompute) == wanted
