"""Loss scaling for fp16 (Micikevicius et al. 2018): gradients are made larger by a factor that finds its own size."""

import torch
from torch import Tensor

FIRST, LARGEST = 2.0**16, 2.0**24  # of a micro-batch's mean loss
GROWTH_INTERVAL = 1000  # updates in a row without overflow, after which it doubles


class LossScale:
    """The factor of the summed loss, on the device. Where gradients need none it stays 1.

    The loss is a sum over the `tokens` of a micro-batch, not a mean: its gradients are larger as it is.
    """

    def __init__(self, is_on: bool, tokens: int, device: torch.device) -> None:
        self.is_on = is_on
        self._largest = LARGEST / tokens
        self.factor = torch.tensor(FIRST / tokens if is_on else 1.0, device=device)
        self.good_updates = torch.zeros((), dtype=torch.int32, device=device)

    @torch.no_grad()
    def update(self, is_skipped: Tensor) -> None:
        """Halve after an overflow; double after GROWTH_INTERVAL good updates."""
        if not self.is_on:
            return
        self.good_updates = (self.good_updates + 1) * (1 - is_skipped).to(torch.int32)
        grows = self.good_updates >= GROWTH_INTERVAL
        self.factor = torch.where(is_skipped > 0, self.factor / 2, torch.where(grows, self.factor * 2, self.factor))
        self.factor.clamp_(max=self._largest)
        self.good_updates *= ~grows

    def state(self) -> dict[str, float]:
        """What resume needs; waits for the device."""
        return {"factor": self.factor.item(), "good_updates": self.good_updates.item()}

    def load(self, state: dict[str, float]) -> None:
        """The inverse of `state`."""
        self.factor.fill_(state["factor"])
        self.good_updates.fill_(int(state["good_updates"]))
