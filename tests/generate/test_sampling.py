import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.generate.sampling import keep_top_k, keep_top_p, sample, with_temperature

PROBABILITIES = [0.5, 0.25, 0.15, 0.1]
LOGITS = torch.tensor(PROBABILITIES).log() + 3.0


def kept(logits: torch.Tensor) -> list[int]:
    return torch.isfinite(logits).nonzero().flatten().tolist()


def drawn(seed: int = 0, **options: float) -> int:
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | options
    return sample(LOGITS, generator=torch.Generator().manual_seed(seed), **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("k", "wanted"), [(0, [0, 1, 2, 3]), (1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (99, [0, 1, 2, 3])]
)
def test_top_k(k: int, wanted: list[int]):
    assert kept(keep_top_k(LOGITS, k)) == wanted


def test_top_k_keeps_equals_of_the_last():
    assert kept(keep_top_k(torch.tensor([1.0, 2.0, 1.0, 0.0]), 2)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("p", "wanted"),
    [
        (0.01, [0]),
        (0.49, [0]),
        (0.51, [0, 1]),
        (0.74, [0, 1]),
        (0.76, [0, 1, 2]),
        (0.95, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_it(p: float, wanted: list[int]):
    assert kept(keep_top_p(LOGITS, p)) == wanted


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=40), st.floats(0.01, 1), st.integers(0, 45))
def test_filters_keep_the_likeliest_and_reach_p(values: list[float], p: float, k: int):
    logits = torch.tensor(values, dtype=torch.float64)
    for found in (keep_top_p(logits, p), keep_top_k(logits, k)):
        left = set(kept(found))
        assert left
        worst = min(values[index] for index in left)
        assert all(values[index] <= worst for index in set(range(len(values))) - left)
        assert torch.equal(found[sorted(left)], logits[sorted(left)])
    left = kept(keep_top_p(logits, p))
    assert logits.softmax(-1)[left].sum().item() >= p - 1e-9
    assert len(set(kept(keep_top_p(logits, p)))) <= len(values)


def test_temperature_by_hand():
    halved = with_temperature(torch.tensor([0.0, math.log(4)]), 2.0).softmax(-1)
    assert halved.tolist() == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_no_temperature_overflows(temperature: float):
    assert drawn(temperature=temperature) in range(4)
    assert not torch.isnan(with_temperature(LOGITS, temperature)).any()


def test_temperature_zero_and_nearly_zero_take_the_likeliest():
    assert {drawn(seed, temperature=0.0) for seed in range(20)} == {0}
    assert {drawn(seed, temperature=1e-6) for seed in range(20)} == {0}


def test_order_is_temperature_then_k_then_p():
    # At temperature 2 the first three have p = .37, .26, .20; top-k 3 makes that .44, .31, .24; so p = .7 keeps two.
    found = {drawn(seed, temperature=2.0, top_k=3, top_p=0.7) for seed in range(200)}
    assert found == {0, 1}
    # Top-p first would count at temperature 1 without top-k: .5, .25, .15 reach .8 with three.
    assert {drawn(seed, temperature=1.0, top_k=3, top_p=0.8) for seed in range(300)} == {0, 1}


def test_frequencies_are_the_probabilities():
    generator = torch.Generator().manual_seed(1)
    draws = [sample(LOGITS, temperature=1.0, top_k=0, top_p=1.0, generator=generator) for _ in range(4000)]
    for token_id, p in enumerate(PROBABILITIES):
        assert abs(draws.count(token_id) / 4000 - p) < 5 * (p * (1 - p) / 4000) ** 0.5


@settings(max_examples=20)
@given(st.integers(0, 2**62))
def test_a_seed_fixes_the_draw(seed: int):
    assert drawn(seed) == drawn(seed)
