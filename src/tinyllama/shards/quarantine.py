"""Windows that a run takes out of its data on the way, and the order of the rest.

A quarantine holds from one step of the run on. What was read before that step stays as it was, whatever is quarantined
later: so a run that goes back and forward again reads the same windows up to that step, and every batch of the past can
be named from the seed and the list alone.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinyllama.errors import InputError
from tinyllama.shards.window_order import WindowOrder


class Quarantined(NamedTuple):
    """Windows that are not read after step `after_step`; that many updates were made before it holds."""

    after_step: int
    windows: tuple[int, ...]


class _Part(NamedTuple):
    """The samples from `first_sample` on are those of `order`, each `shift` places further."""

    first_sample: int
    shift: int
    order: WindowOrder


class RunOrder:
    """Which window each sample of a run reads: a pure function of (seed, epoch, index, quarantine list).

    An entry of the list takes its windows out of the rest of the epoch under way and of every later one; the windows
    behind them move up, and no other one is left out or read twice. Entries stand in the order in which they were found;
    one that holds from an earlier step than those before it has theirs in it, because the run went back behind them.
    """

    def __init__(
        self, n_windows: int, seed: int, sequences_per_step: int, quarantine: Sequence[Quarantined] = ()
    ) -> None:
        """Raises ValueError when no window is left, or a quarantined window does not exist."""
        holding: list[tuple[int, frozenset[int]]] = [(0, frozenset())]
        windows: frozenset[int] = frozenset()
        for entry in quarantine:
            windows |= set(entry.windows)
            holding = [*(part for part in holding if part[0] < entry.after_step), (entry.after_step, windows)]
        self._parts = [_Part(0, 0, WindowOrder(n_windows, seed, quarantine=holding[0][1]))]
        for after_step, windows in holding[1:]:
            self._parts.append(_next_part(self._parts[-1], after_step * sequences_per_step, windows, seed))

    @property
    def windows_per_epoch(self) -> int:
        """Windows that an epoch reads now."""
        return self._parts[-1].order.windows_per_epoch

    @property
    def quarantined(self) -> frozenset[int]:
        """Windows that are left out now."""
        return frozenset(self._parts[-1].order.quarantine)

    def window(self, sample: int) -> int:
        """The window that sample `sample` (from 0, over all epochs) reads."""
        part = self._part(sample)
        return part.order.window(sample + part.shift)

    def epoch(self, sample: int) -> int:
        """How many epochs were read whole before sample `sample`."""
        part = self._part(sample)
        return part.order.place(sample + part.shift)[0]

    def _part(self, sample: int) -> _Part:
        if sample < 0:
            raise IndexError(f"sample {sample} before the first")
        return self._parts[bisect_right(self._parts, sample, key=lambda part: part.first_sample) - 1]

    def samples_of(self, window: int, n_samples: int) -> list[int]:
        """Which of the run's first `n_samples` samples read `window`, in order. Raises IndexError outside the data."""
        found: list[int] = []
        ends = [*(part.first_sample for part in self._parts[1:]), n_samples]
        for part, end in zip(self._parts, ends, strict=True):
            start, stop = part.first_sample + part.shift, min(end, n_samples) + part.shift
            for epoch in range(start // part.order.windows_per_epoch, -(-stop // part.order.windows_per_epoch)):
                place = part.order.sample_of(epoch, window)
                if place is not None and start <= place < stop:
                    found.append(place - part.shift)
        return found


def _next_part(before: _Part, first_sample: int, windows: Iterable[int], seed: int) -> _Part:
    """The order from `first_sample` on without `windows`, taken up where the order before it stands."""
    epoch, position = before.order.place(first_sample + before.shift)
    order = WindowOrder(before.order.n_windows, seed, quarantine=windows)
    return _Part(first_sample, order.sample_at(epoch, position) - first_sample, order)


def quarantine_rows(quarantine: Sequence[Quarantined]) -> list[dict[str, Any]]:
    """The list as JSON values."""
    return [{"after_step": entry.after_step, "windows": list(entry.windows)} for entry in quarantine]


def read_quarantine(rows: list[dict[str, Any]], origin: Path) -> tuple[Quarantined, ...]:
    """The inverse of `quarantine_rows`. Raises InputError when they are none."""
    try:
        return tuple(Quarantined(int(row["after_step"]), tuple(map(int, row["windows"]))) for row in rows)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{origin}: quarantine: not a list of after_step and windows ({error!r})") from None
