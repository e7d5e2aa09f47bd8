"""Requests to stop before the end: a signal, or the recipe's time limit. The current step is finished and saved first."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self

from tinyllama import log

TIME_LIMIT_EXIT_CODE = os.EX_TEMPFAIL  # 75: "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


REQUESTS = (128 + signal.SIGTERM, 128 + signal.SIGINT, TIME_LIMIT_EXIT_CODE)  # exit codes, highest priority first


class StopRequest(NamedTuple):
    """Why to stop, and the exit code that says so."""

    reason: str
    exit_code: int


class StopRequests:
    """A context in which SIGTERM and SIGINT become requests and the time limit counts.

    The second Ctrl-C raises KeyboardInterrupt where the program stands. More of SIGTERM change nothing: who sends it
    sends SIGKILL in the end. Outside the main thread there are no signals, only the time limit.
    """

    def __init__(self, time_limit_minutes: float = 0.0) -> None:
        self._ends_at = time.monotonic() + 60 * time_limit_minutes if time_limit_minutes else float("inf")
        self._minutes = time_limit_minutes
        self._signal: StopRequest | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._signal = StopRequest(name, 128 + number)
        if not log.is_speaker():
            return
        # Not by the log: the signal may have come in the middle of one of its lines.
        words = "finishing the current step, then saving; press Ctrl-C again to quit without saving"
        os.write(2, f"pretrain: {name}: {words}\n".encode())

    def counts(self) -> list[float]:
        """`now`, as a row in which 1 stands for one of REQUESTS: rows of several ranks can be added up."""
        request = self.now()
        code = None if request is None else request.exit_code
        return [float(code == exit_code) for exit_code in REQUESTS]

    def by_signal(self) -> StopRequest | None:
        """The signal that asked to stop."""
        return self._signal

    def now(self) -> StopRequest | None:
        """What asks to stop now: a signal, else the time limit."""
        if self._signal is None and time.monotonic() >= self._ends_at:
            return StopRequest(time_limit(self._minutes), TIME_LIMIT_EXIT_CODE)
        return self._signal


def time_limit(minutes: float) -> str:
    return f"time limit of {minutes:g} minutes"


def agreed(counts: list[float], time_limit_minutes: float) -> StopRequest | None:
    """The request of highest priority in the ranks' summed `counts`: the same on every rank."""
    for exit_code, count in zip(REQUESTS, counts, strict=False):
        if count > 0:
            name = time_limit(time_limit_minutes) if exit_code == TIME_LIMIT_EXIT_CODE else ""
            return StopRequest(name or signal.Signals(exit_code - 128).name, exit_code)
    return None
