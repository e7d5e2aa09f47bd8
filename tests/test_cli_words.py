"""What commands have in common: lines for people unless JSON is asked for, bounds of numbers, help where nothing is said."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.command_line import Call, StandIn, recorded, tinyllama
from tinyllama.commands.app import app
from tinyllama.errors import InputError, RunStoppedError

SUMMARY = {"documents": 1234}
PEOPLE = "documents: 1,234\n"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return partial(recorded, monkeypatch)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one input, and every part a stand-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").touch()
    for name in ("shards", "tokenizer"):
        (tmp_path / "r" / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def parts(stand_in: StandIn, here: Path) -> dict[str, list[Call]]:
    found = {"cli": stand_in("tinyllama.commands.app.run_phase", SUMMARY)}
    found["content"] = stand_in("tinyllama.commands.content_commands.run_phase", SUMMARY)
    for name in ("crawl", "clean", "tokenizer", "shards", "export"):
        stand_in(f"tinyllama.phases.{name}_phase")
    drilled = {"kills": 1, "agree": 1, "runs": 1, "fell_in": {}, "weights_sha256": "a", "seconds": 1}
    for target, answer in {
        "sources.crawl.dry_run": SUMMARY, "phases.run_recipe": {"crawl": SUMMARY}, "phases.pretrain": SUMMARY,
        "exchange.open_model.open_model": None, "generate.text_score.score": SUMMARY,
        "evaluation.run_evaluation.evaluate_run": SUMMARY, "harness.task_list.need_lm_eval": None,
        "harness.task_list.choose_tasks": None, "harness.scorecard.card": {}, "harness.scorecard.render": "the card",
        "harness.run_tasks.evaluate_tasks": {"tasks": {}, "averages": {}, "left_out": {}, "results": "r"},
        "train.data_read.documents_of_step": SUMMARY, "train.data_read.document_reads": {},
        "cleaning.explain.explain_document": SUMMARY, "generate.decode.generate_many": {"sequences": []},
        "drill.kill_drill.run_drill": drilled,
    }.items():  # fmt: skip
        found[target] = stand_in(f"tinyllama.{target}", answer)
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("crawl http://a/ --out out", PEOPLE),
        ("crawl http://a/ --out out --dry-run", PEOPLE),
        ("clean a.jsonl --out out", PEOPLE),
        ("tokenizer train a.jsonl --out out", PEOPLE),
        ("shards a.jsonl --tokenizer t --out out", PEOPLE),
        ("export m --out out", PEOPLE),
        ("pretrain small-120m", PEOPLE),
        ("score m --text a", PEOPLE),
        ("evaluate m", PEOPLE),
        ("explain r d", PEOPLE),
        ("explain r --step 1", PEOPLE),
        ("train-safety a.jsonl --out out", PEOPLE),
        ("run small-120m --run-dir r", "\ncrawl\n  documents: 1,234\n"),
        ("quickstart --run-dir r", "\ncrawl\n  documents: 1,234\n"),
        ("evaluate m --tasks a", "results: r\n"),
        ("drill small-120m --run-dir r", "kills: 1\n"),
    ],
)
def test_people_read_lines_unless_json_is_asked_for(parts: dict[str, list[Call]], words: str, said: str):
    done = tinyllama(*words.split())
    assert done.exception is None
    assert done.stdout.startswith(said)
    asked = tinyllama(*words.split(), "--json")
    assert asked.stdout.startswith("{")
    assert asked.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "option", "last", "beyond"),
    [
        ("crawl http://a/ --out out", "--max-pages", 0, -1),
        ("generate m", "--num-samples", 1, 0),
        ("evaluate m --tasks a", "--limit", 1, 0),
        ("evaluate m --tasks a", "--num-fewshot", 0, -1),
        ("evaluate m --tasks a", "--tokens-per-batch", 1, 0),
        ("evaluate m --tasks a", "--max-tokens", 2, 1),
        ("drill small-120m --run-dir r", "--kills", 1, 0),
    ],
)
def test_numbers_have_a_least_value(
    parts: dict[str, list[Call]], stand_in: StandIn, words: str, option: str, last: int, beyond: int
):
    stand_in("tinyllama.generate.decode.generate", {"text": ""})
    assert tinyllama(*words.split(), option, last, "--json").exit_code == 0
    refused = tinyllama(*words.split(), option, beyond, "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert option in refused.stderr


def test_without_words_there_is_help():
    for words, listed in (
        ((), ("pretrain", "tokenizer", "bench", "drill")),
        (("tokenizer",), ("train", "encode", "decode")),
    ):
        done = tinyllama(*words)
        said = done.stdout + done.stderr
        assert "Usage: " in said
        assert all(name in said for name in listed)
        assert "Missing command" not in said
    assert "Start with: tinyllama quickstart" in tinyllama("--help").stdout
    assert "completion" not in tinyllama("--help").stdout
    assert app.pretty_exceptions_enable is False  # a fault of ours keeps Python's own traceback


@pytest.mark.parametrize(
    ("error", "command"),
    [(InputError("a: missing"), "pretrain small-120m"), (RunStoppedError("stopped", 75), "pretrain small-120m --json")],
)
def test_what_goes_wrong_leaves_stdout_empty(
    parts: dict[str, list[Call]], monkeypatch: pytest.MonkeyPatch, error: Exception, command: str
):
    def stopped(*_: object) -> None:
        raise error

    raising: Callable[..., None] = stopped
    monkeypatch.setattr("tinyllama.phases.pretrain", raising)
    done = tinyllama(*command.split())
    assert (done.exception, done.stdout) == (error, "")
