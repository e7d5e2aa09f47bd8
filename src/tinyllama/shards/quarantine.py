"""Windows that a run excludes from its data, and the order of the others.

A quarantine is valid from one step of the run on and does not change the order before it. So a run that rolls back and
trains again reads the same windows up to that step, and every past batch can be computed from the seed and the list.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinyllama.errors import InputError
from tinyllama.shards.window_order import WindowOrder


class Quarantined(NamedTuple):
    """Windows that are not read after the first `after_step` steps."""

    after_step: int
    windows: tuple[int, ...]


class _Segment(NamedTuple):
    """From `first_sample` on, sample s of the run is sample s + `shift` of `order`."""

    first_sample: int
    shift: int
    order: WindowOrder


class RunOrder:
    """Which window each sample of a run reads: a pure function of (seed, epoch, index, quarantine list).

    An entry removes its windows from the rest of the current epoch and from every later one; the windows behind them move
    up, and no other window is skipped or read twice. Entries are in the order in which they were added; one with an earlier
    step than the entries before it includes their windows, because the run rolled back past them.
    """

    def __init__(
        self, n_windows: int, seed: int, sequences_per_step: int, quarantine: Sequence[Quarantined] = ()
    ) -> None:
        """Raises ValueError when no window is left, or a quarantined window does not exist."""
        holding: list[tuple[int, frozenset[int]]] = [(0, frozenset())]
        windows: frozenset[int] = frozenset()
        for entry in quarantine:
            windows |= set(entry.windows)
            holding = [*(older for older in holding if older[0] < entry.after_step), (entry.after_step, windows)]
        self._segments = [_Segment(0, 0, WindowOrder(n_windows, seed, quarantine=holding[0][1]))]
        for after_step, windows in holding[1:]:
            self._segments.append(_next_segment(self._segments[-1], after_step * sequences_per_step, windows, seed))

    @property
    def windows_per_epoch(self) -> int:
        """Number of windows per epoch, with the latest quarantine."""
        return self._segments[-1].order.windows_per_epoch

    @property
    def quarantined(self) -> frozenset[int]:
        """Windows that are excluded by the latest quarantine."""
        return frozenset(self._segments[-1].order.quarantine)

    def window(self, sample: int) -> int:
        """The window that sample `sample` (from 0, over all epochs) reads."""
        segment = self._segment(sample)
        return segment.order.window(sample + segment.shift)

    def epoch(self, sample: int) -> int:
        """Number of complete epochs before sample `sample`."""
        segment = self._segment(sample)
        return segment.order.place(sample + segment.shift)[0]

    def _segment(self, sample: int) -> _Segment:
        if sample < 0:
            raise IndexError(f"sample {sample} before the first")
        return self._segments[bisect_right(self._segments, sample, key=lambda segment: segment.first_sample) - 1]

    def samples_of(self, window: int, n_samples: int) -> list[int]:
        """Which of the run's first `n_samples` samples read `window`, in order. Raises IndexError outside the data."""
        found: list[int] = []
        ends = [*(segment.first_sample for segment in self._segments[1:]), n_samples]
        for segment, end in zip(self._segments, ends, strict=True):
            start, stop = segment.first_sample + segment.shift, min(end, n_samples) + segment.shift
            for epoch in range(start // segment.order.windows_per_epoch, -(-stop // segment.order.windows_per_epoch)):
                sample = segment.order.sample_of(epoch, window)
                if sample is not None and start <= sample < stop:
                    found.append(sample - segment.shift)
        return found


def _next_segment(before: _Segment, first_sample: int, windows: Iterable[int], seed: int) -> _Segment:
    """The order from `first_sample` on without `windows`; it continues at the position of the order before it."""
    epoch, position = before.order.place(first_sample + before.shift)
    order = WindowOrder(before.order.n_windows, seed, quarantine=windows)
    return _Segment(first_sample, order.sample_at(epoch, position) - first_sample, order)


def quarantine_rows(quarantine: Sequence[Quarantined]) -> list[dict[str, Any]]:
    """The list as JSON values."""
    return [{"after_step": entry.after_step, "windows": list(entry.windows)} for entry in quarantine]


def read_quarantine(rows: list[dict[str, Any]], origin: Path) -> tuple[Quarantined, ...]:
    """The inverse of `quarantine_rows`. Raises InputError for any other value."""
    try:
        return tuple(Quarantined(int(row["after_step"]), tuple(map(int, row["windows"]))) for row in rows)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{origin}: quarantine: not a list of after_step and windows ({error!r})") from None
