"""What a command says while it works: on stderr, by rank 0 only, with an estimate of the end."""

import io
import sys

import pytest
from rich.console import Console

from tinyllama import log


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed, and the log as rank 0 has it."""
    out = io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=out, width=200, highlight=False))
    monkeypatch.delenv("RANK", raising=False)
    return out


def test_rank_0_speaks_and_a_process_without_a_launcher(said: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    assert log.is_speaker()
    log.info("[bold]one[/bold]")
    log.warn("[two]")
    monkeypatch.setenv("RANK", "0")
    log.info("three")
    monkeypatch.setenv("RANK", "1")
    assert not log.is_speaker()
    log.info("not said")
    log.warn("not said")
    with log.progress("work", 10) as line:
        line.update(5)
    assert said.getvalue() == "[bold]one[/bold]\nwarning: [two]\nthree\n"


def test_lines_go_to_stderr_as_they_are():
    assert log.console.stderr
    assert not log.console._highlight, "numbers in names are no figures"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_lines_come_now_and_then_with_the_end_by_the_speed_so_far(said: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr(log, "time", clock)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with log.progress("work", 5000) as line:
        for seconds, done, note in (
            (1, 1000, ""), (9.9, 1100, ""), (10, 1200, "loss 3"), (19.9, 1300, ""), (20, 1400, ""), (45, 1400, ""),
        ):  # fmt: skip
            clock.now = 1000 + seconds
            line.update(done, note)
    # From 1,000 on: 200 in 10 s, 3,800 to go; 400 in 20 s, 3,600 to go; 400 in 45 s.
    assert said.getvalue().splitlines() == [
        "work: 1,200 of 5,000, ETA 0:03:10, loss 3",
        "work: 1,400 of 5,000, ETA 0:03:00",
        "work: 1,400 of 5,000, ETA 0:06:45",
    ]


def test_without_a_total_or_a_speed_no_end_is_said(said: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr(log, "time", clock)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for total in (None, 10):
        with log.progress("work", total) as line:
            line.update(3)
            clock.now += 10
            line.update(3, "note")
    with log.progress("work") as line:
        line.update(3)
        clock.now += 10
        line.update(1234567)
    assert said.getvalue().splitlines() == ["work: 3, note", "work: 3 of 10, note", "work: 1,234,567"]


def test_on_a_terminal_a_bar_moves(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(log, "console", Console(file=out, width=120, force_terminal=True, color_system=None))
    with log.progress("work", 8) as line:
        assert isinstance(line, log._Bar)
        line.update(3, "loss 2.5")
        task = line._bar.tasks[0]
        assert (task.description, task.total, task.completed, task.fields["note"]) == ("work", 8, 3, "loss 2.5")
        line.update(4)
        assert (task.completed, task.fields["note"]) == (4, "")
        line.update(3, "loss 2.5")
        line._bar.refresh()
    for words in ("work", "3/8", "ETA", "loss 2.5"):
        assert words in out.getvalue()
    assert line._bar.live.transient
