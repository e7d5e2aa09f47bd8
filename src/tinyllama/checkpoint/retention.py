"""Which checkpoints of a run are kept."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tinyllama import files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.errors import InputError


@dataclass(frozen=True)
class Retention:
    """Kept are the `last` most recent, every `every_steps`-th permanently (0: none), and the best by validation loss.

    With `safe_steps`, also the latest that is at least so many steps older than the newest, for a rollback after a late
    detection, and the oldest of those after it, which will replace it.
    """

    last: int
    every_steps: int = 0
    best: bool = True
    safe_steps: int = 0

    def kept_steps(self, states: Iterable[RunState]) -> set[int]:
        """Steps whose checkpoints are kept. A checkpoint has the latest validation loss before it."""
        newest_first = sorted(states, key=lambda state: state.step, reverse=True)
        kept = {state.step for state in newest_first[: max(self.last, 1)]}
        if self.safe_steps and newest_first:
            steps = [state.step for state in newest_first]
            n_younger = sum(step > steps[0] - self.safe_steps for step in steps)
            kept |= {steps[n_younger - 1], *steps[n_younger : n_younger + 1]}
        if self.every_steps:
            kept |= {state.step for state in newest_first if state.step % self.every_steps == 0}
        losses = {state.step: _validation_loss(state) for state in reversed(newest_first)}
        if self.best and losses and min(losses.values()) < math.inf:
            kept.add(min(losses, key=lambda step: losses[step]))  # of equal ones the earliest, at which it was measured
        return kept


def remove_others(folder: Path, retention: Retention) -> list[str]:
    """Remove the checkpoints that are not kept; returns their names. A folder that cannot be read is not removed."""
    states: dict[Path, RunState] = {}
    for path in form.checkpoints(folder):
        try:
            states[path] = form.read_state(path)
        except InputError:
            continue
    kept = retention.kept_steps(states.values())
    removed = [path for path, state in states.items() if state.step not in kept]
    for path in removed:
        files.remove_folder(path)
    return [path.name for path in removed]


def _validation_loss(state: RunState) -> float:
    loss = (state.validation or {}).get("loss", math.inf)
    return loss if math.isfinite(loss) else math.inf
