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
CHANCES = [
    [820393175.5, 38546435.5, 1882142315.5, 1335068697.5, 111320219.5],
    [3953318707.5, 3077354976.5, 57618921.5, 335151670.5, 1541062979.5],
]  # times 2^32, of five seeds, numbers 0 and 9


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


def test_chances_of_a_seed_are_the_same_in_every_version():
    """Samples are told by their seed: what seed and number gave once they must give for ever."""
    seeds = torch.tensor([0, 1, 2**32 + 5, -3, 2**62])
    found = torch.stack([uniforms(seeds, 0), uniforms(seeds, 9)])
    assert (found * 2**32).tolist() == CHANCES
    assert torch.equal(uniforms(seeds, torch.tensor(9)), found[1])


def test_top_p_is_reached_exactly():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    kept_at = {p: kept(keep_top_p(logits, p)) for p in (0.4999, 0.5001, 0.7499, 0.7501, 0.9999)}
    assert kept_at == {0.4999: [0], 0.5001: [0, 1], 0.7499: [0, 1], 0.7501: [0, 1, 2], 0.9999: [0, 1, 2, 3]}
    halves = torch.tensor([2.0, 2.0, -200.0])  # probabilities of exactly 1/2: one of them reaches it
    assert kept(keep_top_p(halves, 0.5)) == [0]
    assert kept(keep_top_p(torch.tensor([[-9.0, 5.0, 0.0], [7.0, 0.0, 1.0]]), 1e-6).flatten()) == [1, 3]


def test_min_p_keeps_what_is_just_as_likely():
    logits = torch.tensor([[0.0, math.log(0.5), -5.0], [1.0, 3.0, 3.0]], dtype=torch.float64)
    assert torch.isfinite(keep_min_p(logits, 0.5)).tolist() == [[True, True, False], [False, True, True]]
    assert torch.isfinite(keep_min_p(logits, 0.5001)).tolist() == [[True, False, False], [False, True, True]]
    assert torch.isfinite(keep_min_p(logits, 1.0)).tolist() == [[True, False, False], [False, True, True]]


def test_top_k_is_of_each_row():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert torch.isfinite(keep_top_k(logits, 2)).tolist() == [[True, True, False], [False, True, True]]
    assert torch.equal(keep_top_k(logits, 3), logits)


def test_the_penalty_by_hand_around_nought():
    logits, seen = torch.tensor([0.5, -0.5, 0.0, 0.5]), torch.tensor([True, True, True, False])
    assert penalize_repetition(logits, seen, 4.0).tolist() == [0.125, -2.0, 0.0, 0.5]
    assert penalize_repetition(logits, seen, 0.5).tolist() == [1.0, -0.25, 0.0, 0.5]


def test_the_draw_passes_its_chance():
    logits = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64).log()
    chances = torch.tensor([0.2499, 0.2501, 0.4999, 0.5001, 0.9999], dtype=torch.float64)
    assert draw(logits.expand(5, 3), chances).tolist() == [0, 1, 1, 2, 2]
    uneven = torch.tensor([[0.0, -math.inf, -math.inf], [-math.inf, -math.inf, 3.0]])
    assert draw(uneven, torch.tensor([1 - 2**-33, 2**-33], dtype=torch.float64)).tolist() == [0, 2]


def test_every_setting_of_the_choice_is_asked():
    """Of 300 seeds: which of four tokens are drawn (probabilities .5 .25 .15 .1)."""
    assert {drawn(seed) for seed in range(300)} == {0, 1, 2, 3}
    assert {drawn(seed, top_k=3) for seed in range(300)} == {0, 1, 2}
    assert {drawn(seed, top_p=0.7) for seed in range(300)} == {0, 1}
    assert {drawn(seed, min_p=0.25) for seed in range(300)} == {0, 1, 2}
    assert {drawn(seed, min_p=0.35, temperature=2.0) for seed in range(300)} == {0, 1, 2, 3}  # after temperature
    # top-p is of what top-k has left: .5 of .75 is two thirds
    assert {drawn(seed, top_k=2, top_p=0.66) for seed in range(300)} == {0}
    numbers = [int(choose(LOGITS[None], GenerateConfig(temperature=1.0), torch.tensor([3]), n)) for n in range(60)]
    assert len(set(numbers)) == 4
    seen = torch.tensor([[True, False, False, False]])
    config = GenerateConfig(temperature=1e-6, repetition_penalty=9.0)
    assert int(choose(LOGITS[None], config, torch.tensor([0]), 0, seen)) == 1
