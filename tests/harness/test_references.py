"""Published scores: tokens, shots and numbers beside what the models' names and the sources say."""

import re
import tomllib
from pathlib import Path

import pytest

from tinyllama.harness.references import LEADERBOARD, LM_EVAL, REFERENCES, SEVEN_METRICS, Reference, read_references
from tinyllama.harness.task_list import all_tasks

OWN_HARNESS, FINE_TUNED = "its own harness, zero-shot", "fine-tuned, GLUE test set"
BILLION = 1e9
TOKENS = {"Pythia": 300, "LLaMA": 1000, "Llama 2": 2000, "GPT-3": 300, "SmolLM2": 2000}  # of others than TinyLlama


def test_tokens_that_a_model_was_trained_on():
    for reference in REFERENCES:
        named = re.match(r"TinyLlama ([\d.]+)([BT])", reference.model)
        if named:
            wanted = float(named[1]) * {"B": BILLION, "T": 1000 * BILLION}[named[2]]
        else:
            found = [tokens for name, tokens in TOKENS.items() if reference.model.startswith(name)]
            wanted = found[0] * BILLION if found else None
        assert reference.tokens == wanted, reference.model


def test_shots_and_settings():
    shots = {(r.model, r.setting, next(iter(r.scores))[0]): r.shots for r in REFERENCES if r.shots}
    leaderboard = {"arc_challenge": 25, "hellaswag": 10, "winogrande": 5}
    assert shots == {
        **{(model, LEADERBOARD, task): n for model in ("OPT-1.3B", "TinyLlama 3T") for task, n in leaderboard.items()},
        ("Pythia-1B-deduped", LM_EVAL, "lambada"): 5,
        ("GPT-3 175B", "its own harness, SuperGLUE test set", "boolq"): 32,
    }
    assert {r.setting for r in REFERENCES if r.is_like_ours} == {LM_EVAL, LEADERBOARD}
    assert {r.model for r in REFERENCES if r.setting == FINE_TUNED} == {"BERT-Tiny", "BERT-Small", "BERT-Medium"}
    assert len([r for r in REFERENCES if r.setting == OWN_HARNESS]) == 7
    pythia = next(r for r in REFERENCES if r.model == "Pythia-1B-deduped")
    assert (pythia.title, REFERENCES[0].title) == ("Pythia-1B-deduped, 5 shots", "TinyLlama 103B")
    assert Reference("x", "s", 1, "", {}).title == "x, 1 shots"


@pytest.mark.parametrize(
    ("model", "setting", "task", "metric", "value"),
    [
        ("OPT-1.3B", LEADERBOARD, "arc_challenge", "acc_norm", 0.2952),
        ("OPT-1.3B", LEADERBOARD, "hellaswag", "acc_norm", 0.5453),
        ("OPT-1.3B", LEADERBOARD, "winogrande", "acc", 0.5975),
        ("TinyLlama 3T", LEADERBOARD, "arc_challenge", "acc_norm", 0.3387),
        ("TinyLlama 3T", LEADERBOARD, "hellaswag", "acc_norm", 0.6031),
        ("TinyLlama 3T", LEADERBOARD, "winogrande", "acc", 0.5951),
        ("TinyLlama 3T", LM_EVAL, "hellaswag", "acc_norm", 0.592),
        ("TinyLlama 3T", LM_EVAL, "boolq", "acc", 0.5783),
        ("TinyLlama 3T", LM_EVAL, "piqa", "acc_norm", 0.7329),
        ("Pythia-410M-deduped", LM_EVAL, "lambada", "perplexity", 10.574),
        ("Pythia-1.4B-deduped", LM_EVAL, "arc_easy", "acc_norm", 0.5682),
        ("OPT-1.3B", LM_EVAL, "lambada", "perplexity", 6.64),
        ("LLaMA 7B", LM_EVAL, "copa", "acc", 0.84),
        ("SmolLM2-135M", "lighteval, zero-shot", "hellaswag", "acc_norm", 0.421),
        ("SmolLM2-135M", "lighteval, zero-shot", "piqa", "acc_norm", 0.684),
        ("SmolLM2-135M", "lighteval, zero-shot", "winogrande", "acc", 0.513),
        ("SmolLM2-135M", "lighteval, zero-shot", "openbookqa", "acc_norm", 0.346),
        ("GPT-3 175B", OWN_HARNESS, "squad_v2", "f1", 0.595),
        ("GPT-3 175B", OWN_HARNESS, "lambada", "perplexity", 3.0),
        ("GPT-3 6.7B", OWN_HARNESS, "piqa", "acc_norm", 0.78),
        ("Llama 2 7B", OWN_HARNESS, "boolq", "acc", 0.774),
        ("BERT-Large", "fine-tuned, SuperGLUE test set", "record", "f1", 0.72),
        ("BERT-Medium", FINE_TUNED, "wnli", "acc", 0.623),
        ("BERT-Tiny", FINE_TUNED, "cola", "mcc", 0.0),
    ],
)
def test_scores_as_they_were_published(model: str, setting: str, task: str, metric: str, value: float):
    found = [
        r.scores[task, metric]
        for r in REFERENCES
        if (r.model, r.setting) == (model, setting) and (task, metric) in r.scores
    ]
    assert found == [value]


def test_gpt_3s_four_tasks_that_are_divided_by_the_probability_without_context():
    [reference] = [r for r in REFERENCES if "divided by" in r.setting]
    assert reference.scores == {
        ("openbookqa", "acc_norm"): 0.576,
        ("arc_challenge", "acc_norm"): 0.514,
        ("arc_easy", "acc_norm"): 0.688,
        ("boolq", "acc"): 0.605,
    }


def table(columns: str, scores: str) -> str:
    row = f'{{ model = "m", scores = [{scores}] }}'
    return f'[[table]]\nsetting = "s"\nsource = "x"\ncolumns = [{columns}]\nrows = [{row}]\n'


def test_percentages_are_shares_and_perplexities_are_not():
    [found] = read_references(table('"a acc", "b perplexity", "c acc"', "12.345, 12.345, 33.333333"))
    assert found == Reference(
        "m", "s", 0, "x", {("a", "acc"): 0.12345, ("b", "perplexity"): 12.345, ("c", "acc"): 0.333333}
    )
    with pytest.raises(ValueError, match="shorter"):
        read_references(table('"a acc", "b acc"', "1"))
    assert dict(SEVEN_METRICS)["winogrande"] == dict(SEVEN_METRICS)["boolq"] == "acc"
    assert [metric for _, metric in SEVEN_METRICS].count("acc_norm") == 5


def test_each_score_is_of_a_task_and_metric_that_are_measured_here():
    pytest.importorskip("lm_eval")
    tasks = all_tasks()
    metrics = {(name, metric) for name, task in tasks.items() for metric in task.metrics}
    known = {key for r in REFERENCES for key in r.scores}
    assert known <= metrics
    assert all(r.model and r.source and r.setting for r in REFERENCES)
    assert len({(r.title, r.setting, *r.scores) for r in REFERENCES}) == len(REFERENCES)


def test_the_file_is_packaged():
    patterns = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "harness/references.toml" in patterns["tool"]["setuptools"]["package-data"]["tinyllama"]
