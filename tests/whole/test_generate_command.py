"""`tinyllama generate`: one text as DESIGN has it, several together, and what a user may get wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_run
from tinyllama.__main__ import main


@pytest.fixture(scope="module")
def run_dir(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(prepared_run, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def tinyllama(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tinyllama", "generate", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture
def made(tinyllama: Any):
    def call(*words: object) -> dict[str, Any]:
        code, out, _ = tinyllama(*words, "--json")
        assert code == 0
        return json.loads(out)

    return call


def test_one_text(run_dir: Path, tinyllama: Any, made: Any):
    words = (run_dir, "--prompt", "The statement", "--max-new-tokens", 12, "--seed", 5)
    found = made(*words)
    assert found.keys() == {"text", "token_ids", "tokens_per_second", "finish_reason"}
    assert len(found["token_ids"]) == 12
    assert made(*words)["token_ids"] == found["token_ids"]
    assert tinyllama(*words)[:2] == (0, f"The statement{found['text']}\n")


def test_several_texts(run_dir: Path, tinyllama: Any, made: Any):
    words = ("--max-new-tokens", 8, "--dtype", "fp32")
    found = made(run_dir, "--prompt", "The", "--prompt", "An object", "--num-samples", 2, "--seed", 3, *words)
    assert [sequence["prompt"] for sequence in found["sequences"]] == ["The", "The", "An object", "An object"]
    assert found["tokens_per_second"] > 0
    alone = made(run_dir, "--prompt", "An object", "--seed", 5, *words)
    assert found["sequences"][2]["token_ids"] == alone["token_ids"]
    code, out, _ = tinyllama(run_dir, "--prompt", "The", "--prompt", "An object", "--seed", 3, *words)
    assert code == 0
    assert out.startswith(f"--- 1\nThe{found['sequences'][0]['text']}\n--- 2\nAn object")


def test_every_choice_reaches_the_tokens(run_dir: Path, made: Any):
    words = (run_dir, "--prompt", "The", "--max-new-tokens", 20, "--temperature", 1.5, "--top-p", 1)
    plain = made(*words)
    for option, value in (("--min-p", 0.5), ("--repetition-penalty", 50), ("--top-k", 2), ("--top-p", 0.1)):
        assert made(*words, option, value)["token_ids"] != plain["token_ids"], option
    stop = next(letter for letter in plain["text"] if letter != "\ufffd")
    stopped = made(*words, "--stop", "never there", "--stop", stop)
    assert stopped["text"] == plain["text"][: plain["text"].index(stop)]
    assert stopped["finish_reason"] == "stop"


def test_no_new_tokens_and_no_prompt_are_fine(run_dir: Path, tinyllama: Any, made: Any):
    nothing = {"text": "", "token_ids": [], "tokens_per_second": 0.0, "finish_reason": "length"}
    assert made(run_dir, "--prompt", "The", "--max-new-tokens", 0) == nothing
    assert tinyllama(run_dir, "--prompt", "The", "--max-new-tokens", 0)[:2] == (0, "The\n")
    for prompt in ((), ("--prompt", "")):
        assert len(made(run_dir, *prompt, "--max-new-tokens", 4, "--greedy")["token_ids"]) == 4


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--prompt", "\x01" * 60], "fill the model's context of 48; shorten it"),
        (["--prompt", "The", "--prompt", "\x01" * 60], "fill the model's context of 48; shorten it"),
        (["--temperature", "-1"], "temperature"),
        (["--temperature", "nan"], "temperature"),
        (["--max-new-tokens", "-1"], "max_new_tokens"),
        (["--top-p", "0"], "top_p"),
        (["--min-p", "2"], "min_p"),
        (["--top-k", "-1"], "top_k"),
        (["--repetition-penalty", "0"], "repetition_penalty"),
        (["--stop", ""], "stop"),
        (["--seed", str(2**70)], "seed"),
    ],
)
def test_bad_input_is_one_line(run_dir: Path, tinyllama: Any, words: list[str], named: str):
    code, out, err = tinyllama(run_dir, "--json", *words)
    assert (code, out) == (2, "")
    assert named in err
    assert err.count("\n") == 1
    assert err.startswith("tinyllama: ")


def test_a_folder_that_is_no_model(tmp_path: Path, tinyllama: Any):
    (tmp_path / "notes.txt").write_text("no model")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "none"):
        code, out, err = tinyllama(path, "--prompt", "The", "--json")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(path) in err
