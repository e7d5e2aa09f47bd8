"""Log lines and progress bars with ETA, on stderr only. Of the ranks of a distributed run only rank 0 prints."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10

console = Console(stderr=True, highlight=False)


def is_speaker() -> bool:
    """Whether this process prints, and writes files that only one process may write: rank 0, or a single process."""
    return os.environ.get("RANK", "0") == "0"


def info(message: str) -> None:
    """Print one line about the progress of the work."""
    if is_speaker():
        console.print(message, markup=False)


def warn(message: str) -> None:
    """Print one line about something that the user should know and may want to change."""
    if is_speaker():
        console.print(f"warning: {message}", style="yellow", markup=False)


class ProgressLine(Protocol):
    """Shows how much of the work is done, and a short note."""

    def update(self, done: int, note: str = "") -> None: ...


class _Silent:
    """For a process that does not print."""

    def update(self, done: int, note: str = "") -> None:
        return


class _Bar:
    """On a terminal: a live bar."""

    def __init__(self, bar: Progress, description: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=total, note="")

    def update(self, done: int, note: str = "") -> None:
        self._bar.update(self._task, completed=done, note=note)


class _PlainLines:
    """In a log file: a plain line every SECONDS_BETWEEN_LINES."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total = description, total
        self._started = self._last = time.monotonic()
        self._first_done: int | None = None

    def update(self, done: int, note: str = "") -> None:
        if self._first_done is None:
            self._first_done = done
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        words = [f"{self._description}: {done:,}"]
        if self._total is not None:
            words[0] += f" of {self._total:,}"
            speed = (done - self._first_done) / (now - self._started)
            if speed > 0:
                words.append(f"ETA {timedelta(seconds=round((self._total - done) / speed))}")
        info(", ".join([*words, *([note] if note else [])]))


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[ProgressLine]:
    """Show the progress of long work with ETA: a live bar on a terminal, else a plain line every few seconds."""
    if not is_speaker():
        yield _Silent()
        return
    if not sys.stderr.isatty():
        yield _PlainLines(description, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar, description, total)
