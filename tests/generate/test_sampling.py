import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.sampling import (
    choose,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    uniforms,
    with_temperature,
)

PROBABILITIES = [0.5, 0.25, 0.15, 0.1]
LOGITS = torch.tensor(PROBABILITIES).log() + 3.0


def kept(logits: torch.Tensor) -> list[int]:
    return torch.isfinite(logits).nonzero().flatten().tolist()


def drawn(seed: int = 0, **options: Any) -> int:
    defaults: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    config = GenerateConfig(**(defaults | options))
    return int(choose(LOGITS[None], config, torch.tensor([seed]), 0))


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
    draws = draw(LOGITS.expand(4000, 4), uniforms(torch.arange(4000), 7)).tolist()
    for token_id, p in enumerate(PROBABILITIES):
        assert abs(draws.count(token_id) / 4000 - p) < 5 * (p * (1 - p) / 4000) ** 0.5


def test_drawing_by_hand():
    logits = torch.tensor([0.5, 0.0, 0.5]).log()  # the second is impossible
    chances = torch.tensor([1e-12, 0.49, 0.51, 1 - 1e-12], dtype=torch.float64)
    assert draw(logits.expand(4, 3), chances).tolist() == [0, 0, 2, 2]


@settings(max_examples=20)
@given(st.integers(-(2**62), 2**62))
def test_a_seed_fixes_the_draw(seed: int):
    assert drawn(seed) == drawn(seed)


def test_chances_are_even_and_differ_by_seed_and_number():
    chances = torch.stack([uniforms(torch.arange(1000), number) for number in range(10)])
    assert ((chances > 0) & (chances < 1)).all()
    assert chances.unique().numel() > 9990
    assert abs(chances.mean().item() - 0.5) < 5 * (1 / 12 / 10_000) ** 0.5
    counts = torch.histc(chances, 10, 0, 1)
    assert (counts - 1000).abs().max() < 5 * 30
    assert abs(torch.corrcoef(torch.stack([chances[0], chances[1]]))[0, 1]) < 5 / 1000**0.5
    assert uniforms(torch.tensor([1]), 0) != uniforms(torch.tensor([1 + 2**32]), 0)


@pytest.mark.parametrize(
    ("min_p", "wanted"), [(0.0, [0, 1, 2, 3]), (0.19, [0, 1, 2, 3]), (0.21, [0, 1, 2]), (0.6, [0]), (1.0, [0])]
)
def test_min_p_is_measured_by_the_likeliest(min_p: float, wanted: list[int]):
    assert kept(keep_min_p(LOGITS, min_p)) == wanted


def test_repetition_penalty_by_hand():
    logits, seen = torch.tensor([2.0, -2.0, 2.0, 0.0]), torch.tensor([True, True, False, True])
    assert penalize_repetition(logits, seen, 2.0).tolist() == [1.0, -4.0, 2.0, 0.0]


def test_repetition_penalty_holds_for_greedy_choice_too():
    config = GenerateConfig(temperature=0.0, repetition_penalty=3.0)
    seen = torch.tensor([[True, False, False, False], [False, False, False, False]])
    assert choose(LOGITS.expand(2, 4), config, torch.zeros(2, dtype=torch.int64), 0, seen).tolist() == [1, 0]


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.8}, {"min_p": 0.3}, {"temperature": 0.5}, {}], ids=str)
def test_rows_are_chosen_as_alone(options: dict[str, Any]):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(1)) * 3
    defaults: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
    config, seeds = GenerateConfig(**(defaults | options)), torch.arange(50)
    together = choose(logits, config, seeds, 3).tolist()
    assert together == [int(choose(logits[n : n + 1], config, seeds[n : n + 1], 3)) for n in range(50)]
    assert len(set(together)) > 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_are_no_numbers_choose_nothing(bad: float, temperature: float):
    logits = torch.tensor([[0.0, 1.0, bad], [0.0, 1.0, 2.0], [-torch.inf] * 3])
    chosen = choose(logits, GenerateConfig(temperature=temperature), torch.arange(3), 0).tolist()
    assert [chosen[0], chosen[2]] == [-1, -1]
    assert chosen[1] in range(3)


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {"repetition_penalty": 1.7}])
def test_filters_are_those_of_transformers(options: dict[str, Any]):
    from transformers.generation import logits_process as theirs

    logits = torch.randn(4, 60, generator=torch.Generator().manual_seed(2)) * 4
    ids = torch.randint(0, 60, (4, 9), generator=torch.Generator().manual_seed(3))
    wanted: torch.Tensor = logits
    for name, make in (
        ("repetition_penalty", theirs.RepetitionPenaltyLogitsProcessor),
        ("temperature", theirs.TemperatureLogitsWarper),
        ("top_k", theirs.TopKLogitsWarper),
        ("top_p", theirs.TopPLogitsWarper),
        ("min_p", theirs.MinPLogitsWarper),
    ):
        chosen = ({"temperature": 0.7} | options).get(name)
        wanted = wanted if chosen is None else make(chosen)(ids, wanted)  # pyright: ignore[reportArgumentType]
    seen = torch.zeros(4, 60, dtype=torch.bool).scatter(1, ids, True)
    found = penalize_repetition(logits, seen, options.get("repetition_penalty", 1.0))
    found = keep_top_k(with_temperature(found, 0.7), options.get("top_k", 0))
    found = keep_min_p(keep_top_p(found, options.get("top_p", 1.0)), options.get("min_p", 0.0))
    assert torch.allclose(found.softmax(-1), wanted.softmax(-1), atol=1e-6)
