"""Who computes what of a step, by hand; and what cannot be shared is refused with numbers that can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import overrides
from tinyllama.errors import RecipeError
from tinyllama.parallel.launch import Launched, join, launched
from tinyllama.parallel.layout import Layout, ParallelConfig
from tinyllama.recipe import load_recipe


def test_portions_by_hand():
    layout = Layout(ranks=2, micro_batches=8, lanes=4)
    assert [list(layout.of_rank(rank)) for rank in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (layout.micro_batches_per_rank, layout.micro_batches_per_lane) == (4, 2)


@given(ranks=st.integers(1, 64), portion=st.integers(1, 64))
def test_every_micro_batch_is_computed_once(ranks: int, portion: int):
    layout = Layout(ranks, ranks * portion)
    assert [number for rank in range(ranks) for number in layout.of_rank(rank)] == list(range(ranks * portion))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parallel__replicate": 3, "train__deterministic_reduction": False},
            r"parallel\.replicate: 3 ranks cannot share the step's 8 .* evenly; 1, 2, 4 or 8 could",
        ),
        ({"train__reduction_lanes": 6}, r": train\.reduction_lanes: 6 is no power of two, .*; 4 or 8 would be"),
        (
            {"train__reduction_lanes": 16},
            r"16 lanes cannot share the step's 8 .*; 1, 2, 4 or 8 could, or 16 micro-batches",
        ),
        (
            {"train__reduction_lanes": 2, "parallel__replicate": 4},
            r"parallel\.replicate: 4 ranks cannot share train\.reduction_lanes = 2 evenly; 1 or 2 ranks could",
        ),
        ({"parallel__replicate": 0}, r"parallel\.replicate = 0"),
        ({"parallel__timeout_seconds": 0.5}, r"parallel\.timeout_seconds"),
        ({"parallel__shards": 2}, r"unknown key parallel\.shards, did you mean parallel\.shard\?"),
        ({"parallel__shard": 2}, r"train\.deterministic_reduction: true works with parallel\.replicate alone"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_would(changes: dict, message: str):
    words = overrides(**{"train__micro_batch_size": 1, "train__deterministic_reduction": True} | changes)
    with pytest.raises(RecipeError, match=message):
        load_recipe("small-120m", words)


def test_lanes_do_not_matter_without_deterministic_reduction():
    train = load_recipe("small-120m", overrides(train__reduction_lanes=7)).train
    assert (train.reduction_lanes, train.deterministic_reduction) == (7, False)


def test_the_launcher_and_the_recipe_must_agree(monkeypatch: pytest.MonkeyPatch):
    with (
        pytest.raises(RecipeError, match=r"has 4 ranks, but 1 process was started; `torchrun --nproc-per-node 4"),
        join(ParallelConfig(replicate=4)),
    ):
        pass
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == Launched(rank=1, world_size=2, local_rank=1)
    with (
        pytest.raises(RecipeError, match=r"has 1 rank, but 2 processes were started.*parallel\.replicate=2"),
        join(ParallelConfig()),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("RANK", "2", "outside WORLD_SIZE 2"), ("RANK", "x", "whole numbers"), ("MASTER_PORT", "", "MASTER_PORT is not")],
)
def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str):
    whole = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, text in (whole | {name: value}).items():
        monkeypatch.setenv(key, text)
    with pytest.raises(RecipeError, match=message):
        launched()
