"""The card of scores made by hand: which results stand in it, beside what, and how they are shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.result_folders import write_scores
from tinyllama.harness.scorecard import (
    RUN_CARD,
    _cell,
    _number,
    _shortened,
    card,
    render,
    write_run_card,
)
from tinyllama.harness.task_list import SEVEN, averages

ACC = {"acc": "mean"}
BOTH = {"acc_norm": "mean", "acc": "mean"}


def both(value: float) -> dict[str, float | None]:
    return {"acc_norm": value, "acc_norm_stderr": 0.011, "acc": value / 2, "acc_stderr": None}


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    mine, other = tmp_path / "mine", tmp_path / "other"
    write_scores(mine, "piqa", BOTH, both(0.7), n=1838, n_official=1838)
    write_scores(mine, "piqa-limit100", BOTH, both(0.9), n=100, n_official=1838)
    write_scores(
        mine, "hellaswag-10shot", {"acc_norm": "mean"}, {"acc_norm": 0.5, "acc_norm_stderr": 0.02}, num_fewshot=10
    )
    perplexity = {"perplexity": "perplexity"}
    write_scores(other, "lambada", perplexity, {"perplexity": 12.3456, "perplexity_stderr": 0.5}, note="cut")
    write_scores(other, "piqa", BOTH, both(0.6), n=50, n_official=1838)
    return card({"mine": mine, "other": other})


def test_rows_are_by_task_metric_and_shots(found: dict[str, Any]):
    rows = {(row["task"], row["metric"], row["shots"]): row for row in found["rows"]}
    assert set(rows) == {
        ("piqa", "acc_norm", 0), ("piqa", "acc", 0), ("hellaswag", "acc_norm", 10), ("lambada", "perplexity", 0),
    }  # fmt: skip
    assert found["models"] == ["mine", "other"]
    piqa = rows["piqa", "acc_norm", 0]
    assert piqa["ours"] == {  # of two results of a task the one on more examples
        "mine": {"value": 0.7, "stderr": 0.011, "n": 1838, "n_official": 1838, "note": None},
        "other": {"value": 0.6, "stderr": 0.011, "n": 50, "n_official": 1838, "note": None},
    }
    assert rows["piqa", "acc", 0]["ours"]["mine"]["value"] == 0.35
    assert rows["lambada", "perplexity", 0]["ours"]["other"]["note"] == "cut"


def test_beside_ours_stand_scores_of_the_same_metric_and_shots_alone(found: dict[str, Any]):
    rows = {(row["task"], row["metric"], row["shots"]): row for row in found["rows"]}
    piqa, hellaswag = rows["piqa", "acc_norm", 0], rows["hellaswag", "acc_norm", 10]
    assert piqa["published"]["TinyLlama 3T"] == 0.7329
    assert piqa["published"]["OPT-1.3B"] == 0.7247
    assert "Pythia-1B-deduped" not in piqa["published"]  # five shots
    assert piqa["other_settings"]["Pythia-1B-deduped, 5 shots"] == {"value": 0.7078, "setting": "lm-eval", "shots": 5}
    assert piqa["other_settings"]["GPT-3 175B"]["value"] == 0.81
    assert hellaswag["published"] == {"OPT-1.3B": 0.5453, "TinyLlama 3T": 0.6031}
    assert hellaswag["other_settings"]["TinyLlama 3T"] == {"value": 0.592, "setting": "lm-eval", "shots": 0}
    sources = {source["model"] for source in found["sources"]}
    assert {"TinyLlama 3T", "GPT-3 175B", "OPT-1.3B"} <= sources
    assert "BERT-Tiny" not in sources
    assert all(set(source) == {"model", "setting", "shots", "source", "tokens"} for source in found["sources"])


def seven(folder: Path, first: float, **about: Any) -> None:
    for n, task in enumerate(SEVEN):
        metrics: dict[str, float | None] = {"acc": first + 0.01 * n, "acc_stderr": None if n == 3 else 0.02}
        write_scores(folder, task, ACC, metrics, **about)


def test_averages_stand_beside_the_tokens_trained_on(tmp_path: Path):
    seven(tmp_path / "mine", 0.4, model={"tokens": 5e9, "step": 3})
    write_scores(tmp_path / "part", "piqa", ACC, {"acc": 0.9, "acc_stderr": 0.1})
    seven(tmp_path / "shots", 0.4, num_fewshot=5)
    found = card({name: tmp_path / name for name in ("mine", "part", "shots")})["averages"]
    assert found["mine"] == {
        "zero_shot": {"value": pytest.approx(0.43), "stderr": pytest.approx(0.02 * 6**0.5 / 7)},
        "zero_shot_without_boolq": {
            "value": pytest.approx((3.01 - 0.45) / 6),
            "stderr": pytest.approx(0.02 * 5**0.5 / 6),
        },
        "tokens": 5e9,
        "is_ours": True,
    }
    assert "part" not in found
    assert "shots" not in found
    assert found["TinyLlama 103B"] == {
        "zero_shot": {"value": pytest.approx(0.461100, abs=1e-6), "stderr": None},
        "zero_shot_without_boolq": {"value": pytest.approx(0.438517, abs=1e-6), "stderr": None},
        "tokens": 103e9,
        "is_ours": False,
    }
    assert not any(name.startswith(("Llama 2", "GPT-3")) for name in found)


def test_the_first_metric_is_the_main_one():
    scores = {name: {"kinds": BOTH, "metrics": both(0.4)} for name in SEVEN}
    assert averages(scores)["zero_shot"] == {"value": pytest.approx(0.4), "stderr": pytest.approx(0.011 / 7**0.5)}


def test_a_run_keeps_its_card_and_how_its_checkpoints_did(tmp_path: Path):
    run = tmp_path / "run"
    for step in (2, 10):
        folder, about = run / "evaluation" / f"step_{step:08d}", {"tokens": step * 100, "step": step}
        write_scores(folder, "piqa", BOTH, both(0.5 + step / 100), model=about, n=40 + step)
        write_scores(folder, "piqa-limit9", BOTH, both(0.1), model=about, n=9)
        write_scores(folder, "boolq-5shot", ACC, {"acc": 0.5, "acc_stderr": 0.1}, num_fewshot=5)
    (run / "evaluation" / "notes.txt").write_text("x")
    write_run_card(run, folder)
    found = json.loads((run / RUN_CARD).read_text())
    assert found["models"] == ["run"]
    assert found["checkpoints"] == [
        {"task": "piqa", "metric": "acc_norm", "value": 0.52, "stderr": 0.011, "tokens": 200, "step": 2, "n": 42},
        {"task": "piqa", "metric": "acc_norm", "value": 0.6, "stderr": 0.011, "tokens": 1000, "step": 10, "n": 50},
    ]
    curve = {(row["model"], row["task"], row["metric"]): row for row in found["published_curve"]}
    assert curve["TinyLlama 2T", "boolq", "acc"] == {
        "model": "TinyLlama 2T", "tokens": 2e12, "task": "boolq", "metric": "acc", "value": 0.6321,
    }  # fmt: skip
    models = {model for model, _, _ in curve}
    assert {"Pythia-1.0B", "LLaMA 7B"} <= models
    assert not models & {"OPT-1.3B", "Pythia-1B-deduped", "GPT-3 175B", "Llama 2 7B"}  # tokens unknown, shots, others'


def test_what_people_read(found: dict[str, Any]):
    lines = render(found).splitlines()
    head, piqa = lines[0].split(), next(line for line in lines if line.startswith("piqa           acc_norm"))
    assert head[:5] == ["task", "metric", "shots", "mine", "other"]
    assert piqa.split()[:9] == ["piqa", "acc_norm", "0", "70.00", "±", "1.1", "60.00", "±", "1.1"]
    assert lines[0].index("other") + len("other") == piqa.index("60.00 ± 1.1") + len("60.00 ± 1.1")
    end = lines[0].index("TL 3T") + len("TL 3T")
    assert piqa[end - 5 : end] == "73.29"
    acc = next(line for line in lines if line.startswith("piqa           acc "))
    assert acc.split()[:5] == ["piqa", "acc", "0", "35.00", "30.00"]
    lambada = next(line for line in lines if line.startswith("lambada"))
    assert lambada.split()[:6] == ["lambada", "perplexity", "0", "12.35", "±", "0.5"]
    assert "lambada: 100 of 100 examples, cut" in lines
    assert "piqa: 50 of 1,838 examples" in lines
    assert sum(line.startswith("piqa: ") for line in lines) == 1
    assert "Published in other settings, not comparable with the table:" in lines
    assert any(line.startswith("piqa acc_norm: GPT-3 175B 81.00 (its own harness, zero-shot)") for line in lines)
    assert any(
        line.startswith("TinyLlama 103B          average of the seven 46.11%, without BoolQ 43.85%") for line in lines
    )
    mine = {"zero_shot": {"value": 0.5, "stderr": 0.012345}, "zero_shot_without_boolq": {"value": 0.25, "stderr": None}}
    assert "mine                    average of the seven 50.00% ± 1.23, without BoolQ 25.00%" in render(
        found | {"averages": {"mine": mine}}
    )
    sources = lines[lines.index("Sources:") + 1 :]
    assert len(sources) == len({source["source"] for source in found["sources"]})
    assert "other settings" not in render({**found, "rows": []})


def test_numbers_and_names_as_they_stand():
    assert [_number(value, "acc") for value in (None, 0.0, 0.12345, 1.0)] == ["", "0.00", "12.35", "100.00"]
    for metric in ("perplexity", "word_perplexity", "bits_per_byte"):
        assert _number(12.34567, metric) == "12.35"
    assert _cell(None, "acc") == ""
    assert _cell({"value": 0.5, "stderr": None}, "acc") == "50.00"
    assert _cell({"value": 0.5, "stderr": 0.0123}, "acc") == "50.00 ± 1.2"
    assert _cell({"value": 0.5, "stderr": 0.0123}, "bits_per_byte") == "0.5 ± 0.012"
    assert _shortened("x" * 24) == "x" * 24
    assert _shortened("a" + "x" * 24) == "…" + "x" * 23
