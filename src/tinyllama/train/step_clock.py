"""How long steps take, and what they report, read behind the device's work: the host never waits for the step under way."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

Moment = float | torch.cuda.Event


@dataclass(frozen=True)
class Lap:
    """One step's time and values, perhaps still to come."""

    begin: Moment
    end: Moment
    values: Tensor  # on the host once `end` has passed

    def read(self) -> tuple[list[float], float]:
        """The values and the seconds; waits until the step has ended."""
        if isinstance(self.begin, torch.cuda.Event) and isinstance(self.end, torch.cuda.Event):
            self.end.synchronize()
            return self.values.tolist(), self.begin.elapsed_time(self.end) / 1000
        assert isinstance(self.begin, float)
        assert isinstance(self.end, float)
        return self.values.tolist(), self.end - self.begin


class StepClock:
    """Times steps from the end of one to the end of the next, by the device's own clock on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Begin to count now: what came before belongs to no step."""
        self._last = self._now()

    def lap(self, values: list[Tensor]) -> Lap:
        """The step ends here and reports `values`, of one element each."""
        row = torch.stack([value.double() for value in values])
        if self._device.type == "cuda":
            row = torch.empty(len(row), dtype=row.dtype, pin_memory=True).copy_(row, non_blocking=True)
        begin, self._last = self._last, self._now()
        return Lap(begin, self._last, row)

    def _now(self) -> Moment:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Python collects no garbage when it likes: a collection among many tensors takes half a second."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
