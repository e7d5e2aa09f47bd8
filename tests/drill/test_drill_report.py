"""The drill's report by hand: of one kill, of all, in a terminal and on a page."""

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from tinyllama.drill.drill_report import Kill, fallen, headline, markdown, ranks_in_words, table
from tinyllama.parallel.rank_progress import Activity, ActivityAt

KILL = Kill(
    run=2, ranks=3, victims=[1], aim=Activity.REDUCTION,
    loop=ActivityAt(7, Activity.BACKWARD), saver=ActivityAt(6, Activity.WRITE),
    back_to_step=3, seconds_to_end=1.23456,
)  # fmt: skip
RESULT: dict[str, Any] = {
    "is_whole": True, "kills": 2, "agree": 2, "runs": 1, "fell_in": {"write": 1, "forward": 1}, "steps": 12,
    "undisturbed_ranks": 1, "weights_sha256": "ab", "seconds": 1234.5, "command": "tinyllama drill r.toml",
}  # fmt: skip


def test_a_kill_as_json():
    assert KILL.to_dict() == {
        "run": 2, "ranks": 3, "killed_ranks": [1], "aimed_at": "reduction", "fell_in": "backward", "step": 7,
        "saver": "write", "back_to_step": 3, "seconds_to_end": 1.235, "agrees": True, "fault": "",
    }  # fmt: skip
    found = replace(KILL, fault="rank 0 hung").to_dict()
    assert (found["agrees"], found["fault"]) == (False, "rank 0 hung")


@pytest.mark.parametrize(
    ("place", "saver", "fell_in"),
    [
        (Activity.START, None, "backward"), (Activity.END, None, "backward"),
        (Activity.WRITE, "write", "write"), (Activity.COMMIT, "commit", "commit"),
    ],
)  # fmt: skip
def test_a_saving_thread_at_work_counts_before_the_loop(place: Activity, saver: str | None, fell_in: str):
    kill = replace(KILL, saver=ActivityAt(6, place))
    assert kill.to_dict()["saver"] == saver
    assert fallen([kill]) == {fell_in: 1}


def test_places_are_counted_the_most_frequent_first():
    at_forward = replace(KILL, loop=ActivityAt(7, Activity.FORWARD), saver=ActivityAt(0, Activity.START))
    assert list(fallen([KILL, at_forward, at_forward]).items()) == [("forward", 2), ("write", 1)]


def rows_of(page: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]


def test_the_page_has_a_row_of_every_kill_from_number_1_on():
    idle = ActivityAt(0, Activity.END)
    kills = [KILL, replace(KILL, victims=[0, 1, 2], saver=idle), replace(KILL, victims=[0, 2], fault="rank 1 hung")]
    page = markdown(RESULT, kills)
    assert rows_of(page) == [
        ["kill", "run", "ranks", "killed", "aimed at", "fell in", "saver", "step", "back to", "agrees"],
        ["1", "2", "3", "1", "reduction", "backward", "write", "7", "3", "yes"],
        ["2", "2", "3", "all", "reduction", "backward", "-", "7", "3", "yes"],
        ["3", "2", "3", "0, 2", "reduction", "backward", "write", "7", "3", "rank 1 hung"],
    ]
    assert "|---|---|---|---|---|---|---|---|---|---|\n" in page
    for words in ("Undisturbed: 12 steps on 1 rank, weights_sha256 `ab`. Killed runs: 1. 1,234 seconds.",
                  "Fell in: write 1, forward 1.", "```sh\ntinyllama drill r.toml\n```"):  # fmt: skip
        assert words in page
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(kills, "All"))
    lines = console.export_text().splitlines()
    assert lines[0].strip() == "All"
    assert [line.split()[:4] for line in lines if line.strip()[:1].isdigit()] == [
        ["1", "2", "3", "1"], ["2", "2", "3", "all"], ["3", "2", "3", "0,"],
    ]  # fmt: skip


def test_the_headline_says_how_many_agree():
    assert headline(RESULT).startswith("2 of 2 kills agree: losses, validation and final weights are bit-for-bit equal")
    assert headline(RESULT | {"agree": 0}) == "0 of 2 kills agree; 2 do not"
    stopped = headline(RESULT | {"is_whole": False, "agree": 1})
    assert stopped == "Stopped early: 1 of 2 kills agree up to the stop"
    assert [ranks_in_words(count) for count in (1, 2)] == ["1 rank", "2 ranks"]
