import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tinyllama.harness.task_scores import HIGHER_IS_BETTER, SCORES, Difference, difference, estimate

metrics: Any = sklearn_metrics  # their types are narrower than they are
scipy_stats: Any = stats
pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=4, max_size=60)


def test_mean_and_its_error_by_hand():
    found = estimate("mean", [1, 0, 1, 1])
    assert (found.value, found.n) == (0.75, 4)
    assert found.stderr == pytest.approx(math.sqrt(0.25 / 4))  # sample variance 1/4
    assert estimate("mean", [1]).stderr is None
    assert estimate("optional_mean", [None, 1, 0, None]).n == 2
    with pytest.raises(ValueError, match="no example"):
        estimate("mean", [])


def test_perplexities_by_hand():
    found = estimate("perplexity", [-math.log(2), -math.log(8)])
    assert found.value == pytest.approx(4)
    assert found.stderr == pytest.approx(4 * math.log(2))  # error of the mean: ln 2
    # 3 words at -6 nats, 1 word at -2: 8 nats on 4 words
    assert estimate("weighted_perplexity", [(-6, 3), (-2, 1)]).value == pytest.approx(math.exp(2))
    assert estimate("bits_per_unit", [(-6, 3), (-2, 1)]).value == pytest.approx(2 / math.log(2))
    assert estimate("bits_per_unit", [(-6, 3), (-2, 1)]).stderr == pytest.approx(0)
    assert estimate("perplexity", [-1e6, -1e6]).value < math.inf


@given(pairs)
@settings(deadline=None)
def test_scores_of_tables_are_those_of_scikit_learn(values: list[tuple[int, int]]):
    gold, predicted = zip(*values, strict=True)
    rows, once = np.array(values, float), np.ones(len(values))
    assert SCORES["f1"](rows, once) == pytest.approx(metrics.f1_score(gold, predicted, zero_division=0))
    wanted = metrics.matthews_corrcoef(gold, predicted) if len({*gold, *predicted}) > 1 else 0
    assert SCORES["mcc"](rows, once) == pytest.approx(wanted, abs=1e-12)


def test_three_classes():
    values = [(0, 0), (0, 1), (1, 1), (2, 0), (1, 1), (0, 0)]
    gold, predicted = zip(*values, strict=True)
    wanted = metrics.f1_score(gold, predicted, average="macro", labels=[0, 1, 2], zero_division=0)
    assert estimate("macro_f1", values).value == pytest.approx(wanted)
    assert estimate("macro_f1", [(0, 0), (1, 1)]).value == pytest.approx(2 / 3)  # the third class counts too


def test_correlations_are_those_of_scipy():
    draw = np.random.default_rng(1)
    gold = np.round(draw.uniform(0, 5, 80), 0)
    values = list(zip((gold + draw.normal(0, 1, 80)).tolist(), gold.tolist(), strict=True))
    predicted, wanted = zip(*values, strict=True)
    assert estimate("pearson", values).value == pytest.approx(scipy_stats.pearsonr(predicted, wanted).statistic)
    assert estimate("spearman", values).value == pytest.approx(scipy_stats.spearmanr(predicted, wanted).statistic)
    r = estimate("pearson", values)
    assert r.stderr == pytest.approx((1 - r.value**2) / math.sqrt(79), rel=0.5)
    assert estimate("pearson", [(1, 1), (1, 2)]).value == 0


@pytest.mark.parametrize("kind", ["f1", "mcc", "spearman"])
def test_a_resample_scores_as_the_examples_written_out(kind: str):
    draw = np.random.default_rng(2)
    rows = draw.integers(0, 2, (30, 2)).astype(float)
    counts = np.bincount(draw.integers(0, 30, 30), minlength=30)
    written_out = np.repeat(rows, counts, axis=0)
    assert SCORES[kind](rows, counts.astype(float)) == pytest.approx(SCORES[kind](written_out, np.ones(30)))


def test_the_best_threshold_by_hand():
    # (log-probability of no answer, score when answered, when silent); silent on the two likeliest: 1 + 1 + 1
    values = [(-9, 1, 0), (-5, 0, 0), (-2, 0, 1), (-1, 0, 1)]
    assert estimate("best", values).value == pytest.approx(3 / 4)
    assert estimate("best", [(-9, 1, 0), (-1, 1, 0)]).value == 1  # never silent
    assert estimate("best", [(-9, 0, 1), (-1, 0, 1)]).value == 1  # always silent


def test_bootstrap_errors_are_about_right():
    """The error of F1 over many samples of the same population, beside the mean of the bootstrap's."""
    draw = np.random.default_rng(3)
    scores, errors = [], []
    for _ in range(60):
        gold = draw.random(150) < 0.5
        predicted = np.where(draw.random(150) < 0.7, gold, ~gold)
        found = estimate("f1", list(zip(gold.astype(int), predicted.astype(int), strict=True)))
        scores.append(found.value)
        errors.append(found.stderr)
    assert np.mean(errors) == pytest.approx(np.std(scores, ddof=1), rel=0.3)


def test_differences_by_hand():
    a, b = [0, 0, 0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]
    found = difference("mean", a, b)
    assert (found.value, found.wins, found.losses, found.n) == (3 / 8, 4, 1, 8)
    assert found.sign_p == pytest.approx(12 / 32)  # two-sided: (5 + 1) * 2 of 2^5
    gaps = np.subtract(b, a)
    reach = stats.t.ppf(0.975, 7) * gaps.std(ddof=1) / math.sqrt(8)
    assert (found.low, found.high) == pytest.approx((3 / 8 - reach, 3 / 8 + reach))
    assert not found.is_shown
    assert difference("mean", [0] * 20, [1] * 19 + [0]).is_shown


def test_a_model_does_not_differ_from_itself():
    draw = np.random.default_rng(4)
    values = draw.integers(0, 2, (50, 2)).tolist()
    for kind in ("f1", "mcc", "pearson"):
        found = difference(kind, values, values)
        assert (found.value, found.low, found.high) == (0, 0, 0)
    same = difference("mean", [1, 0, 1], [1, 0, 1])
    assert (same.wins, same.losses, same.sign_p, same.is_shown) == (0, 0, 1.0, False)


def test_scores_of_groups_by_hand():
    groups = ["a", "a", "b", "b", "b", "c", "d", "d"]
    right = [1, 1, 1, 0, 1, 1, 0, 0]  # all right: a and c of four
    found = estimate("all_right", right, groups)
    assert (found.value, found.n) == (0.5, 4)
    assert found.stderr == pytest.approx(math.sqrt((1 / 3) / 4))  # sample variance of 1, 0, 1, 0: 1/3
    predictions = [0, 0, 1, 1, 0, 1, 0, 0]  # the same: a and d of three; c alone is no pair
    found = estimate("all_same", predictions, groups)
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert found.stderr == pytest.approx(math.sqrt((1 / 3) / 3))
    with pytest.raises(ValueError, match="no example"):
        estimate("all_same", [1, 0], ["a", "b"])
    with pytest.raises(ValueError, match="examples have none"):
        estimate("all_right", [1, 0])


def test_errors_are_of_groups_where_examples_come_in_groups():
    values, groups = [1, 1, 1, 0, 0, 0], ["x", "x", "x", "y", "y", "y"]
    # residuals of 1/2 sum to 3/2 and -3/2: sqrt(2 / 1 * (9/4 + 9/4)) / 6
    assert estimate("mean", values, groups).stderr == pytest.approx(0.5)
    assert estimate("mean", values).stderr == pytest.approx(math.sqrt(0.3 / 6))
    assert estimate("mean", values, list("abcdef")).stderr == estimate("mean", values).stderr
    assert estimate("mean", values, ["x"] * 6).stderr is None
    pairs = [(0, -math.log(2)), (1, -math.log(2))]
    assert estimate("perplexity", [logprob for _, logprob in pairs] * 3, ["x", "y"] * 3).stderr == pytest.approx(0)


def test_a_bootstrap_draws_whole_groups():
    """Each answer written down three times is no more to know: the error stays, and that of single ones shrinks."""
    draw = np.random.default_rng(3)
    gold = draw.integers(0, 2, 150)
    values = list(zip(gold.tolist(), np.where(draw.random(150) < 0.8, gold, 1 - gold).tolist(), strict=True))
    once = estimate("f1", values).stderr
    grouped = estimate("f1", values * 3, list(range(150)) * 3)
    assert grouped.stderr == pytest.approx(once)
    assert estimate("f1", values * 3).stderr == pytest.approx(once / math.sqrt(3), rel=0.15)  # pyright: ignore[reportOptionalOperand]


def test_differences_of_groups_by_hand():
    groups = [0, 0, 1, 1, 2, 2]
    a, b = [1, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 0]
    found = difference("mean", a, b, groups)  # sums of gaps: 1, 2, -1; mean gap 1/3
    assert (found.value, found.n, found.wins, found.losses) == (pytest.approx(1 / 3), 6, 2, 1)
    error = math.sqrt(3 / 2 * ((1 / 3) ** 2 + (4 / 3) ** 2 + (5 / 3) ** 2)) / 6
    assert found.high - found.value == pytest.approx(scipy_stats.t.ppf(0.975, 2) * error)
    found = difference("all_right", a, b, groups)  # 0, 0, 1 and 1, 1, 0
    assert (found.value, found.n, found.wins, found.losses) == (pytest.approx(1 / 3), 3, 2, 1)
    with pytest.raises(ValueError, match="at least two examples"):
        difference("mean", a, b, ["x"] * 6)


@pytest.mark.parametrize("kind", sorted(SCORES.keys() - {"optional_mean", "all_right", "all_same", "best"}))
def test_every_kind_counts_an_example_as_often_as_it_was_drawn(kind: str):
    draw = np.random.default_rng(5)
    n_classes = 3 if kind == "macro_f1" else 2
    rows = draw.integers(0, n_classes, (30, 2)).astype(float) + (kind in ("weighted_perplexity", "bits_per_unit"))
    counts = np.bincount(draw.integers(0, 30, 30), minlength=30)
    assert SCORES[kind](rows, counts.astype(float)) == pytest.approx(
        SCORES[kind](np.repeat(rows, counts, axis=0), np.ones(30))
    )


def test_the_best_threshold_counts_an_example_as_often_as_it_was_drawn():
    rows = np.array([(-1, 0.0, 1.0), (-9, 0.5, 0.0), (-5, 1.0, 0.0), (-3, 0.2, 0.0)])
    # three times silent at -1, twice half right at -9, -5 not drawn, once .2 at -3: 3 + 1 + .2 of 6
    assert SCORES["best"](rows, np.array([3.0, 2.0, 0.0, 1.0])) == pytest.approx(4.2 / 6)


def test_errors_of_ratios_by_hand():
    values = [(-6, 3), (-2, 2)]  # ratio -8/5; residuals -1.2 and 1.2: sqrt(2 / 1 * 2.88) / 5 = .48
    found = estimate("weighted_perplexity", values)
    assert (found.value, found.stderr) == (pytest.approx(math.exp(1.6)), pytest.approx(0.48 * math.exp(1.6)))
    found = estimate("bits_per_unit", values)
    assert (found.value, found.stderr) == (pytest.approx(1.6 / math.log(2)), pytest.approx(0.48 / math.log(2)))
    assert estimate("perplexity", [-709.0]).value == math.exp(709)  # the last power that is exact


def f1_of(rows: np.ndarray) -> float:
    gold, predicted = rows.T
    both, either = ((gold == 1) & (predicted == 1)).sum(), (gold == 1).sum() + (predicted == 1).sum()
    return 2 * both / either if either else 0.0


def test_a_bootstrap_is_of_a_thousand_samples_that_are_always_the_same():
    draw, n = np.random.default_rng(6), 25
    a, b = draw.integers(0, 2, (n, 2)), draw.integers(0, 2, (n, 2))
    b[:, 0] = a[:, 0]
    chance = np.random.default_rng(0)
    samples = [chance.integers(0, n, n) for _ in range(1000)]
    error = np.std([f1_of(a[sample]) for sample in samples], ddof=1)
    assert estimate("f1", a.tolist()).stderr == pytest.approx(error, rel=1e-9)
    found = difference("f1", a.tolist(), b.tolist())
    gaps = [f1_of(b[sample]) - f1_of(a[sample]) for sample in samples]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))
    assert (found.value, found.n) == (pytest.approx(f1_of(b) - f1_of(a)), n)
    assert found.low < found.value < found.high
    assert (found.wins, found.losses, found.sign_p) == (None, None, None)


def test_a_sign_test_is_of_two_sides_and_leaves_ties_out():
    found = difference("mean", [0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1, 0])
    assert (found.wins, found.losses, found.sign_p) == (5, 0, pytest.approx(2 / 32))
    found = difference("mean", [1, 1, 1, 0], [0, 0, 0, 1])
    assert (found.wins, found.losses, found.sign_p) == (1, 3, pytest.approx(10 / 16))


@pytest.mark.parametrize(
    ("low", "high", "is_shown"),
    [(0.1, 0.3, True), (0.0, 0.3, False), (-0.1, 0.3, False), (-0.3, 0.0, False), (-0.3, -0.1, True)],
)
def test_a_difference_is_shown_when_its_interval_leaves_zero_out(low: float, high: float, is_shown: bool):
    assert Difference((low + high) / 2, low, high, 9).is_shown == is_shown


def test_a_difference_is_of_the_examples_that_both_have_a_value_of():
    a, b = [1, None, 0, 0, 1, 1], [None, 1, 1, 1, 1, 0]
    found = difference("optional_mean", a, b)  # the last four: gaps 1, 1, 0, -1
    assert (found.n, found.value, found.wins, found.losses) == (4, 0.25, 2, 1)
    reach = scipy_stats.t.ppf(0.975, 3) * np.std([1, 1, 0, -1], ddof=1) / 2
    assert (found.low, found.high) == (pytest.approx(0.25 - reach), pytest.approx(0.25 + reach))
    groups = ["x", "x", "y", "x", "y", "y"]  # without the first two: sums 1 + 0 - 1 of y, 1 of x
    found = difference("optional_mean", a, b, groups)
    assert (found.n, found.wins, found.losses) == (4, 1, 0)
    error = math.sqrt(2 * (0.75**2 + 0.75**2)) / 4
    assert found.high - found.value == pytest.approx(scipy_stats.t.ppf(0.975, 1) * error)


def test_two_examples_are_enough_for_a_difference_and_one_is_not():
    assert difference("mean", [0, 1], [1, 1]).value == 0.5
    assert difference("f1", [(1, 0), (1, 1)], [(1, 1), (1, 1)]).n == 2
    for a, b in (([0], [1]), ([1, None], [0, 0]), ([], [])):
        with pytest.raises(ValueError, match="at least two examples"):
            difference("optional_mean", a, b)


def test_lower_is_better_for_perplexities_and_bits_alone():
    assert {kind for kind, higher in HIGHER_IS_BETTER.items() if not higher} == {
        "perplexity",
        "weighted_perplexity",
        "bits_per_unit",
    }


def test_scores_without_a_spread_are_nought():
    assert estimate("f1", [(0, 0), (0, 0)]).value == 0
    assert estimate("f1", [(0, 1), (1, 1), (1, 0), (0, 0), (0, 0)]).value == 0.5
    assert estimate("mcc", [(1, 1), (1, 0)]).value == 0
    assert estimate("mcc", [(0, 0), (0, 1), (1, 1), (1, 1), (1, 0)]).value == pytest.approx((2 - 1) / 6)
    assert estimate("pearson", [(1, 3), (1, 3)]).value == 0
    assert estimate("pearson", [(0, 0), (1, -2), (2, -4)]).value == pytest.approx(-1)
    assert estimate("spearman", [(1, 10), (2, 1000), (3, 20)]).value == pytest.approx(0.5)
