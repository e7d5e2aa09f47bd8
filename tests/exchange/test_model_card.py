import json
from pathlib import Path

from tests.tiny_model import make_run, save_checkpoint, tiny_llama
from tinyllama.exchange.model_card import card_facts, model_card
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
        "48 tokens are the most",
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
