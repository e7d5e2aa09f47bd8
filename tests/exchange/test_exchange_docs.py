"""The commands of docs/exchange.md run, in order, on a tiny run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import overrides
from tests.tiny_model import make_run
from tinyllama.commands.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "exchange.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


def test_commands_run(prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make_run(prepared_run, tmp_path / "runs" / "quickstart")
    assert len(COMMANDS) == 10
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "mkdir":
            Path(words[-1]).mkdir(parents=True)
        elif words[0] == "cp":
            for file in Path().glob(words[1]):
                shutil.copy(file, words[2])
        else:
            assert words[0] == "tinyllama"
            text = None
            if "<" in words:
                words, text = words[: words.index("<")], '"Hello world"\n'
            if "pretrain" in words:
                words += overrides(train__steps=2, model__ffn_dim=48, model__tied_head=False)
            done = CliRunner().invoke(app, words[1:], input=text, catch_exceptions=False)
            assert done.exit_code == 0, command
    assert (tmp_path / "from-gguf" / "config.json").is_file()
    assert (tmp_path / "runs" / "next" / "checkpoints" / "step_00000002" / "tokenizer_config.json").is_file()
