"""The learning rate of each step: a pure function of the recipe."""

import math
from dataclasses import dataclass

from tinyllama.train.train_config import ScheduleConfig


@dataclass(frozen=True)
class LrSchedule:
    """Warmup, then cosine or a constant, then cooldown; see `lr_at`."""

    kind: str  # cosine | wsd
    total_steps: int
    warmup_steps: int
    cooldown_steps: int
    peak_lr: float
    min_lr: float

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step`, counted from 1 to total_steps.

        Warmup rises linearly and reaches peak_lr at step warmup_steps. Then `cosine` (Loshchilov and Hutter 2017) falls
        to min_lr at the last step before cooldown, `wsd` (Hu et al. 2024) stays at peak_lr. Cooldown falls linearly from
        there, to 0 after the last step.
        """
        if step <= self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        last_before_cooldown = self.total_steps - self.cooldown_steps
        if step > last_before_cooldown:
            steps_left = self.total_steps + 1 - step
            return self._middle(last_before_cooldown) * steps_left / (self.cooldown_steps + 1)
        return self._middle(step)

    def _middle(self, step: int) -> float:
        if self.kind == "wsd":
            return self.peak_lr
        length = self.total_steps - self.cooldown_steps - self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, length)
        return self.min_lr + (self.peak_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def lr_schedule(train: ScheduleConfig, total_steps: int) -> LrSchedule:
    """The recipe's schedule; a warmup that leaves no room in a short run is shortened to a tenth of the run."""
    cooldown = min(train.cooldown_steps, total_steps)
    warmup = train.warmup_steps
    if warmup > total_steps - cooldown:
        warmup = min(total_steps - cooldown, max(1, total_steps // 10))
    return LrSchedule(train.lr_schedule, total_steps, warmup, cooldown, train.peak_lr, train.min_lr)
