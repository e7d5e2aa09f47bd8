"""Real text (docstrings of this machine's Python), a small tokenizer, and shards of them."""

import argparse
import inspect
import json
import logging
import statistics
import typing
from pathlib import Path

import pytest

from tinyllama.shards.shard_writer import write_shards
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.tokenizer.bpe_train import train_tokenizer
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """Documents: id, text, kind."""
    texts = {}
    for module in (argparse, inspect, json, logging, statistics, typing):
        for owner in (module, *(value for value in vars(module).values() if inspect.isclass(value))):
            for _, member in inspect.getmembers(owner):
                if (text := inspect.getdoc(member)) and len(text) > 40:
                    texts[text] = None
    assert len(texts) > 150
    kinds = ("web", "book")
    return [{"id": f"doc-{i}", "text": text, "kind": kinds[i % 2]} for i, text in enumerate(texts)]


@pytest.fixture(scope="session")
def corpus(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two JSON Lines files."""
    folder = tmp_path_factory.mktemp("corpus")
    half = len(rows) // 2
    for name, part in (("a.jsonl", rows[:half]), ("b.jsonl", rows[half:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=600), [corpus], out)
    return out


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture(scope="session")
def shards(corpus: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train/` and `validation/` in files of at most 20 kB. Read only: copy it before you damage it."""
    out = tmp_path_factory.mktemp("shards") / "shards"
    write_shards(ShardsConfig(max_shard_bytes=20_000), [corpus], tokenizer, out, validation_fraction=0.1)
    return out
