"""Answers steps whose loss or gradient is no finite number: left out one by one, and an end put to many in a row."""

import math

from tinyllama import log
from tinyllama.train.train_config import TrainConfig

LOSS_SCALE_SEARCH = 32  # halvings that fp16's loss scale may need to find its size: these are no fault


class SkippedStepsError(Exception):
    """More steps in a row were skipped than the recipe allows."""

    def __init__(self, step: int, in_a_row: int) -> None:
        super().__init__(f"{in_a_row} steps in a row up to step {step} had a non-finite loss or gradient")
        self.step = step


class StepGuard:
    """Counts skipped steps. The update itself is called off on the device, see train_step."""

    def __init__(self, train: TrainConfig) -> None:
        self._precision = train.precision
        self._limit = train.max_skipped_in_a_row + (LOSS_SCALE_SEARCH if train.precision == "fp16" else 0)
        self.in_a_row = 0

    def see(self, step: int, loss: float, is_skipped: bool) -> str | None:
        """Take note of a step; returns why it was skipped, None when it was not."""
        if not is_skipped:
            self.in_a_row = 0
            return None
        self.in_a_row += 1
        if not math.isfinite(loss):
            reason = "the loss is no finite number"
        elif self._precision == "fp16":
            reason = "left fp16's range, the loss scale is halved"
        else:
            reason = "the gradient is not finite"
        log.warn(f"pretrain: step {step}: {reason}; no update")
        return reason

    def check(self, step: int) -> None:
        """Raises SkippedStepsError when `step`, the last one seen, is one too many."""
        if self.in_a_row >= self._limit:
            raise SkippedStepsError(step, self.in_a_row)
