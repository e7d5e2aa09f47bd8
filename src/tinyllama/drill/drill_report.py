"""The result of a drill as JSON, as a terminal table and as a page of Markdown."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from tinyllama.parallel.rank_progress import Activity, ActivityAt

IDLE = (Activity.START, Activity.END)  # the saving thread does nothing


@dataclass(frozen=True)
class Kill:
    """One kill: what the process was doing, by the progress file that it left, and whether the resumed run agrees."""

    run: int
    ranks: int
    victims: list[int]
    aim: Activity
    loop: ActivityAt
    saver: ActivityAt  # rank 0's saving thread
    back_to_step: int
    seconds_to_end: float  # until the other ranks had exited
    fault: str = ""  # how the resumed run differs

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "run": self.run,
            "ranks": self.ranks,
            "killed_ranks": self.victims,
            "aimed_at": self.aim.name.lower(),
            "fell_in": self.loop.activity.name.lower(),
            "step": self.loop.step,
            "saver": None if self.saver.activity in IDLE else self.saver.activity.name.lower(),
            "back_to_step": self.back_to_step,
            "seconds_to_end": round(self.seconds_to_end, 3),
            "agrees": not self.fault,
            "fault": self.fault,
        }


def fallen(kills: list[Kill]) -> dict[str, int]:
    """Number of kills by activity; while a checkpoint is written, the saving thread's activity counts."""
    hit = (kill.loop.activity if kill.saver.activity in IDLE else kill.saver.activity for kill in kills)
    return dict(Counter(activity.name.lower() for activity in hit).most_common())


COLUMNS = ("kill", "run", "ranks", "killed", "aimed at", "fell in", "saver", "step", "back to", "agrees")


def _cells(number: int, kill: Kill) -> list[str]:
    row = kill.to_dict()
    killed = "all" if len(kill.victims) == kill.ranks else ", ".join(map(str, kill.victims))
    words = [number, kill.run, kill.ranks, killed, row["aimed_at"], row["fell_in"], row["saver"] or "-"]
    return [str(word) for word in [*words, kill.loop.step, kill.back_to_step, kill.fault or "yes"]]


def table(kills: list[Kill], title: str) -> Table:
    """The kills as a terminal table."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        made.add_column(name)
    for number, kill in enumerate(kills, 1):
        made.add_row(*_cells(number, kill))
    return made


def markdown(result: dict[str, Any], kills: list[Kill]) -> str:
    """The report as a page of Markdown."""
    lines = [
        "# Kill drill",
        "",
        f"{headline(result)}.",
        "",
        "```sh",
        result["command"],
        "```",
        "",
        f"Undisturbed: {result['steps']} steps on {ranks_in_words(result['undisturbed_ranks'])}, weights_sha256 "
        f"`{result['weights_sha256']}`. Killed runs: {result['runs']}. {result['seconds']:,.0f} seconds.",
        "",
        "Fell in: " + ", ".join(f"{activity} {count}" for activity, count in result["fell_in"].items()) + ".",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(_cells(number, kill)) + " |" for number, kill in enumerate(kills, 1)),
    ]
    return "\n".join(lines) + "\n"


def ranks_in_words(count: int) -> str:
    return f"{count} rank{'s' * (count > 1)}"


def headline(result: dict[str, Any]) -> str:
    """The outcome in one line."""
    if not result["is_whole"]:
        return f"Stopped early: {result['agree']} of {result['kills']} kills agree up to the stop"
    return (
        f"{result['agree']} of {result['kills']} kills agree: losses, validation and final weights are bit-for-bit equal "
        "to the undisturbed run's" if result["agree"] == result["kills"] else
        f"{result['agree']} of {result['kills']} kills agree; {result['kills'] - result['agree']} do not"
    )  # fmt: skip
