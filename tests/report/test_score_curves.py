import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from tests.report.run_folder import section
from tinyllama.report.run_report import write_report

CARD = {
    "rows": [
        {
            "task": "piqa", "metric": "acc_norm", "shots": 0,
            "ours": {"mine": {"value": 0.55, "stderr": 0.035, "n": 200, "n_official": 1838}},
        }
    ],
    "checkpoints": [
        {"task": "piqa", "metric": "acc_norm", "value": 0.52, "stderr": 0.035, "tokens": 1000, "step": 1},
        {"task": "piqa", "metric": "acc_norm", "value": 0.55, "stderr": 0.035, "tokens": 100_000, "step": 2},
    ],
    "published_curve": [
        {"model": "TinyLlama 103B", "task": "piqa", "metric": "acc_norm", "tokens": 103e9, "value": 0.673},
        {"model": "TinyLlama 3T", "task": "piqa", "metric": "acc_norm", "tokens": 3e12, "value": 0.7329},
        {"model": "TinyLlama 3T", "task": "hellaswag", "metric": "acc_norm", "tokens": 3e12, "value": 0.592},
    ],
}  # fmt: skip


def run_with(folder: Path, card: object) -> Path:
    (folder / "scorecard.json").write_text(json.dumps(card))
    row = {
        "step": 1,
        "tokens": 10_000,
        "loss": 5.0,
        "tasks": {"piqa": {"acc_norm": 0.5, "acc_norm_stderr": 0.1, "n": 9}},
    }
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def test_scores_stand_beside_published_ones(tmp_path: Path):
    drawn = section(run_with(tmp_path, CARD), "standard-tasks")
    assert "0.55 ± 0.035" in drawn
    assert "200 of 1,838" in drawn
    assert drawn.count("<figure>") == 1  # hellaswag has no score of this run
    chart = drawn.split('data-chart="')[1].split('"')[0].replace("&#34;", '"')
    assert "TinyLlama" in chart
    assert "this run" in chart
    assert "Standard tasks" in write_report(tmp_path).read_text()


def test_a_damaged_card_is_no_card(tmp_path: Path):
    for card in (
        {},
        {"rows": 3, "checkpoints": [1, None], "published_curve": "x"},
        {"rows": [{"ours": {"a": {"value": "x"}}}]},
    ):
        section(run_with(tmp_path, card), "standard-tasks")
    evil = {"rows": [{"task": "<script>", "metric": "acc", "ours": {"a": {"value": 1, "n": 1, "n_official": 1}}}]}
    assert "<script>" not in section(run_with(tmp_path, evil), "standard-tasks")


def charts_of(folder: Path, card: object) -> dict[str, dict[str, list[list[Any]]]]:
    """By the chart's title, by series: [x in words, y in words] of its points."""
    page = section(run_with(folder, card), "standard-tasks")
    found = {}
    for title, data in re.findall(r'data-chart="(.*?)".*?<title.*?>(.*?)</title>', page):
        series = json.loads(unescape(title))["series"]
        found[data] = {one["name"]: [place[2:] for place in one["points"]] for one in series}
    return found


def scored(task: str, value: object, tokens: object, metric: str = "acc", **more: object) -> dict[str, object]:
    return {"task": task, "metric": metric, "value": value, "tokens": tokens} | more


def test_points_stand_by_powers_of_ten_of_their_tokens(tmp_path: Path):
    card = {
        "checkpoints": [
            scored("piqa", 0.55, 1e6, "acc_norm"),
            scored("piqa", 0.52, 1e3, "acc_norm"),
            scored("piqa", 0.45, 10_000, "acc_norm"),  # the one measured in training gives way to it
            scored("piqa", 0.1, 0, "acc_norm"),
            scored("piqa", 0.1, -5, "acc_norm"),
            scored("piqa", None, 10, "acc_norm"),
            scored("arc", 0.25, 100),
        ],
        "published_curve": [
            scored("piqa", 0.7, 1e12, "acc_norm", model="Pythia 1B"),
            scored("piqa", 0.6, 1e11, "acc_norm", model="Pythia 1B"),
            scored("piqa", 0.9, 1e12, "acc", model="Pythia 1B"),  # of another metric
            scored("arc", 0.4, 1e12, "acc_norm", model="Pythia 1B"),
            scored("piqa", 0.8, 1e9, "acc_norm", model="TinyLlama 3T"),
            scored("piqa", 0.8, None, "acc_norm", model="TinyLlama 3T"),
        ],
    }
    assert charts_of(tmp_path, card) == {
        "piqa, acc_norm": {
            "this run": [["3", "52.0%"], ["4", "45.0%"], ["6", "55.0%"]],
            "Pythia": [["11", "60.0%"], ["12", "70.0%"]],
            "TinyLlama": [["9", "80.0%"]],
        },
        "arc, acc": {"this run": [["2", "25.0%"]]},
    }


def test_tasks_measured_in_training_have_their_first_metric(tmp_path: Path):
    assert charts_of(tmp_path, {}) == {"piqa, acc_norm": {"this run": [["4", "50.0%"]]}}
    page = section(tmp_path, "standard-tasks")
    assert "in the same metric, zero-shot." in page
    assert 'viewBox="0 0 440 240"' in page
    rows = [
        {"step": 1, "tasks": {"piqa": {"acc": 0.5}}},
        {"step": 2, "tokens": 10, "tasks": {"a": {}, "b": {"acc": None}}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert section(tmp_path, "standard-tasks") == ""


def test_at_most_twelve_tasks_are_drawn(tmp_path: Path):
    many = [scored(f"t{number}", 0.5, 10) for number in range(13)]
    assert len(charts_of(tmp_path, {"checkpoints": many})) == 12


def test_the_table_of_scores(tmp_path: Path):
    def row(task: str, **cell: object) -> dict[str, object]:
        return {"task": task, "metric": "acc", "ours": {"m": {"value": 0.123456, "n": 1000, "n_official": 2000} | cell}}

    two = row("two") | {
        "ours": {"bad": {}, "m": {"value": 0.5, "n": 1, "n_official": 1}, "k": {"value": 2, "n": 3, "n_official": 3}}
    }
    card = {"rows": [row("a", value="x"), row("b", n=None), row("c", n_official=None), row("d"), two]}
    card["rows"].append(row("e", stderr=0.0123456, n=2000))
    page = section(run_with(tmp_path, card), "standard-tasks")
    found = [re.findall("<td>(.*?)</td>", part) for part in re.findall("<tr>(.*?)</tr>", page)]
    assert found[1:] == [
        ["d", "acc", "0.1235", "1,000 of 2,000"], ["two", "acc", "0.5", "1"], ["two", "acc", "2", "3"],
        ["e", "acc", "0.1235 ± 0.01235", "2,000"],
    ]  # fmt: skip
    page = section(run_with(tmp_path, {"rows": [row(f"t{number}") for number in range(81)]}), "standard-tasks")
    assert page.count("<tr><td>") == 80


def test_a_tasks_name_cannot_leave_its_place(tmp_path: Path):
    evil = "\"'><img src=x>"
    page = section(run_with(tmp_path, {"checkpoints": [scored(evil, 0.5, 10, evil)]}), "standard-tasks")
    assert "<img" not in page
    assert page.count("&#34;&#39;&gt;&lt;img src=x&gt;") >= 4
