import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tinyllama.evaluate.task_scores import SCORES, difference, estimate

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
    with pytest.raises(ValueError, match="two examples at least"):
        difference("mean", a, b, ["x"] * 6)
