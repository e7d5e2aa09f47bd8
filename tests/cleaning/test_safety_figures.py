"""Figures by hand, and beside scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tinyllama.cleaning.safety_train import (
    average_precision,
    false_positive_spread,
    recall_at,
    reliability,
    threshold_at,
)

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=2, max_size=50).filter(
    lambda rows: len({truth for truth, _ in rows}) == 2
)


@given(ROWS)
def test_average_precision_is_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] / 10 for row in rows])
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))


@given(ROWS, st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_no_more_false_positives_than_asked_for(rows: list[tuple[bool, int]], rate: float) -> None:
    negatives = np.array([row[1] / 10 for row in rows if not row[0]])
    assert np.mean(negatives > threshold_at(negatives, rate)) <= rate


def test_by_hand() -> None:
    truth = np.array([True, True, False, False])
    scores = np.array([0.9, 0.4, 0.5, 0.1])
    assert average_precision(truth, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert recall_at(truth, scores) == 0.5
    assert recall_at(truth, scores, 0.5) == 1.0
    found = reliability(truth, scores, np.ones(4))
    assert found["expected_calibration_error"] == pytest.approx((0.1 + 0.6 + 0.5 + 0.1) / 4)
    assert false_positive_spread({"a": 0.0, "b": 0.5}) == {
        "least": 0.0, "largest": 0.5, "range": 0.5, "standard_deviation": 0.25,
    }  # fmt: skip
