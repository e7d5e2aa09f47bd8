"""How good a safety model is: average precision, recall at few false positives, reliability; each with row weights."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RELIABILITY_BINS = 10


def average_precision(truth: NDArray[np.bool_], scores: Floats) -> float:
    """Mean precision over the recall gained at each threshold (as scikit-learn's); equal scores share a threshold."""
    order = np.argsort(-scores, kind="stable")
    hits, places = np.cumsum(truth[order]), np.arange(1, truth.size + 1)
    ends = np.append(scores[order][1:] != scores[order][:-1], True)
    recall, precision = hits[ends] / max(1, hits[-1]), hits[ends] / places[ends]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def threshold_at(scores_of_negatives: Floats, false_positive_rate: float) -> float:
    """The least threshold above which at most that share of the negatives lies."""
    ordered = np.sort(scores_of_negatives)
    allowed = int(np.floor(false_positive_rate * ordered.size))
    return float(ordered[ordered.size - 1 - allowed])


def recall_at(truth: NDArray[np.bool_], scores: Floats, false_positive_rate: float = 0.01) -> float:
    """The share of positives above the threshold at which so many negatives lie above it."""
    return float(np.mean(scores[truth] > threshold_at(scores[~truth], false_positive_rate)))


def reliability(truth: NDArray[np.bool_], probabilities: Floats, weights: Floats) -> dict[str, Any]:
    """Said and true shares in ten bins of probability, and their mean distance (expected calibration error)."""
    places = np.minimum((probabilities * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    bins, error = [], 0.0
    for place in range(RELIABILITY_BINS):
        chosen = places == place
        weight = float(weights[chosen].sum())
        if not weight:
            continue
        said = float(np.average(probabilities[chosen], weights=weights[chosen]))
        true = float(np.average(truth[chosen], weights=weights[chosen]))
        error += abs(said - true) * weight / float(weights.sum())
        bins.append({"said": round(said, 3), "true": round(true, 3), "rows": int(chosen.sum())})
    return {"expected_calibration_error": round(error, 4), "bins": bins}


def figures(truth: NDArray[np.bool_], probabilities: Floats) -> dict[str, Any]:
    """Rows, positives, average precision and recall at 1% false positives of one set that has both classes."""
    return {
        "rows": int(truth.size),
        "positives": int(truth.sum()),
        "average_precision": round(average_precision(truth, probabilities), 4),
        "recall_at_1pct_false_positives": round(recall_at(truth, probabilities), 4),
    }


def false_positive_spread(rates: dict[str, float]) -> dict[str, float]:
    """Least, largest, range and standard deviation of false-positive rates by term."""
    values = np.array(list(rates.values()))
    return {
        "least": round(float(values.min()), 4),
        "largest": round(float(values.max()), 4),
        "range": round(float(np.ptp(values)), 4),
        "standard_deviation": round(float(values.std()), 4),
    }
