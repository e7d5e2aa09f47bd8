"""Real text of this machine's own Python: the docstrings of some modules, and a tokenizer trained on them."""

import argparse
import asyncio
import collections
import datetime
import decimal
import email.message
import inspect
import json
import logging
import statistics
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.tokenizer.bpe_train import train_tokenizer
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig

MODULES = (argparse, asyncio, collections, datetime, decimal, email.message, inspect, json, logging, statistics, typing)


def docstrings() -> list[str]:
    found = {}
    for module in MODULES:
        for owner in (module, *(value for value in vars(module).values() if inspect.isclass(value))):
            for name, member in inspect.getmembers(owner):
                text = None if name.startswith("_") else inspect.getdoc(member)
                if text and len(text) > 80:
                    found[text] = None
    return list(found)


def _write_jsonl(path: Path, texts: list[str]) -> Path:
    rows = (json.dumps({"id": f"doc-{i}", "text": text, "kind": "web"}) + "\n" for i, text in enumerate(texts))
    path.write_text("".join(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, list[str]], Path]:
    """Writes texts as documents into a file; returns its path."""
    return _write_jsonl


@pytest.fixture(scope="session")
def texts() -> list[str]:
    found = docstrings()
    assert len(found) > 300
    return found


@pytest.fixture(scope="session")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_jsonl(tmp_path_factory.mktemp("corpus") / "docs.jsonl", texts)


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tokenizer of 1,000 pieces."""
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=1000), [corpus], out)
    return out


@pytest.fixture(scope="session")
def tokenizer(trained: Path) -> Tokenizer:
    return Tokenizer.load(trained)
