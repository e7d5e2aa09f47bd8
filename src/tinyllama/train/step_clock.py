"""How long steps take, and what they report, read behind the device's work: the host never waits for the step under way."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

Moment = float | torch.cuda.Event


def now(device: torch.device) -> Moment:
    """A point in the device's queue."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Moment, end: Moment) -> float:
    """Seconds from one moment to another; waits until the device has reached the second."""
    if isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    assert isinstance(begin, float)
    assert isinstance(end, float)
    return end - begin


@dataclass(frozen=True)
class StepTiming:
    """One step's time and values, perhaps still to come."""

    begin: Moment
    end: Moment
    values: Tensor  # on the host once `end` has passed

    def read(self) -> tuple[list[float], float]:
        """The values and the seconds; waits until the step has ended."""
        seconds = seconds_between(self.begin, self.end)
        return self.values.tolist(), seconds


class StepClock:
    """Times steps from the end of one to the end of the next, by the device's own clock on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Start timing now: what came before belongs to no step."""
        self._last = now(self._device)

    def lap(self, values: list[Tensor]) -> StepTiming:
        """The step ends here and reports `values`, of one element each."""
        row = torch.stack([value.double() for value in values])
        if self._device.type == "cuda":
            row = torch.empty(len(row), dtype=row.dtype, pin_memory=True).copy_(row, non_blocking=True)
        begin, self._last = self._last, now(self._device)
        return StepTiming(begin, self._last, row)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Garbage is not collected in the middle of a step: among many tensors that takes half a second."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
