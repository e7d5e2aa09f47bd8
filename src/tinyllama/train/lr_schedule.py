"""The learning rate of each step: a pure function of the recipe."""

import math
from dataclasses import dataclass

from tinyllama.train.train_config import TrainConfig


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


def lr_schedule(train: TrainConfig) -> LrSchedule:
    """The recipe's schedule; a warmup that does not leave room in a short run is cut to a tenth of it."""
    total = train.total_steps
    cooldown = min(train.cooldown_steps, total)
    warmup = train.warmup_steps
    if warmup > total - cooldown:
        warmup = min(total - cooldown, max(1, total // 10))
    return LrSchedule(train.lr_schedule, total, warmup, cooldown, train.peak_lr, train.min_lr)
