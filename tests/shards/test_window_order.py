import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.shards.window_order import WindowOrder, feistel_inverse, feistel_permute

GOLDEN_TEN = [0, 2, 9, 8, 1, 4, 3, 5, 7, 6]
GOLDEN_LARGE = [1311678158, 442007083, 604110225]
GOLDEN_WINDOWS = [7, 5, 4, 6, 1, 2, 0, 3, 10, 9, 8, 1, 0, 3, 2, 8, 9, 10, 6, 4, 5, 7]

keys = st.integers(0, 2**63 - 1)


@given(st.integers(1, 3000), keys)
@settings(max_examples=150, deadline=None)
def test_a_permutation_of_any_size(size: int, key: int):
    places = feistel_permute(np.arange(size), size, key)
    assert places.dtype == np.int64
    assert sorted(places.tolist()) == list(range(size))


@given(st.data(), st.integers(1, 2**62), keys)
@settings(deadline=None)
def test_inverse_and_array_agree_with_int(data: st.DataObject, size: int, key: int):
    index = data.draw(st.integers(0, size - 1))
    place = feistel_permute(index, size, key)
    assert 0 <= place < size
    assert feistel_inverse(place, size, key) == index
    assert feistel_permute(np.array([index]), size, key).tolist() == [place]
    assert feistel_inverse(np.array([place]), size, key).tolist() == [index]


@pytest.mark.parametrize("index", [-1, 10, np.array([0, 10]), np.array([-1])])
def test_an_index_outside_is_refused(index):
    with pytest.raises(IndexError):
        feistel_permute(index, 10, 1)


def test_the_order_never_changes_silently():
    """Golden values: another order would make old runs unrepeatable. Change the run's format version before these."""
    assert [feistel_permute(i, 10, 7) for i in range(10)] == GOLDEN_TEN
    assert [feistel_permute(i, 1_500_000_000, 42) for i in range(3)] == GOLDEN_LARGE
    order = WindowOrder(11, seed=42, block_windows=4)
    assert [order.window(i) for i in range(22)] == GOLDEN_WINDOWS


def test_one_feistel_network_by_hand():
    """Size 16: two halves of 2 bits, six rounds of (left, right) -> (right, left ^ mix(right ^ key))."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    left, right = 0b10, 0b01
    for number in range(1, 7):
        round_key = mix((5 + number * 0x9E3779B97F4A7C15) & mask)
        left, right = right, left ^ (mix(right ^ round_key) & 3)
    assert feistel_permute(0b1001, 16, 5) == left * 4 + right


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 2**40), st.data())
@settings(max_examples=150, deadline=None)
def test_each_epoch_reads_every_window_once_but_the_quarantined(
    n_windows: int, block_windows: int, seed: int, data: st.DataObject
):
    quarantine = data.draw(st.sets(st.integers(0, n_windows - 1), max_size=n_windows - 1))
    order = WindowOrder(n_windows, seed, block_windows, quarantine)
    m = order.windows_per_epoch
    assert m == n_windows - len(quarantine)
    for epoch in (0, 1, 5):
        assert {order.window(epoch * m + i) for i in range(m)} == set(range(n_windows)) - quarantine


@given(st.integers(2, 300), st.integers(1, 40), st.data())
@settings(max_examples=80, deadline=None)
def test_quarantine_takes_windows_out_and_moves_nothing_else(n_windows: int, block_windows: int, data: st.DataObject):
    quarantine = data.draw(st.sets(st.integers(0, n_windows - 1), max_size=n_windows - 1))
    whole = WindowOrder(n_windows, 3, block_windows)
    order = WindowOrder(n_windows, 3, block_windows, quarantine)
    for epoch in (0, 2):
        expected = [w for w in (whole.window(epoch * n_windows + i) for i in range(n_windows)) if w not in quarantine]
        m = order.windows_per_epoch
        assert [order.window(epoch * m + i) for i in range(m)] == expected


def test_windows_of_a_block_are_read_together():
    order = WindowOrder(1003, seed=1, block_windows=10)
    read = [order.window(i) // 10 for i in range(1003)]
    runs = [block for i, block in enumerate(read) if i == 0 or read[i - 1] != block]
    assert len(runs) == 101  # each block once, the last one of 3 windows too


def test_epochs_and_seeds_differ():
    def epoch(order: WindowOrder, number: int) -> list[int]:
        return [order.window(number * 500 + i) for i in range(500)]

    order = WindowOrder(500, seed=1)
    found = [epoch(order, 0), epoch(order, 1), epoch(WindowOrder(500, seed=2), 0), list(range(500))]
    assert len({tuple(row) for row in found}) == 4


def test_the_shuffle_is_even():
    """Every window is about as likely at every place: chi-squared of 20 windows over 2,000 keys within 6 sigma."""
    counts = np.zeros((20, 20))
    for key in range(2000):
        counts[np.arange(20), feistel_permute(np.arange(20), 20, key * 7919)] += 1
    chi_squared = ((counts - 100) ** 2 / 100).sum()
    degrees = 19 * 19
    assert abs(chi_squared - degrees) < 6 * (2 * degrees) ** 0.5


def test_three_trillion_tokens_in_constant_memory():
    tracemalloc.start()
    order = WindowOrder(1_500_000_000, seed=42, quarantine=[5, 7, 1_499_999_999])
    found = {order.window(i * 1_499_999) for i in range(1000)}
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1000
    assert max(found) < 1_500_000_000
    assert peak_bytes < 1_000_000


def test_windows_next_to_each_other_in_the_order_are_far_apart_in_large_data():
    order = WindowOrder(1_000_000, seed=0)
    blocks = {order.window(i) // 15 for i in range(1500)}
    assert len(blocks) >= 100  # 1,000,000 windows // 65,536 blocks = 15 windows a block


@pytest.mark.parametrize(("n_windows", "quarantine"), [(0, ()), (2, (0, 1)), (5, (7,)), (5, (-1,))])
def test_impossible_orders_are_refused(n_windows: int, quarantine: tuple[int, ...]):
    with pytest.raises(ValueError, match="window"):
        WindowOrder(n_windows, 1, quarantine=quarantine)


def test_there_is_no_sample_before_the_first():
    with pytest.raises(IndexError):
        WindowOrder(5, 1).window(-1)
