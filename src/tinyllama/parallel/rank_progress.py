"""What a rank is doing, for the heartbeat and for observers outside the process.

With TINYLLAMA_MARKS=FILE in the environment each rank also writes its activity into that memory-mapped file, which costs
nothing and survives a SIGKILL: the kill drill reads there what a kill interrupted. No torch.
"""

import mmap
import os
import time
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

VARIABLE = "TINYLLAMA_MARKS"
_WORDS = 2  # 64-bit words of a rank: the loop's activity, the saving thread's
_ACTIVITY_BITS = 8


class Activity(IntEnum):
    """What a run does, in the order of a step."""

    START = 0
    DATA = 1
    FORWARD = 2
    BACKWARD = 3
    REDUCTION = 4
    UPDATE = 5
    RECORD = 6
    VALIDATION = 7
    SAVE = 8  # the loop waits for the copy
    WRITE = 9  # of the saving thread, while the loop continues
    COMMIT = 10  # of the saving thread: sync and rename
    END = 11

    @property
    def words(self) -> str:
        return _WORDS_OF[self]


_WORDS_OF = {
    Activity.START: "the start",
    Activity.DATA: "reading its micro-batch",
    Activity.FORWARD: "the forward pass",
    Activity.BACKWARD: "the backward pass",
    Activity.REDUCTION: "the sum of the gradients",
    Activity.UPDATE: "the update",
    Activity.RECORD: "recording metrics",
    Activity.VALIDATION: "validation",
    Activity.SAVE: "saving",
    Activity.WRITE: "writing the checkpoint",
    Activity.COMMIT: "committing the checkpoint",
    Activity.END: "the end",
}


class ActivityAt(NamedTuple):
    """An activity, and its step (from 1)."""

    step: int
    activity: Activity

    @property
    def words(self) -> str:
        return f"{self.activity.words} of step {self.step}" if self.step else self.activity.words


class RankProgress:
    """One rank's activity; `since` is when it began (time.monotonic)."""

    def __init__(self, rank: int = 0) -> None:
        self.mark = ActivityAt(0, Activity.START)
        self.since = time.monotonic()
        self._first_word = rank * _WORDS
        path = os.environ.get(VARIABLE)
        self._words = _map(Path(path), writable=True) if path else None

    def enter(self, activity: Activity, step: int) -> None:
        """The loop begins an activity."""
        self.mark, self.since = ActivityAt(step, activity), time.monotonic()
        if self._words is not None:
            self._words[self._first_word] = step << _ACTIVITY_BITS | activity

    def stay(self) -> None:
        """The same activity makes progress."""
        self.since = time.monotonic()

    def enter_saver(self, activity: Activity, step: int) -> None:
        """The saving thread begins an activity; END: it is idle."""
        if self._words is not None:
            self._words[self._first_word + 1] = step << _ACTIVITY_BITS | activity


class ProgressFile:
    """The activities of all ranks, read from another process."""

    def __init__(self, path: Path, ranks: int) -> None:
        """Create the file, with every rank at its start."""
        path.write_bytes(bytes(8 * _WORDS * ranks))
        self._words = _map(path, writable=False)
        self._ranks = ranks

    def of(self, rank: int) -> tuple[ActivityAt, ActivityAt]:
        """The activities of a rank's loop and of its saving thread."""
        loop, saver = (int(self._words[rank * _WORDS + word]) for word in range(_WORDS))
        return _mark(loop), _mark(saver)


def _mark(word: int) -> ActivityAt:
    return ActivityAt(word >> _ACTIVITY_BITS, Activity(word & (1 << _ACTIVITY_BITS) - 1))


def _map(path: Path, *, writable: bool) -> memoryview:
    with path.open("r+b" if writable else "rb") as file:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return memoryview(mmap.mmap(file.fileno(), 0, access=access)).cast("Q")  # a word is stored in one piece
