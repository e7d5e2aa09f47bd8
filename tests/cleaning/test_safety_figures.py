"""Metrics of a safety model on small sets computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.cleaning.safety_train import metrics, recall_at, reliability, threshold_at

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=2, max_size=50).filter(
    lambda rows: len({truth for truth, _ in rows}) == 2
)


@given(ROWS, st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_no_more_false_positives_than_asked_for(rows: list[tuple[bool, int]], rate: float) -> None:
    negatives = np.array([row[1] / 10 for row in rows if not row[0]])
    assert np.mean(negatives > threshold_at(negatives, rate)) <= rate


def test_by_hand() -> None:
    truth = np.array([True, True, False, False])
    scores = np.array([0.9, 0.4, 0.5, 0.1])
    assert metrics(truth, scores)["average_precision"] == 0.8333  # 0.5 * 1 + 0.5 * 2 / 3
    assert recall_at(truth, scores) == 0.5
    assert recall_at(truth, scores, 0.5) == 1.0
    found = reliability(truth, scores, np.ones(4))
    assert found["expected_calibration_error"] == pytest.approx((0.1 + 0.6 + 0.5 + 0.1) / 4)
