"""Layouts that a network or a batch cannot have are refused with the arithmetic and with layouts that work."""

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import overrides
from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import PRESETS, LlamaConfig
from tinyllama.parallel.layout import ParallelConfig, check_layout, find_fault, fitting_layouts
from tinyllama.recipe import load_recipe

TINYLLAMA = PRESETS["tinyllama-1.1b"]
BATCH = {"micro_batches": 64, "micro_batch_tokens": 16 * 2048}


def test_sizes_by_hand():
    layout = ParallelConfig(replicate=2, shard=3, tensor=4, pipeline=5)
    assert (layout.world_size, layout.data_ranks, layout.is_model_parallel) == (120, 6, True)
    assert layout.words() == "replicate 2 x shard 3 x tensor 4 x pipeline 5"
    assert (ParallelConfig().words(), ParallelConfig(replicate=4).is_model_parallel) == ("one process", False)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"tensor": 8},
            r"parallel\.tensor: 8 ranks cannot share 4 key and value heads \(model\.n_kv_heads\) evenly, "
            r"4 / 8 = 0\.5; 1, 2 or 4 could\. 8 processes could be replicate 8; or shard 8; or ",
        ),
        (
            {"tensor": 3},
            r"3 ranks cannot share 32 attention heads .*, 32 / 3 = 10\.67; .* 3 processes could be pipeline 3$",
        ),
        (
            {"pipeline": 32},
            r"parallel\.pipeline: 32 stages cannot share 22 layers \(model\.n_layers\), each needs one at least; "
            r"1 to 22 stages could\. 32 processes could be replicate 32",
        ),
        (
            {"replicate": 64, "pipeline": 2},
            r"2 stages need as many micro-batches a step, each data rank has 64 / 64 = 1; a smaller",
        ),
        (
            {"replicate": 8, "shard": 16},
            r"parallel\.shard: replicate x shard = 8 x 16 = 128 ranks cannot share the step's 64 micro-batches .*; 1, 2, 4,",
        ),
    ],
)
def test_refusals_show_the_arithmetic(sizes: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        check_layout(TINYLLAMA, ParallelConfig.model_validate(sizes), **BATCH)


def test_a_recipe_is_checked_when_it_is_loaded():
    with pytest.raises(
        RecipeError, match=r"recipe quickstart: parallel\.tensor: 8 ranks cannot share 4 attention heads"
    ):
        load_recipe("quickstart", overrides(parallel__tensor=8))
    loaded = load_recipe(
        "tinyllama-1b",
        overrides(parallel__tensor=2, parallel__pipeline=2, parallel__shard=2, train__micro_batch_size=1),
    )
    assert loaded.layout().ranks == 2


def test_what_needs_whole_networks_is_refused():
    cut = {"parallel__tensor": 2, "parallel__shard": 2, "train__micro_batch_size": 1}
    with pytest.raises(
        RecipeError,
        match=r"train\.deterministic_reduction.* works with parallel\.replicate alone; .*parallel\.replicate=4 with",
    ):
        load_recipe("tinyllama-1b", overrides(train__deterministic_reduction=True, **cut))


@given(world=st.sampled_from([2, 4, 8, 12, 16]), micro_batches=st.integers(1, 64))
def test_named_layouts_work_and_none_is_left_out(world: int, micro_batches: int):
    found = list(fitting_layouts(TINYLLAMA, world, micro_batches, 2048))
    assert len(found) == len({layout.words() for layout in found})
    every = [
        ParallelConfig(replicate=r, shard=s, tensor=t, pipeline=p)
        for r, s, t, p in itertools.product(range(1, world + 1), repeat=4)
        if r * s * t * p == world
    ]
    for layout in every:
        assert (find_fault(TINYLLAMA, layout, micro_batches, 2048) is None) == (layout in found)


# -- each axis alone, at its edge --------------------------------------------------------------------------------------

SIXTH = LlamaConfig(vocab_size=30, dim=24, n_layers=4, n_heads=12, n_kv_heads=6, head_dim=2, ffn_dim=18)


@pytest.mark.parametrize(
    ("changes", "sizes", "batch", "begins"),
    [
        ({}, {"tensor": 6}, (4, 12), None),
        ({"n_heads": 18, "n_kv_heads": 9}, {"tensor": 2}, (4, 12), r"2 ranks cannot share 9 key and value heads"),
        ({"n_heads": 9, "n_kv_heads": 3}, {"tensor": 2}, (4, 12), r"2 ranks cannot share 9 attention heads"),
        (
            {"ffn_dim": 20},
            {"tensor": 6},
            (4, 12),
            r"6 ranks cannot share 20 columns of the feed-forward .* 20 / 6 = 3\.333",
        ),
        ({"vocab_size": 31}, {"tensor": 6}, (4, 12), r"cannot share 31 rows of the vocabulary .*; 1 or 31 could"),
        ({}, {"tensor": 6}, (4, 13), r"cannot share 13 tokens of a micro-batch"),
        ({"vocab_size": 31, "ffn_dim": 19}, {}, (4, 13), None),
        ({}, {"pipeline": 4}, (4, 12), None),
        ({}, {"pipeline": 5}, (5, 12), r"parallel\.pipeline: 5 stages cannot share 4 layers .*; 1 to 4 stages could"),
        ({}, {"pipeline": 4}, (3, 12), r"4 stages need as many micro-batches a step, each data rank has 3 / 1 = 3; a"),
        ({}, {"pipeline": 2, "replicate": 2}, (4, 12), None),
        ({}, {"pipeline": 2, "replicate": 2}, (2, 12), r"each data rank has 2 / 2 = 1"),
        ({}, {"replicate": 3}, (4, 12), r"parallel\.replicate: 3 ranks cannot share the step's 4 .*; 1, 2 or 4 could"),
        ({}, {"shard": 3}, (4, 12), r"parallel\.shard: replicate x shard = 1 x 3 = 3 ranks cannot share"),
        ({}, {"replicate": 2, "shard": 2}, (4, 12), None),
    ],
)
def test_what_an_axis_cannot_share(changes: dict, sizes: dict[str, int], batch: tuple[int, int], begins: str | None):
    fault = find_fault(replace(SIXTH, **changes), ParallelConfig.model_validate(sizes), *batch)
    assert (fault is None) == (begins is None), fault
    assert begins is None or re.search(begins, fault or "")


def test_layouts_that_are_named_are_four_and_the_simplest_first():
    with pytest.raises(ValueError, match="12 processes could be") as caught:
        check_layout(TINYLLAMA, ParallelConfig(replicate=12), micro_batches=16, micro_batch_tokens=2048)
    said = str(caught.value).split("could be ")[1].split("; or ")
    found = [layout.words() for layout in fitting_layouts(TINYLLAMA, 12, 16, 2048)]
    assert (
        said
        == found[:4]
        == ["pipeline 12", "replicate 4 x pipeline 3", "shard 4 x pipeline 3", "tensor 4 x pipeline 3"]
    )
    alone = [layout.words() for layout in fitting_layouts(TINYLLAMA, 4, 64, 2048)]
    assert alone[:6] == [
        "replicate 4", "shard 4", "tensor 4", "pipeline 4", "replicate 2 x shard 2", "replicate 2 x tensor 2",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"\. No layout of 23 fits$"):
        check_layout(TINYLLAMA, ParallelConfig(replicate=23), micro_batches=16, micro_batch_tokens=2048)
    check_layout(TINYLLAMA, ParallelConfig(replicate=16), micro_batches=16, micro_batch_tokens=2048)
