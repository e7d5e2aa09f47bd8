import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_run, save_checkpoint, tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.model_card import _evaluation, _numbers, _plain, card_facts, model_card
from tinyllama.exchange.open_model import open_model


def test_card_says_what_the_run_recorded(prepared_run: Path, tmp_path: Path):
    run = make_run(prepared_run, tmp_path / "my-run")
    (run / "recipe.toml").write_text('[sources]\nseeds = ["https://example.org/a_b"]\npaths = ["books.jsonl"]\n')
    evaluation = {
        "step": 3,
        "validation": {"loss": 2.5, "perplexity": 12.182494},
        "unigram_perplexity": 310.25,
        "tasks": {"last_word": {"accuracy": 0.25, "accuracy_stderr": 0.05, "n": 75, "examples": [{"answer": "x"}]}},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    card = model_card(card_facts(open_model(run, "cpu")))
    for line in (
        "# my-run",
        "- https://example.org/a\\_b",
        "- books.jsonl",
        "| validation perplexity | 12.1825 |",
        "| unigram model's perplexity | 310.25 |",
        "| last word accuracy | 0.25 |",
        "| last word n | 75 |",
        "| step | 3 |",
        "| shards documents | ",
        "Its context is 48 tokens",
        "## Licence",
    ):
        assert line in card, line


def test_scores_of_another_step_are_not_its_own(prepared_run: Path, tmp_path: Path):
    run = make_run(prepared_run, tmp_path / "run")
    (run / "evaluation.json").write_text(json.dumps({"step": 2, "validation": {"loss": 1.0}}))
    assert "## Scores" not in model_card(card_facts(open_model(run, "cpu")))


def test_a_lone_checkpoint_says_nothing_of_the_folder_around_it(prepared_run: Path, tmp_path: Path):
    (tmp_path / "recipe.toml").write_text('[sources]\nseeds = ["https://not.its.own"]\n')
    checkpoint = save_checkpoint(tmp_path / "elsewhere", prepared_run / "tokenizer", tiny_llama())
    assert "not.its.own" not in model_card(card_facts(open_model(checkpoint, "cpu")))


def test_text_from_outside_cannot_write_markup():
    card = model_card(
        {"name": "<script>\n# x", "parameters": 1, "model": {"seq_len": 8}, "sources": ["a](http://b) | `c`\n\n# d"]}
    )
    assert "<script>" not in card
    assert "\n# x" not in card
    assert "\n# d" not in card
    assert "a\\](http://b) \\| \\`c\\`" in card


def facts(**parts: Any) -> dict[str, Any]:
    return {"name": "x", "parameters": 1_234_567, "model": {"dim": 32, "seq_len": 48}, **parts}


def test_figures_are_shown_as_people_read_them():
    scores = {"a": 12.3456789, "b": 1_000_000, "c": True, "d": "two | words", "e": 1e-12, "f": 0.5}
    card = model_card(facts(recipe=scores, data={"clean documents out": 4}, sources=["one", "two"]))
    for line in (
        "## Network\n\n| | |\n|---|---|\n| parameters | 1,234,567 |\n| dim | 32 |\n| seq\\_len | 48 |\n",
        "## Recipe\n\n| | |\n|---|---|\n| a | 12.3457 |\n| b | 1,000,000 |\n| c | True |\n| d | two \\| words |\n",
        "| e | 1e-12 |\n| f | 0.5 |\n",
        "## Data: sources\n\n- one\n- two\n",
        "## Data: processing\n\n| | |\n|---|---|\n| clean documents out | 4 |\n",
        "- Its context is 48 tokens",
    ):
        assert line in card, line
    assert "Scores" not in card
    assert "## Scores on held-out text\n\n| | |\n|---|---|\n| loss | 1.5 |\n" in model_card(facts(scores={"loss": 1.5}))
    assert "## Data" not in model_card(facts())
    assert "context is ? tokens" in model_card({"name": "x", "parameters": 1, "model": {}})


def test_numbers_alone_are_figures_one_table_deep():
    values = {
        "n_out": 3,
        "ok": True,
        "text": "x",
        "dropped": {"too_short": 2, "why": "x", "is": False, "deep": {"a": 1}},
    }
    assert _numbers(values, "clean") == {"clean n out": 3, "clean dropped too short": 2}
    assert _numbers(None, "clean") == {}
    assert _numbers([1], "clean") == {}


def test_scores_are_those_of_the_step():
    values = {"step": 3, "validation": {"loss": 2.0}, "unigram_perplexity": 9.0, "tasks": {"a": {"acc": 0.5}, "b": 1}}
    wanted = {"validation loss": 2.0, "unigram model's perplexity": 9.0, "a acc": 0.5}
    assert _evaluation(values, 3) == wanted
    assert _evaluation(values, 4) == {}
    assert _evaluation(values | {"tasks": None}, 3) == {k: v for k, v in wanted.items() if k != "a acc"}


def test_facts_are_of_the_run_that_holds_the_checkpoint(prepared_run: Path, tmp_path: Path):
    run = make_run(prepared_run, tmp_path / "mine")
    for phase, summary in (("crawl", {"pages_stored": 7}), ("clean", {"documents_out": 5}), ("shards", {"tokens": 9})):
        (run / phase).mkdir(exist_ok=True)
        (run / phase / "manifest.json").write_text(json.dumps({"summary": summary}))
    (run / "recipe.toml").write_text('[sources]\ndocumentation_site = true\nseeds = ["s"]\npaths = ["p"]\n')
    found = card_facts(open_model(run, "cpu"))
    assert found["name"] == "mine"
    assert found["data"] == {"crawl pages stored": 7, "clean documents out": 5, "shards tokens": 9}
    assert found["sources"][0].startswith("the documentation of the Python packages")
    assert found["sources"][1:] == ["s", "p"]
    assert found["parameters"] == tiny_llama().config.n_parameters
    assert found["model"] == tiny_llama().config.to_dict()
    assert found["recipe"] == {"step": 3, "tokens": 300, "seed": 1}
    assert found["scores"] == {}
    (run / "evaluation.json").write_text(json.dumps({"step": 3, "validation": {"loss": 2.5}}))
    assert card_facts(open_model(run, "cpu"))["scores"] == {"validation loss": 2.5}
    (run / "evaluation.json").write_text(json.dumps([3]))
    (run / "recipe.toml").write_text("[sources\n")
    with pytest.raises(InputError, match=r"recipe\.toml: not valid TOML"):
        card_facts(open_model(run, "cpu"))
    (run / "recipe.toml").unlink()
    checkpoint = open_model(run, "cpu")
    state: Any = replace(checkpoint.state, validation={"loss": 4.5, "by_kind": {"web": 1}})  # pyright: ignore[reportArgumentType, reportCallIssue]
    measured = card_facts(replace(checkpoint, state=state))
    assert measured["sources"] == []
    assert measured["scores"] == {"validation loss": 4.5, "validation by kind web": 1}  # as training measured it
    alone = card_facts(replace(checkpoint, state=None))
    assert alone.keys() == {"name", "parameters", "model"}
    assert alone["name"] == "step_00000003"


def test_text_is_one_line_without_markup():
    assert _plain(" a\n b\t*c*_[d](e)<f>&#|\\` ") == "a b \\*c\\*\\_\\[d\\](e)\\<f\\>\\&\\#\\|\\\\\\`"
