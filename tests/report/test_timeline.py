import re
from pathlib import Path

import pytest

from tests.report.run_folder import chart_macro, metrics_row, section, whole, write_rows
from tests.report.test_run_report import _Page, _written
from tinyllama.report.plots import MARK_NAMES, MAX_MARKS, Chart, Mark, Series
from tinyllama.report.run_facts import read_run
from tinyllama.report.timeline import discarded_losses, marks, rows

SPIKE = {
    "time": 1_790_000_000.5, "event": "spike", "step": 25, "reason": "loss 9.000 at step 25", "answer": "going back",
    "loss": 9.0, "median": 3.0, "score": 20.0, "losses": [[s, 5.0 - s / 10] for s in range(18, 23)] + [[24, 8.5], [25, 9.0]],
}  # fmt: skip
STORY = [
    {"time": 1_789_999_000, "event": "start", "step": 0, "reason": "no checkpoint"},
    {"time": 1_789_999_100, "event": "save", "step": 20},
    {"time": 1_789_999_200, "event": "skip", "step": 21, "reason": "the gradient is not finite"},
    SPIKE,
    {
        "time": 1_790_000_001, "event": "quarantine", "step": 25, "reason": "read by steps 22 to 25", "after_step": 21,
        "windows": [4, 5, 6], "documents": [f"document-{number}" for number in range(20)],
    },
    {"time": 1_790_000_002, "event": "roll_back", "step": 20, "reason": "loss 9.000", "checkpoint": "step_00000020"},
    {"time": 1_790_000_003, "event": "stop", "step": 28, "reason": "SIGTERM", "exit_code": 143},
    {"time": 1_790_000_004, "event": "resume", "step": 28, "reason": "started again", "checkpoint": "step_00000028"},
]  # fmt: skip


def story_of(run_dir: Path) -> Path:
    whole(run_dir)
    write_rows(run_dir, "events.jsonl", STORY)
    return run_dir


def timeline_of(run_dir: Path) -> str:
    """The details element of the timeline; empty without one."""
    found = re.search("<details[^>]*><summary>Timeline.*?</details>", section(run_dir, "training"))
    return found[0] if found else ""


def test_marks_say_what_happened_and_why(tmp_path: Path):
    found = {(mark.kind, mark.x): mark.label for mark in marks(read_run(story_of(tmp_path)))}
    assert found == {
        ("save", 20.0): "checkpoint saved at step 20",
        ("skip", 21.0): "no update at step 21: the gradient is not finite",
        ("spike", 25.0): "loss spike at step 25: loss 9.000 at step 25",
        ("roll-back", 20.0): "rolled back to step 20",
        ("stop", 28.0): "stopped after step 28: SIGTERM",
        ("resume", 28.0): "resumed at step 28",
    }
    assert {mark.kind for mark in marks(read_run(tmp_path))} == set(MARK_NAMES)


def test_the_page_shows_them_and_what_was_discarded_losses(tmp_path: Path):
    page = _written(story_of(tmp_path))
    read = _Page(page)
    for words in (
        "loss spike at step 25", "discarded by a roll-back", "loss spike", "rolled back to here", "step skipped", "stopped",
        "Timeline", "2026-09-21 14:13:20", "read by steps 22 to 25; 3 windows; documents document-0, ", "and 8 more",
        "loss 9.000; step_00000020",
    ):  # fmt: skip
        assert words in read.text, words
    (series,) = discarded_losses(read_run(tmp_path))
    assert series.points[0][0] == 20
    assert series.points[-1] == (25.0, 9.0)
    assert (
        "Marks: resumed: 1; rolled back to here: 1; stopped: 1; loss spike: 1; step skipped: 1; checkpoint saved: 1."
        in page
    )


def test_a_spike_that_was_only_watched_is_no_other_branch(tmp_path: Path):
    whole(tmp_path)
    write_rows(tmp_path, "events.jsonl", [SPIKE])
    assert discarded_losses(read_run(tmp_path)) == []
    assert [row[1:3] for row in rows(read_run(tmp_path))] == [("loss spike", "25")]


def test_many_marks_of_one_kind_do_not_hide_another():
    saves = [Mark(float(step), "saved", "save") for step in range(1000)]
    chart = Chart(
        "c", "t", "", "t", "loss", [Series("s", [(0.0, 1.0), (1000.0, 2.0)])], [*saves, Mark(501.0, "spiked", "spike")]
    )
    svg = chart_macro("svg", chart)
    assert svg.count('class="mark save"') <= MAX_MARKS
    assert svg.count('class="mark spike"') == 1
    assert chart_macro("legend", chart).count("<li>") == 3


def test_lines_that_are_no_events(tmp_path: Path):
    write_rows(tmp_path, "metrics.jsonl", [metrics_row(step) for step in range(1, 5)])
    odd = {"event": "spike", "step": "x", "time": 1e30, "losses": [[1], ["a", 2], 3, [2, None]], "reason": ["no text"]}
    write_rows(tmp_path, "events.jsonl", [odd, {"event": "roll_back", "step": None, "windows": 5}, {"event": ["stop"]}])
    assert "Timeline" in _written(tmp_path)
    assert marks(read_run(tmp_path)) == []


def spike(step: float, *losses: object) -> dict:
    return {"event": "spike", "step": step, "losses": list(losses)}


def test_what_was_gone_back_from_begins_where_the_run_went_back_to(tmp_path: Path):
    whole(tmp_path)
    back = {"event": "roll_back", "step": 6}
    events = [
        {"event": "roll_back", "step": 1},  # without a spike before it
        spike(9, [5, 1.0], [6, 2.0], [7, None], [8, "x"], [7.5, 3.0, 1], 4, [9, 4.0]),
        {"event": "save", "step": 9},
        back,
        {"event": "roll_back", "step": 2},  # its spike is done with
        spike(20, [19, 8.0], [20, 9.0]),
        spike(21, [20, 8.5], [21, 9.5]),  # the later of two counts
        back | {"step": 20},
        spike(30, [3, 1.0]),
        back | {"step": 25},  # nothing of it is left
        spike(40, [40, 1.0]),
        {"event": "roll_back", "step": "x"},
        back | {"step": 3},
    ]
    write_rows(tmp_path, "events.jsonl", events)
    found = discarded_losses(read_run(tmp_path))
    assert [list(series.points) for series in found] == [[(6, 2.0), (9, 4.0)], [(20, 8.5), (21, 9.5)]]
    assert {(series.name, series.kind) for series in found} == {("discarded by a roll-back", "dashed")}


def test_a_mark_is_shown_once_a_step_with_its_last_reason(tmp_path: Path):
    whole(tmp_path)
    events = [
        {"event": "skip", "step": 1, "reason": "a"},
        {"event": "skip", "step": 1, "reason": "b" * 201},
        {"event": "resume", "step": 1, "reason": "not said"},
        {"event": "finish", "step": 1},
        {"event": "save", "step": "x"},
        {"event": "save", "step": 1234},
    ]
    write_rows(tmp_path, "events.jsonl", events)
    assert [(mark.kind, mark.x, mark.label) for mark in marks(read_run(tmp_path))] == [
        ("skip", 1, f"no update at step 1: {'b' * 200}"),
        ("resume", 1, "resumed at step 1"),
        ("save", 1234, "checkpoint saved at step 1,234"),
    ]


def test_rows_say_when_what_where_and_why(tmp_path: Path):
    whole(tmp_path)
    twelve = [f"d{number}" for number in range(12)]
    events = [
        {"event": "start", "step": 0, "time": 0},
        {"event": "save", "step": 1},
        {"event": "set_aside", "step": 1234, "reason": "r", "answer": "a", "checkpoint": "not said"},
        {"event": "full_disk", "time": 1e30, "answer": 5, "reason": "only"},
        {"event": "allow_change", "windows": [], "documents": twelve},
        {"event": "quarantine", "windows": [1, 2], "documents": [*twelve, "x" * 41, "y"]},
        {"event": "resume", "checkpoint": "step_1", "time": "x"},
        {"event": "finish", "documents": ["z" * 41]},
    ]
    write_rows(tmp_path, "events.jsonl", events)
    listed = ", ".join(twelve)
    assert rows(read_run(tmp_path)) == [
        ("1970-01-01 00:00:00", "started", "0", ""),
        ("", "damaged checkpoint", "1,234", "r; a"),
        ("", "full disk", "", "only"),
        ("", "recipe changed", "", f"0 windows; documents {listed}"),
        ("", "data quarantined", "", f"2 windows; documents {listed} and 2 more"),
        ("", "resumed", "", "step_1"),
        ("", "finished", "", f"documents {'z' * 40}"),
    ]


@pytest.mark.parametrize(("count", "is_open"), [(2, False), (3, True), (30, True), (31, False)])
def test_a_short_story_is_open(tmp_path: Path, count: int, is_open: bool):
    whole(tmp_path)
    write_rows(tmp_path, "events.jsonl", [{"event": "skip", "step": step} for step in range(count)])
    page = timeline_of(tmp_path)
    assert page.startswith("<details open>" if is_open else "<details>")
    assert page.count("<tr><td>") == count


def test_of_many_events_the_last_two_hundred_are_listed(tmp_path: Path):
    whole(tmp_path)
    write_rows(tmp_path, "events.jsonl", [{"event": "skip", "step": step} for step in range(201)])
    found = rows(read_run(tmp_path))
    assert [found[0][2], found[-1][2], len(found)] == ["1", "200", 200]
    write_rows(tmp_path, "events.jsonl", [{"event": "save", "step": 1}])
    assert timeline_of(tmp_path) == ""


def test_the_table_of_events_has_each_in_its_column(tmp_path: Path):
    whole(tmp_path)
    write_rows(tmp_path, "events.jsonl", [{"event": "stop", "step": 5, "time": 86400, "reason": "<" + "y" * 600}])
    page = timeline_of(tmp_path)
    assert f"<tr><td>1970-01-02 00:00:00</td><td>stopped</td><td>5</td><td>&lt;{'y' * 599} …</td></tr>" in page
