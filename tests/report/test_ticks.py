import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinyllama.report.ticks import duration, exact, linear_ticks, log_ticks, percent, short, size

numbers = st.floats(-1e12, 1e12, allow_nan=False)
positive = st.floats(1e-12, 1e12)


@given(numbers, numbers, st.integers(2, 12))
def test_linear_ticks_are_inside_even_and_about_as_many_as_wanted(a: float, b: float, wanted: int):
    low, high = min(a, b), max(a, b)
    assume(high - low > 1e-6 * max(abs(low), abs(high), 1e-300))
    ticks = linear_ticks(low, high, wanted)
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert wanted / 2.5 - 1 <= len(ticks) <= wanted + 1
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    assert all(gap == pytest.approx(gaps[0], rel=1e-3) for gap in gaps)


def test_linear_ticks_are_round():
    assert linear_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert linear_ticks(3.2, 8.9) == [4, 6, 8]
    assert linear_ticks(0, 1e-3) == pytest.approx([0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert linear_ticks(1, 600, 8) == [100, 200, 300, 400, 500, 600]


def test_linear_ticks_of_one_value_and_of_the_widest_span():
    assert linear_ticks(5, 5) == [5]
    assert linear_ticks(0, 0) == [0]
    assert all(math.isfinite(tick) for tick in linear_ticks(-1.7e308, 1.7e308))


@given(positive, positive)
def test_log_ticks_are_inside_and_some(a: float, b: float):
    low, high = min(a, b), max(a, b)
    ticks = log_ticks(low, high)
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= 14


def test_log_ticks_are_round():
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert log_ticks(0.4, 3) == pytest.approx([0.5, 1, 2])


@pytest.mark.parametrize(("low", "high"), [(1, 0), (math.nan, 1), (0, math.inf)])
def test_impossible_axes(low: float, high: float):
    for ticks in (linear_ticks, log_ticks):
        with pytest.raises(ValueError, match="axis"):
            ticks(low, high)
    with pytest.raises(ValueError, match="logarithmic"):
        log_ticks(0, 1)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_has_words(value: float):
    assert exact(value)
    assert short(value)
    assert float(exact(value).replace(",", "")) == pytest.approx(value, rel=1e-3)


def test_numbers_in_words():
    assert [exact(v) for v in (3, 1_100_048_384, 0.5, 12_345.67, 3e-5)] == [
        "3",
        "1,100,048,384",
        "0.5",
        "12,345.7",
        "3e-05",
    ]
    assert [short(v) for v in (0, 1.1e9, 24_000, 0.5, 3e-4, 999.7, 999_700, 3e12)] == [
        "0", "1.1B", "24k", "0.5", "3e-4", "1k", "1M", "3T",
    ]  # fmt: skip
    assert percent(0.1234) == "12.3%"
    assert [size(v) for v in (12, 4321, 5e8, 1.5e9)] == ["12 bytes", "4.32 kB", "500 MB", "1.5 GB"]
    assert [duration(v) for v in (4.21, 59.99, 185, 7630, 90.4 * 86_400)] == [
        "4.2 s", "1 min 00 s", "3 min 05 s", "2 h 07 min", "90.4 days",
    ]  # fmt: skip
