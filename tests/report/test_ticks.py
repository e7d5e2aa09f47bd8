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


@pytest.mark.parametrize(
    ("low", "high", "wanted", "ticks"),
    [
        (0, 5, 5, [0, 1, 2, 3, 4, 5]),
        (0, 5.5, 5, [0, 2, 4]),
        (0, 10.5, 5, [0, 2.5, 5, 7.5, 10]),
        (0, 12.5, 5, [0, 2.5, 5, 7.5, 10, 12.5]),
        (0, 13, 5, [0, 5, 10]),
        (0, 26, 5, [0, 10, 20]),
        (-7, 7, 5, [-5, 0, 5]),
        (0.1, 0.7, 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),  # 0.7 / 0.1 is a little below 7
        (0.3, 0.9, 6, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0.3, 0.9, 1, [0.3]),  # no round value inside
        (0, 10, 0, [0, 10]),
        (1, 1 + 5e-13, 5, [1]),
        (0, 1e-301, 5, [0]),
        (-1.7e308, 1.7e308, 5, [-1.7e308, 1.7e308]),
    ],
)
def test_linear_ticks_by_hand(low: float, high: float, wanted: int, ticks: list[float]):
    found = linear_ticks(low, high, wanted)
    assert found == pytest.approx(ticks)
    assert low <= found[0] <= found[-1] <= high


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1, 100, [1, 10, 100]),
        (1, 30, [1, 3, 10, 30]),
        (1, 99, [1, 3, 10, 30]),
        (1, 5, [1, 2, 5]),
        (2, 7, [2, 3, 5, 7]),
        (1, 2, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (5, 5, [5]),
        (1, 1e11, [10.0**power for power in range(12)]),
        (1, 1e12, [10.0**power for power in range(0, 13, 2)]),
        (1e-12, 1e12, [10.0**power for power in range(-12, 13, 3)]),
    ],
)
def test_log_ticks_by_hand(low: float, high: float, ticks: list[float]):
    found = log_ticks(low, high)
    assert found == pytest.approx(ticks)
    assert low <= found[0] <= found[-1] <= high


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (999_999_999_999_999, "999,999,999,999,999"),
        (1e15, "1e+15"),
        (-1e15, "-1e+15"),
        (999_999_999_999_999.5, "999,999,999,999,999.5"),
        (1e15 + 0.5, "1e+15"),
        (9999.5, "9999.5"),
        (10_000.55, "10,000.5"),
        (-12_345.67, "-12,345.7"),
        (1.23456789, "1.23457"),
        (-3.0, "-3"),
    ],
)
def test_six_digits_at_their_edges(value: float, words: str):
    assert exact(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (999.4, "999"), (999.5, "1k"), (1234, "1.23k"), (-24_000, "-24k"), (999_400, "999k"), (1e6, "1M"), (2.5e9, "2.5B"),
        (1e12, "1T"), (1.234e15, "1230T"), (1e-3, "0.001"), (0.00099, "9.9e-4"), (1.234e-5, "1.23e-5"), (-1e-4, "-1e-4"),
        (2e-10, "2e-10"), (100, "100"), (12.345, "12.3"),
    ],
)  # fmt: skip
def test_three_digits_at_their_edges(value: float, words: str):
    assert short(value) == words


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        (0, "0 bytes"), (999.4, "999 bytes"), (999.5, "1 kB"), (1e3, "1 kB"), (1.5e6, "1.5 MB"), (1e9, "1 GB"),
        (1e12, "1 TB"), (2.345e15, "2340 TB"),
    ],
)  # fmt: skip
def test_sizes_at_their_edges(n_bytes: float, words: str):
    assert size(n_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"), (59.94, "59.9 s"), (59.95, "1 min 00 s"), (61, "1 min 01 s"), (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"), (3661, "1 h 01 min"), (48 * 3600 - 60, "47 h 59 min"), (48 * 3600, "2.0 days"),
    ],
)  # fmt: skip
def test_durations_at_their_edges(seconds: float, words: str):
    assert duration(seconds) == words


def test_an_axis_may_begin_where_it_ends_but_not_after():
    assert linear_ticks(3, 3) == log_ticks(3, 3) == [3]
    for ticks in (linear_ticks, log_ticks):
        with pytest.raises(ValueError, match=r"an axis cannot go from 3\.5 to 3"):
            ticks(3.5, 3)
        with pytest.raises(ValueError, match="an axis cannot go from -inf to 3"):
            ticks(-math.inf, 3)
    with pytest.raises(ValueError, match="a logarithmic axis cannot show -1"):
        log_ticks(-1, 3)
