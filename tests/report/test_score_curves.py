import json
from pathlib import Path

from tinyllama.report.run_facts import read_run
from tinyllama.report.run_report import write_report
from tinyllama.report.score_curves import score_curves

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
    drawn = score_curves(read_run(run_with(tmp_path, CARD)))
    assert "0.55 ± 0.035" in drawn
    assert "200 of 1,838" in drawn
    assert drawn.count("<figure>") == 1  # hellaswag has no score of this run
    chart = drawn.split('data-chart="')[1].split('"')[0].replace("&quot;", '"')
    assert "TinyLlama" in chart
    assert "this run" in chart
    assert "Standard tasks" in write_report(tmp_path).read_text()


def test_a_damaged_card_is_no_card(tmp_path: Path):
    for card in (
        {},
        {"rows": 3, "checkpoints": [1, None], "published_curve": "x"},
        {"rows": [{"ours": {"a": {"value": "x"}}}]},
    ):
        score_curves(read_run(run_with(tmp_path, card)))
    evil = {"rows": [{"task": "<script>", "metric": "acc", "ours": {"a": {"value": 1, "n": 1, "n_official": 1}}}]}
    assert "<script>" not in score_curves(read_run(run_with(tmp_path, evil)))
