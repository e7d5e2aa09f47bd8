"""What a person reads while a command works: lines and progress bars with ETA, on stderr only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

console = Console(stderr=True, highlight=False)


def info(message: str) -> None:
    """One line about what is being done."""
    console.print(message, markup=False)


def warn(message: str) -> None:
    """One line about something that the user should know and may want to change."""
    console.print(f"warning: {message}", style="yellow", markup=False)


class ProgressLine(Protocol):
    """A live line: how far, and a few words beside it."""

    def update(self, done: int, note: str = "") -> None: ...


class _Bar:
    def __init__(self, bar: Progress, description: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=total, note="")

    def update(self, done: int, note: str = "") -> None:
        self._bar.update(self._task, completed=done, note=note)


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[ProgressLine]:
    """A progress bar with elapsed and remaining time; off when stderr is not a terminal (a log file stays readable)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        yield _Bar(bar, description, total)
