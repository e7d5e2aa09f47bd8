"""A thread on each rank that detects dead or stalled ranks and names the one that the others wait for.

Twice a second every rank writes a heartbeat with its current activity to the ranks' common store. A rank that is killed or
stopped writes none; one that hangs in its own work is behind the others. The first rank to find that out publishes it, and
all others exit with the same reason and exit code.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tinyllama.errors import LOST_RANK_EXIT_CODE
from tinyllama.parallel.rank_progress import Activity, ActivityAt, RankProgress

Store = Any  # torch.distributed.Store: a few values that all ranks read and write

BEAT_SECONDS = 0.5
SILENT_BEATS = 3  # a rank without a new heartbeat for so long counts as lost
STORE_SECONDS = 10.0  # a store that takes longer for an answer counts as lost
GRACE_SECONDS = 5.0  # in which the main thread may leave by itself
STOPPED = "stopped"
NO_STORE = "rank 0 is lost, or torchrun: the host of the ranks' common store"


class Failure(NamedTuple):
    """Why the run cannot continue, and whether this rank was the first to report it."""

    reason: str
    exit_code: int
    is_first: bool


class Beat(NamedTuple):
    """A rank's latest heartbeat."""

    number: int
    mark: ActivityAt


class Heartbeat:
    """One rank's heartbeat, and its checks of the others'. Time without progress counts only while `is_on`.

    Two threads: one talks to the store, whose host may hang, the other one never waits for it.
    """

    def __init__(self, store: Store, rank: int, size: int, progress: RankProgress, timeout_seconds: float) -> None:
        self._store, self._rank, self._size, self._progress = store, rank, size, progress
        self._timeout_seconds = timeout_seconds
        self._number = 0
        self._ended = threading.Event()
        self._failures = 0  # of the store, in a row
        self.is_on = False
        self.failure: Failure | None = None
        self.before_exit: Callable[[Failure], None] | None = None
        self._beat()
        for work in (self._write_beats, self._look_around):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def end(self) -> None:
        """Stop the heartbeat."""
        self._ended.set()

    def publish(self, reason: str, exit_code: int) -> Failure:
        """Tell all ranks why the run stops; the first reason counts. Returns that one."""
        if self.failure is None:
            ours = json.dumps({"rank": self._rank, "reason": reason, "exit_code": exit_code})
            try:
                self._take(self._store.compare_set(STOPPED, "", ours))
            except RuntimeError:  # the store's host is gone
                self.failure = self._without_store(reason, exit_code)
        assert self.failure is not None
        return self.failure

    def find_lost(self, waited_for: str) -> Failure:
        """Find the rank that the others wait for, which takes some beats, and publish it."""
        try:
            self.look()
        except RuntimeError:
            self.failure = self._without_store(f"rank {self._rank} waited in {waited_for}")
        return self.failure or self.publish(self._describe(waited_for), LOST_RANK_EXIT_CODE)

    def _without_store(self, reason: str, exit_code: int = LOST_RANK_EXIT_CODE) -> Failure:
        """Nobody can say who was first: rank 1 speaks."""
        return Failure(f"{NO_STORE}; {reason}", exit_code, self._rank == 1)

    # -- the threads ---------------------------------------------------------------------------------------------------

    def _write_beats(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self._beat()
                self.look()
                self._failures = 0
            except RuntimeError:
                self._failures += 1

    def _look_around(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            waited = time.monotonic() - self._progress.since
            if self.failure is None and self.is_on:
                waited_for = f"{self._progress.mark.words} for {waited:.0f} seconds"
                if self._failures > SILENT_BEATS:
                    self.failure = self._without_store(f"rank {self._rank} was in {self._progress.mark.words}")
                elif waited > self._timeout_seconds:
                    asking = threading.Thread(target=self.find_lost, args=(waited_for,), daemon=True)
                    asking.start()
                    asking.join(STORE_SECONDS)
                    self.failure = self.failure or self._without_store(f"rank {self._rank} waited in {waited_for}")
            if self.failure is not None and self.is_on:  # else the main thread waits for no rank, or checks itself
                self._leave(self.failure)

    def _leave(self, failure: Failure) -> None:
        """End this process: its main thread waits where no exception reaches it."""
        if self._ended.wait(GRACE_SECONDS):
            return
        if failure.is_first or self._rank == 0:
            os.write(
                2, f"tinyllama: {failure.reason}; run the same command to resume from the last checkpoint\n".encode()
            )
        if self.before_exit is not None:
            self.before_exit(failure)
        sys.stderr.flush()
        os._exit(failure.exit_code)

    def _beat(self) -> None:
        self._number += 1
        mark = self._progress.mark
        self._store.set(f"beat/{self._rank}", json.dumps([self._number, mark.step, int(mark.activity)]))

    def look(self) -> Failure | None:
        """The reason that some rank has published."""
        if self.failure is None and self._store.check([STOPPED]):
            self._take(self._store.get(STOPPED))
        return self.failure

    def _take(self, said: bytes) -> None:
        found = json.loads(said)
        self.failure = Failure(found["reason"], found["exit_code"], found["rank"] == self._rank)

    def _beats(self) -> dict[int, Beat]:
        found: dict[int, Beat] = {}
        for rank in range(self._size):
            if self._store.check([f"beat/{rank}"]):
                number, step, activity = json.loads(self._store.get(f"beat/{rank}"))
                found[rank] = Beat(number, ActivityAt(step, Activity(activity)))
        return found

    def _describe(self, waited_for: str) -> str:
        try:
            before = self._beats()
            time.sleep(SILENT_BEATS * BEAT_SECONDS)
            after = self._beats()
        except RuntimeError:
            return f"{NO_STORE}; rank {self._rank} waited in {waited_for}"
        after[self._rank] = Beat(self._number, self._progress.mark)
        return describe(before, after, self._rank, self._size, waited_for)


def describe(before: dict[int, Beat], after: dict[int, Beat], rank: int, size: int, waited_for: str) -> str:
    """Names the rank that the others wait for, from two readings of the heartbeats: silent ones, else those behind."""
    never = [other for other in range(size) if other not in after]
    if never:
        return f"{_names(never)} never came; rank {rank} waited in {waited_for}"
    silent = [
        other
        for other in range(size)
        if other != rank and other in before and before[other].number == after[other].number
    ]
    furthest = max(beat.mark for beat in after.values())
    suspects = silent or [other for other in range(size) if after[other].mark < furthest]
    if not suspects:
        return f"no rank makes progress; all are in {furthest.words}: the ranks' connection is broken"
    activities = ", ".join(sorted({after[other].mark.words for other in suspects}))
    state = "is lost, last seen in" if silent else "hangs in"
    if rank in suspects and len(suspects) == 1:
        return f"rank {rank} {state} {activities}"
    return f"{_names(suspects)} {state} {activities}; rank {rank} waited in {waited_for}"


def _names(ranks: list[int]) -> str:
    word = "rank" if len(ranks) == 1 else "ranks"
    return f"{word} {', '.join(map(str, ranks))}"
