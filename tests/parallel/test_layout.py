"""Who computes what of a step, by hand; and what cannot be shared is refused with numbers that can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import overrides
from tinyllama.errors import RecipeError
from tinyllama.parallel.launch import Launched, join, launched
from tinyllama.parallel.layout import Layout, ParallelConfig, check_lanes, divisors, one_of
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


# -- axes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "world", "data_ranks", "is_sliced", "gathers_once", "words"),
    [
        ({}, 1, 1, False, False, "one process"),
        ({"gather": "step"}, 1, 1, False, True, "one process"),
        ({"replicate": 3}, 3, 3, False, False, "replicate 3"),
        ({"shard": 2}, 2, 2, True, False, "shard 2"),
        ({"shard": 2, "gather": "step"}, 2, 2, True, True, "shard 2 by step"),
        ({"tensor": 2, "gather": "step"}, 2, 1, True, True, "tensor 2"),
        ({"pipeline": 2, "shard": 2}, 4, 2, True, True, "shard 2 x pipeline 2"),
        ({"replicate": 2, "shard": 3, "tensor": 5, "pipeline": 7}, 210, 6, True, True,
         "replicate 2 x shard 3 x tensor 5 x pipeline 7"),
    ],
)  # fmt: skip
def test_what_a_layout_is(values: dict, world: int, data_ranks: int, is_sliced: bool, gathers_once: bool, words: str):
    layout = ParallelConfig(**values)
    assert (layout.world_size, layout.data_ranks) == (world, data_ranks)
    assert (layout.is_model_parallel, layout.gathers_once, layout.words()) == (is_sliced, gathers_once, words)


def test_every_rank_has_one_place_and_data_ranks_are_counted_copy_by_copy():
    layout = ParallelConfig(replicate=2, shard=3, tensor=2, pipeline=2)
    assert list(layout.sizes) == ["pipeline", "replicate", "shard", "tensor"]
    places = [layout.coordinates(rank) for rank in range(24)]
    assert [tuple(place[axis] for axis in layout.sizes) for place in places] == [
        (p, r, s, t) for p in range(2) for r in range(2) for s in range(3) for t in range(2)
    ]
    assert [layout.data_rank(rank) for rank in range(12)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_what_a_recipe_s_layout_is_without_a_word():
    layout = ParallelConfig()
    assert layout.model_dump() == {
        "replicate": 1, "shard": 1, "tensor": 1, "pipeline": 1, "gather": "layer", "threads": 0, "timeout_seconds": 600.0,
    }  # fmt: skip
    assert ParallelConfig(timeout_seconds=1).timeout_seconds == 1
    for values in ({"timeout_seconds": 0.99}, {"threads": -1}, *({axis: 0} for axis in layout.sizes)):
        with pytest.raises(ValueError, match=next(iter(values))):
            ParallelConfig.model_validate(values)


# -- lanes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "micro_batches", "message"),
    [
        (0, 7, ""), (1, 7, ""), (2, 8, ""), (8, 8, ""), (4, 8, ""),
        (3, 12, "3 is no power of two, and lanes join in pairs; 2 or 4 would be"),
        (12, 12, "8 or 16 would be"),
        (4, 6, r"4 lanes cannot share the step's 6 .* evenly; 1 or 2 could, or 8 micro-batches"),
        (8, 7, r"8 lanes cannot share the step's 7 .* evenly; 1 could, or 8 micro-batches"),
        (8, 17, r"1 could, or 24 micro-batches"),
        (16, 24, r"1, 2, 4 or 8 could, or 32 micro-batches"),
    ],
)  # fmt: skip
def test_lanes_join_in_pairs_and_get_equal_portions(lanes: int, micro_batches: int, message: str):
    if not message:
        check_lanes(lanes, micro_batches)
        return
    with pytest.raises(ValueError, match=message):
        check_lanes(lanes, micro_batches)


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "lanes", "message"),
    [
        (2, 4, 2, ""), (4, 4, 4, ""), (3, 6, 0, ""),
        (4, 8, 2, r"4 ranks cannot share train\.reduction_lanes = 2 evenly; 1 or 2 ranks could"),
        (3, 8, 8, r"= 8 evenly; 1, 2, 4 or 8 ranks could"),
        (4, 6, 0, r"4 ranks cannot share the step's 6 .* evenly; 1, 2, 3 or 6 could"),
    ],
)  # fmt: skip
def test_ranks_get_whole_lanes_and_equal_portions(ranks: int, micro_batches: int, lanes: int, message: str):
    if not message:
        layout = Layout(ranks, micro_batches, lanes)
        assert layout.micro_batches_per_rank == micro_batches // ranks
        assert lanes == 0 or layout.micro_batches_per_lane == micro_batches // lanes
        return
    with pytest.raises(ValueError, match=message):
        Layout(ranks, micro_batches, lanes)


def test_numbers_that_would_do():
    assert (divisors(1), divisors(12), divisors(13)) == ([1], [1, 2, 3, 4, 6, 12], [1, 13])
    assert [one_of(values) for values in ([3], [1, 3], [1, 2, 4])] == ["3", "1 or 3", "1, 2 or 4"]
