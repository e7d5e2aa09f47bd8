"""The order of windows at its edges: block sizes, a short last block, ways back, entries of the quarantine list."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyllama.errors import InputError
from tinyllama.shards import window_order
from tinyllama.shards.quarantine import Quarantined, RunOrder, quarantine_rows, read_quarantine
from tinyllama.shards.window_order import WindowOrder, feistel_permute

# -- the order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_windows", "block"),
    [(1, 1), (65_535, 1), (131_071, 1), (131_072, 2), (196_608, 3), (2**22 - 1, 63), (2**22, 64), (2**26, 64)],
)
def test_windows_of_a_block_unless_given(n_windows: int, block: int):
    assert WindowOrder(n_windows, 1)._block_windows == block
    assert WindowOrder(n_windows, 1, block_windows=7)._block_windows == 7


def test_a_short_last_block_and_the_ways_back():
    """11 windows in blocks of 4: the last has 3; every place, its inverse and the sample of each window agree."""
    for seed in range(6):
        order = WindowOrder(11, seed, 4, quarantine=[2, 9])
        assert (order.windows_per_epoch, order.quarantine) == (9, (2, 9))
        for epoch in (0, 1, 4):
            whole = [WindowOrder(11, seed, 4).window(11 * epoch + i) for i in range(11)]
            left = [window for window in whole if window not in (2, 9)]
            assert [order.window(9 * epoch + i) for i in range(9)] == left
            for i, window in enumerate(left):
                sample = 9 * epoch + i
                assert order.place(sample) == (epoch, whole.index(window))
                assert order.sample_of(epoch, window) == sample == order.sample_at(epoch, whole.index(window))
            for window in (2, 9):
                assert order.sample_of(epoch, window) is None
                following = [place for place in whole[whole.index(window) :] if place not in (2, 9)]
                wanted = 9 * epoch + left.index(following[0]) if following else 9 * (epoch + 1)
                assert order.sample_at(epoch, whole.index(window)) == wanted
            for window in (-1, 11):
                with pytest.raises(IndexError, match=r"outside range\(11\)"):
                    order.sample_of(epoch, window)
        assert WindowOrder(11, seed, 4, [2, 2, 9]).windows_per_epoch == 9
    assert WindowOrder(5, 1).window(0) in range(5)


def test_blocks_and_what_is_inside_are_shuffled_anew_each_epoch():
    order = WindowOrder(4096, 5, 64)
    epochs = [[order.window(4096 * epoch + i) for i in range(4096)] for epoch in range(3)]
    blocks = [[window // 64 for window in epoch[::64]] for epoch in epochs]
    inside = [[window % 64 for window in sorted_block(epoch, 7)] for epoch in epochs]
    assert len({tuple(row) for row in blocks}) == len({tuple(row) for row in inside}) == 3
    others = [[window % 64 for window in sorted_block(epochs[0], block)] for block in range(64)]
    assert len({tuple(row) for row in others}) == 64


def sorted_block(epoch: list[int], block: int) -> list[int]:
    """The windows of a block, in the order in which an epoch reads them."""
    return [window for window in epoch if window // 64 == block]


@pytest.mark.parametrize(
    ("size", "half_bits"), [(1, 1), (2, 1), (4, 1), (5, 2), (16, 2), (17, 3), (64, 3), (65, 4), (2**62, 31)]
)
def test_bits_of_half_an_index(size: int, half_bits: int):
    assert window_order._half_bits(size) == half_bits


def test_indices_at_the_ends_of_the_range():
    assert sorted(feistel_permute(np.array([0, 9]), 10, 1).tolist()) == sorted(
        feistel_permute(i, 10, 1) for i in (0, 9)
    )
    assert feistel_permute(np.empty(0, np.int64), 10, 1).tolist() == []
    outside: list[Any] = [10, -1, np.array([9, 10]), np.array([-1, 0])]
    for index in outside:
        with pytest.raises(IndexError, match=r"outside range\(10\)"):
            feistel_permute(index, 10, 1)


# -- the run's own list ------------------------------------------------------------------------------------------------


def test_an_entry_from_an_earlier_step_has_those_before_it_in_it():
    plain = RunOrder(50, 3, 2)
    entries = [
        Quarantined(4, (plain.window(9),)),
        Quarantined(2, (plain.window(5),)),
        Quarantined(7, (plain.window(30),)),
    ]
    order = RunOrder(50, 3, 2, entries)
    assert order.quarantined == {plain.window(9), plain.window(5), plain.window(30)}
    assert order.windows_per_epoch == 47
    assert [order.window(i) for i in range(14)] == [
        plain.window(i) for i in (0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15)
    ]
    assert [order.epoch(i) for i in (0, 46, 47, 48, 95)] == [0, 0, 1, 1, 2]
    assert RunOrder(50, 3, 2).epoch(50) == 1
    assert RunOrder(50, 3, 2).epoch(49) == 0


def test_the_list_as_json_and_back(tmp_path: Path):
    entries = (Quarantined(4, (7, 9)), Quarantined(11, ()))
    rows = [{"after_step": 4, "windows": [7, 9]}, {"after_step": 11, "windows": []}]
    assert quarantine_rows(entries) == rows
    assert read_quarantine(rows, tmp_path) == entries
    for wrong in ([{"after_step": 4}], [{"after_step": "x", "windows": []}], [{"after_step": 4, "windows": 5}], [3]):
        with pytest.raises(InputError, match="quarantine: not a list of after_step and windows"):
            read_quarantine(wrong, tmp_path)  # pyright: ignore[reportArgumentType]
