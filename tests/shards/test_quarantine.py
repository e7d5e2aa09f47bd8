"""The order of a run's windows with quarantines that came on its way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.shards.quarantine import Quarantined, RunOrder
from tinyllama.shards.window_order import WindowOrder

PER_STEP = 3


def slow_order(n_windows: int, seed: int, quarantine: list[Quarantined], n_samples: int) -> list[int]:
    """The same windows by walking: read on through the epochs, leaving out what is quarantined at that step."""
    whole = WindowOrder(n_windows, seed)
    read: list[int] = []
    at = 0  # place in the order that leaves nothing out
    while len(read) < n_samples:
        step = len(read) // PER_STEP
        held: set[int] = set()
        known: set[int] = set()
        latest = -1
        for number, entry in enumerate(quarantine):  # an entry holds what was found before it too
            known |= set(entry.windows)
            overruled = any(later.after_step <= entry.after_step for later in quarantine[number + 1 :])
            if entry.after_step <= step and not overruled and entry.after_step > latest:
                held, latest = set(known), entry.after_step
        window = whole.window(at)
        at += 1
        if window not in held:
            read.append(window)
    return read


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_as_walking_over_the_windows_would_have_it(data: st.DataObject):
    n_windows = data.draw(st.integers(2, 40))
    seed = data.draw(st.integers(0, 5))
    left = set(range(n_windows))
    quarantine = []
    for _ in range(data.draw(st.integers(0, 4))):
        windows = data.draw(st.sets(st.sampled_from(sorted(left)), max_size=len(left) - 1))
        left -= windows
        quarantine.append(Quarantined(data.draw(st.integers(0, 30)), tuple(windows)))
    order = RunOrder(n_windows, seed, PER_STEP, quarantine)
    wanted = slow_order(n_windows, seed, quarantine, 120)
    assert [order.window(sample) for sample in range(120)] == wanted
    assert order.windows_per_epoch == len(left)
    for window in range(n_windows):
        assert order.samples_of(window, 120) == [sample for sample, read in enumerate(wanted) if read == window]


def test_what_was_read_before_stays_and_the_rest_moves_up():
    plain = RunOrder(100, 7, 4)
    bad = tuple(plain.window(sample) for sample in range(20, 28))  # steps 5 and 6, from 0
    order = RunOrder(100, 7, 4, [Quarantined(5, bad)])
    assert [order.window(i) for i in range(20)] == [plain.window(i) for i in range(20)]
    assert [order.window(i) for i in range(20, 92)] == [plain.window(i) for i in range(28, 100)]
    assert sorted(order.window(i) for i in range(92, 184)) == sorted(set(range(100)) - set(bad))


def test_in_a_later_epoch_too_nothing_else_is_left_out_or_read_twice():
    plain = RunOrder(10, 7, 4)
    bad = tuple(plain.window(sample) for sample in range(24, 28))  # step 6, in the third epoch
    order = RunOrder(10, 7, 4, [Quarantined(6, bad)])
    third = [order.window(i) for i in range(20, 26)]
    assert third == [plain.window(i) for i in (20, 21, 22, 23, 28, 29)]
    assert sorted([*third, *bad]) == list(range(10))
    assert order.samples_of(bad[0], 1000)[-1] < 20


def test_constant_work_at_any_size():
    order = RunOrder(1_500_000_000, 42, 1024, [Quarantined(1_000_000, (5, 7)), Quarantined(1_400_000, (9,))])
    window = order.window(1_440_000_000)
    assert 1_440_000_000 in order.samples_of(window, 1_500_000_000)


@pytest.mark.parametrize("windows", [(10,), (-1,), tuple(range(10))])
def test_windows_that_cannot_be_taken_out(windows: tuple[int, ...]):
    with pytest.raises(ValueError, match="window"):
        RunOrder(10, 1, 4, [Quarantined(3, windows)])


def test_outside_the_data():
    order = RunOrder(10, 1, 4)
    for call in (lambda: order.window(-1), lambda: order.samples_of(10, 5)):
        with pytest.raises(IndexError):
            call()
