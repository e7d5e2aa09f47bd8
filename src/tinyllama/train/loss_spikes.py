"""Sees loss spikes: a robust z-score of each step's loss against the losses before it. Torch-free, pure arithmetic.

The score is the modified z-score of Iglewicz and Hoaglin ("How to Detect and Handle Outliers", 1993): the distance from
the median in units of the median absolute deviation, scaled so that it is a standard deviation where noise is normal.
Up to half of the window may be spikes without moving it much, which a mean and a standard deviation do not survive. That
a run goes back to a checkpoint before the spike and leaves out the batches around it is how PaLM was trained (Chowdhery
et al. 2022, section 5.1). Everything here follows from the global loss, so all ranks decide alike.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tinyllama.shards.quarantine import Quarantined
from tinyllama.train.train_config import GuardConfig

DEVIATIONS_PER_SIGMA = 1.4826  # of a normal distribution: 1 / 0.6745, its third quartile
LEAST_SIGMA = 0.005  # as a share of the median loss: a run without noise has no spikes of a thousandth
# An update shows its harm in the loss of the next step; one step more for harm that builds up.
STEPS_BEFORE = 2


@dataclass(frozen=True)
class Spike:
    """So many steps in a row, up to `step`, whose loss stands out."""

    step: int
    in_a_row: int
    loss: float
    median: float
    score: float  # robust z of the last one

    @property
    def after_step(self) -> int:
        """The last step that cannot have caused it: a checkpoint of it or before it is clean."""
        return max(self.step - self.in_a_row - STEPS_BEFORE, 0)

    def words(self) -> str:
        """One line for logs and events."""
        return (
            f"loss {self.loss:.3f} at step {self.step}, the {_nth(self.in_a_row)} in a row far above the median "
            f"{self.median:.3f} (robust z {self.score:.1f})"
        )


def robust_z(value: float, window: Sequence[float]) -> float:
    """(value - median) / sigma; sigma is 1.4826 median absolute deviations of the window, 0.5% of the median at least."""
    middle = median(window)
    deviation = median(abs(one - middle) for one in window)
    sigma = max(DEVIATIONS_PER_SIGMA * deviation, LEAST_SIGMA * abs(middle), 1e-12)
    return (value - middle) / sigma


def steps_to_see(train: GuardConfig) -> int:
    """From the last clean step to the one where a spike is seen: so old must a checkpoint be to be safe."""
    return train.spike_steps_in_a_row + STEPS_BEFORE


class SpikeGuard:
    """Compares each loss with the `train.spike_window` losses before it; none before there are as many."""

    def __init__(self, train: GuardConfig) -> None:
        self._train = train
        self.load({})

    def see(self, step: int, loss: float) -> Spike | None:
        """Take note of a step; the spike, when it is the last of as many in a row as make one. Skipped steps: not given."""
        if not math.isfinite(loss):
            return None
        window = [value for _, value in self._losses]
        self._losses.append((step, loss))
        score = robust_z(loss, window) if len(window) == self._train.spike_window else 0.0
        self._in_a_row = self._in_a_row + 1 if score > self._train.spike_threshold else 0
        if self._in_a_row != self._train.spike_steps_in_a_row:
            return None
        return Spike(step, self._in_a_row, loss, median(window), score)

    def state(self) -> dict[str, Any]:
        """What resume needs: JSON values."""
        return {"losses": [list(pair) for pair in self._losses], "in_a_row": self._in_a_row}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; an empty one starts without losses."""
        pairs = ((int(step), float(loss)) for step, loss in state.get("losses", []))
        self._losses: deque[tuple[int, float]] = deque(pairs, maxlen=self._train.spike_window)
        self._in_a_row = int(state.get("in_a_row", 0))


def roll_backs_near(spike: Spike, quarantine: Sequence[Quarantined], window: int) -> int:
    """Earlier roll-backs whose windows lie less than `window` steps from this spike's."""
    return sum(abs(entry.after_step - spike.after_step) < window for entry in quarantine)


def suspect_steps(spike: Spike, times_near: int, window: int, steps_per_epoch: int) -> range:
    """Steps, counted from 1, whose windows may have caused it: those up to the one where the spike was seen.

    Where the run rolled back before, the bad data is longer than one spike shows: half a `window` of the steps that
    follow is left out too, for each time, but never more than a twentieth of an epoch.
    """
    more = min(times_near * window // 2, steps_per_epoch // 20)
    return range(spike.after_step + 1, spike.step + more + 1)


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
