"""For tests of the command line: calls a command in this process, and puts stand-ins in the place of the parts."""

import importlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tinyllama.commands.app import app

Call = tuple[tuple[Any, ...], dict[str, Any]]
StandIn = Callable[..., list[Call]]


def tinyllama(*words: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, list(map(str, words)), input=stdin)


def result(*words: object, stdin: str = "") -> Any:
    """What a command prints with `--json`: one object on one line."""
    done = tinyllama(*words, "--json", stdin=stdin)
    assert done.exception is None, done.output
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def replace(monkeypatch: pytest.MonkeyPatch, target: str, value: object) -> None:
    """Some parts have a function's name in the package, so the module is asked for by its own."""
    module, name = target.rsplit(".", 1)
    monkeypatch.setattr(importlib.import_module(module), name, value)


def recorded(monkeypatch: pytest.MonkeyPatch, target: str, answer: Any = None) -> list[Call]:
    """Put a function that only writes down its arguments in place of another, named by its dotted path."""
    calls: list[Call] = []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return answer

    replace(monkeypatch, target, called)
    return calls
