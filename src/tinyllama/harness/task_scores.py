"""Scores over all examples with standard errors, and differences between two models.

A kind of score is a function of the examples' values and of how often each counts: the score itself counts each once, a
bootstrap sample (Efron 1979) counts them at random. Values of an example, by kind:

    mean                  a number
    optional_mean         a number, or None if the example has no such value
    perplexity            log-probability                  exp(-mean)
    weighted_perplexity   (log-probability, words or bytes)  exp(-sum / sum)
    bits_per_unit         the same                         -sum / sum / ln 2
    f1, macro_f1, mcc     (gold class, predicted class): of class 1; mean over classes 0 to 2; Matthews' correlation
    pearson, spearman     (predicted, gold)
    best                  (log-probability of no answer, score when answered, score when silent), at the best threshold
    all_right             0 or 1                           share of groups whose examples are all right
    all_same              a prediction                     share of groups of two or more whose predictions are the same

Examples may come in groups (the answers to one question, a sentence with "his" and with "her") and are then not
independent: standard errors are computed over groups, and the bootstrap draws groups.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Exact match and F1 of SQuAD (Rajpurkar et al. 2016, section 6.1; 2018, section 5), like its official evaluation. Answers
# are compared in lower case, without punctuation, articles and superfluous spaces.
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """The normalised answer: `"The  Cat!"` and `"cat"` are the same."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 if the answer is one of the gold answers; without gold answers the empty answer is correct."""
    return float(any(normalize_answer(answer) == normalize_answer(gold) for gold in _or_none(golds)))


def answer_f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the answer's words; the maximum over the gold answers."""
    return max(_word_f1(normalize_answer(answer).split(), normalize_answer(gold).split()) for gold in _or_none(golds))


def _or_none(golds: Sequence[str]) -> Sequence[str]:
    kept = [gold for gold in golds if normalize_answer(gold)]  # "the" alone is not an answer
    return kept or [""]


def _word_f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))  # = 2 p r / (p + r) with p = common / words, r = common / gold


RESAMPLES = 1000
CONFIDENCE = 0.95
Values = np.ndarray  # (n, k) float64
Counts = np.ndarray  # (n,), how often each example counts


@dataclass(frozen=True)
class Estimate:
    """A score, its standard error (None for one example) and the number of examples, or of groups for `all_...`."""

    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """B's score minus A's on the same examples, with a 95% confidence interval.

    `wins`, `losses`: number of examples (or groups) on which B's values sum to more, to less; `sign_p`: two-sided p-value
    of that split (an exact McNemar test for right and wrong answers). All None for scores that are not means.
    """

    value: float
    low: float
    high: float
    n: int
    wins: int | None = None
    losses: int | None = None
    sign_p: float | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the interval does not contain 0."""
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Sample:
    """Values (n, k), number of the example or group of each, and its unit (example or group) in the bootstrap."""

    rows: Values
    keys: np.ndarray  # (n,)
    units: np.ndarray  # (n,), 0 to their number - 1

    @property
    def n_units(self) -> int:
        """Number of independent samples."""
        return int(self.units.max()) + 1 if len(self.units) else 0

    def select(self, indices: np.ndarray) -> "Sample":
        """The sample of some of its rows."""
        return Sample(self.rows[indices], self.keys[indices], np.unique(self.units[indices], return_inverse=True)[1])


def as_sample(kind: str, values: Sequence[Any], groups: Sequence[Any] | None = None) -> Sample:
    """Examples' values, or those of their groups. `optional_mean` omits examples without a value, `all_same` groups of one.

    Raises ValueError for a score of groups if the examples have none.
    """
    if kind in _GROUP_VALUES:
        if groups is None:
            raise ValueError(f"{kind} is a score of groups, and the examples have none")
        members: dict[Any, list[Any]] = {}
        for group, value in zip(groups, values, strict=True):
            members.setdefault(group, []).append(value)
        found = {n: _GROUP_VALUES[kind](group) for n, group in enumerate(members.values())}
        return as_sample("optional_mean", list(found.values()))
    kept = [number for number, value in enumerate(values) if value is not None or kind != "optional_mean"]
    rows = [np.atleast_1d(np.asarray(values[number], np.float64)) for number in kept]
    names = kept if groups is None else [groups[number] for number in kept]
    units = np.unique(np.array(names), return_inverse=True)[1] if kept else np.empty(0, np.int64)
    return Sample(np.stack(rows) if rows else np.empty((0, 1)), np.array(kept, np.int64), units)


def estimate(kind: str, values: Sequence[Any], groups: Sequence[Any] | None = None) -> Estimate:
    """The score of all examples; `groups`: the group of each. Raises KeyError for an unknown kind.

    Raises ValueError if there is no example, or no group, with a value.
    """
    sample = as_sample(kind, values, groups)
    rows, n = sample.rows, len(sample.rows)
    if not n:
        raise ValueError("no example with a value")
    value = float(SCORES[kind](rows, np.ones(n)))
    if sample.n_units == 1:
        return Estimate(value, None, n)
    if kind in _MEANS:
        return Estimate(value, _mean_stderr(rows[:, 0], sample), n)
    if kind == "perplexity":  # by the delta method
        return Estimate(value, value * _mean_stderr(rows[:, 0], sample), n)
    if kind in ("weighted_perplexity", "bits_per_unit"):  # a ratio of sums, and the delta method
        ratio = rows[:, 0].sum() / rows[:, 1].sum()
        stderr = _ratio_stderr(rows[:, 0] - ratio * rows[:, 1], rows[:, 1].sum(), sample)
        return Estimate(value, float(stderr * (value if kind == "weighted_perplexity" else 1 / math.log(2))), n)
    return Estimate(value, float(np.nanstd([SCORES[kind](rows, c) for c in _resamples(sample)], ddof=1)), n)


def difference(kind: str, a: Sequence[Any], b: Sequence[Any], groups: Sequence[Any] | None = None) -> Difference:
    """B minus A on the same examples, in the same order. Means: a paired t interval; others: a paired bootstrap.

    Raises ValueError with fewer than two examples, or groups.
    """
    whole_a, whole_b = as_sample(kind, a, groups), as_sample(kind, b, groups)
    _, in_a, in_b = np.intersect1d(whole_a.keys, whole_b.keys, return_indices=True)
    sample, rows_b = whole_a.select(in_a), whole_b.rows[in_b]
    rows_a, n = sample.rows, len(sample.rows)
    if sample.n_units < 2:
        raise ValueError("a difference needs at least two examples")
    score = SCORES[kind]
    value = float(score(rows_b, np.ones(n)) - score(rows_a, np.ones(n)))
    if kind in _MEANS:
        from scipy import stats

        gaps = rows_b[:, 0] - rows_a[:, 0]
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, sample.n_units - 1)) * _mean_stderr(gaps, sample)
        sums = np.bincount(sample.units, gaps)
        wins, losses = int((sums > 0).sum()), int((sums < 0).sum())
        p = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
        return Difference(value, value - reach, value + reach, n, wins, losses, p)
    gaps = np.array([score(rows_b, counts) - score(rows_a, counts) for counts in _resamples(sample)])
    low, high = np.nanquantile(gaps, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(value, float(low), float(high), n)


def _mean_stderr(values: np.ndarray, sample: Sample) -> float:
    return _ratio_stderr(values - values.mean(), float(len(values)), sample)


def _ratio_stderr(residuals: np.ndarray, size: float, sample: Sample) -> float:
    """Standard error of a ratio of sums over units (Cochran 1977, eq. 6.13); of a mean of examples, sqrt(s^2 / n)."""
    sums, m = np.bincount(sample.units, residuals), sample.n_units
    return math.sqrt(m / (m - 1) * float(sums @ sums)) / size


def _resamples(sample: Sample) -> Iterator[Counts]:
    """How often each example occurs in each bootstrap sample of units. The seed is fixed, so errors are reproducible."""
    draw, m = np.random.default_rng(0), sample.n_units
    for _ in range(RESAMPLES):
        yield np.bincount(draw.integers(0, m, m), minlength=m).astype(np.float64)[sample.units]


# -- kinds of scores ---------------------------------------------------------------------------------------------------


def _mean(rows: Values, counts: Counts) -> float:
    return float(counts @ rows[:, 0] / counts.sum())


def _exp(exponent: float) -> float:
    return math.exp(min(exponent, 709.0))  # the largest integer whose power a float can hold


def _ratio(rows: Values, counts: Counts) -> float:
    return float(counts @ rows[:, 0] / (counts @ rows[:, 1]))


def _table(rows: Values, counts: Counts, n_classes: int = 2) -> np.ndarray:
    """Counts by gold class (row) and predicted class (column)."""
    cells = rows[:, 0].astype(int) * n_classes + rows[:, 1].astype(int)
    return np.bincount(cells, counts, n_classes**2).reshape(n_classes, n_classes)


def _class_f1(table: np.ndarray, number: int) -> float:
    found = table[number].sum() + table[:, number].sum()
    return float(2 * table[number, number] / found) if found else 0.0


def _f1(rows: Values, counts: Counts) -> float:
    return _class_f1(_table(rows, counts), 1)


def _macro_f1(rows: Values, counts: Counts) -> float:
    table = _table(rows, counts, 3)
    return float(np.mean([_class_f1(table, number) for number in range(len(table))]))


def _mcc(rows: Values, counts: Counts) -> float:
    table = _table(rows, counts)
    (true_negative, false_positive), (false_negative, true_positive) = table
    margins = table.sum(0).prod() * table.sum(1).prod()
    product = true_positive * true_negative - false_positive * false_negative
    return float(product / math.sqrt(margins)) if margins else 0.0


def _pearson(rows: Values, counts: Counts) -> float:
    weights = counts / counts.sum()
    moved = rows - weights @ rows
    (xx, xy), (_, yy) = (moved * weights[:, None]).T @ moved
    return float(xy / math.sqrt(xx * yy)) if xx * yy else 0.0


def _spearman(rows: Values, counts: Counts) -> float:
    """Pearson's correlation of the ranks; equal values have their mean rank."""
    ranks = np.empty_like(rows)
    for column in range(2):
        _, inverse = np.unique(rows[:, column], return_inverse=True)
        sizes = np.bincount(inverse, counts)
        ranks[:, column] = (np.cumsum(sizes) - sizes / 2)[inverse]
    return _pearson(ranks, counts)


def _best(rows: Values, counts: Counts) -> float:
    """The best score over thresholds: answered if "no answer" is less probable than the threshold, else silent."""
    rows, counts = (array[np.argsort(rows[:, 0], kind="stable")] for array in (rows, counts))
    answered = np.concatenate([[0.0], np.cumsum(counts * rows[:, 1])])
    silent = np.concatenate([[0.0], np.cumsum(counts * rows[:, 2])])
    return float((answered + silent[-1] - silent).max() / counts.sum())


SCORES: dict[str, Callable[[Values, Counts], float]] = {
    "mean": _mean,
    "optional_mean": _mean,
    "perplexity": lambda rows, counts: _exp(-_mean(rows, counts)),
    "weighted_perplexity": lambda rows, counts: _exp(-_ratio(rows, counts)),
    "bits_per_unit": lambda rows, counts: -_ratio(rows, counts) / math.log(2),
    "f1": _f1,
    "macro_f1": _macro_f1,
    "mcc": _mcc,
    "pearson": _pearson,
    "spearman": _spearman,
    "best": _best,
    "all_right": _mean,
    "all_same": _mean,
}
_GROUP_VALUES: dict[str, Callable[[list[Any]], float | None]] = {
    "all_right": lambda right: float(all(right)),
    "all_same": lambda predictions: float(len(set(predictions)) == 1) if len(predictions) > 1 else None,
}
_MEANS = {"mean", "optional_mean", *_GROUP_VALUES}
HIGHER_IS_BETTER = {kind: "perplexity" not in kind and kind != "bits_per_unit" for kind in SCORES}
