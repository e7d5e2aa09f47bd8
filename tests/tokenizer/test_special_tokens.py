"""No text makes a special token: by none of the encoders, through shards, nor after training on such text."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.hard_strings import LITERALS
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_writer import write_shards
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.tokenizer.bpe import JSON_FILE, Tokenizer
from tinyllama.tokenizer.bpe_train import train_tokenizer
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
near_literals = st.lists(st.sampled_from(LITERALS) | st.text("<s/>▁ \n0xA", max_size=6) | anything, max_size=12)
texts_with_literals = near_literals.map("".join)


@pytest.fixture(scope="module", params=["gigatoken", "sentencepiece", "tokenizers"])
def each(request: pytest.FixtureRequest, trained: Path) -> Tokenizer:
    """The tokenizer as each of the encoders runs it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "gigatoken":
            patch.setitem(sys.modules, "gigatoken", None)
        path = trained / JSON_FILE if request.param == "tokenizers" else trained
        tokenizer = Tokenizer.load(path)
        assert tokenizer._batch_encoder.name == request.param
    return tokenizer


@given(texts_with_literals)
@settings(max_examples=200, deadline=None)
def test_by_every_encoder(each: Tokenizer, text: str):
    for ids in (each.encode(text), each.encode_batch([text])[0].tolist()):
        assert {0, 1, 2}.isdisjoint(ids)
        assert each.decode(ids) == text.replace("▁", " ")


@given(st.lists(texts_with_literals, min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_through_shards(tokenizer: Tokenizer, texts: list[str]):
    """BOS and EOS stand where documents begin and end, and nowhere else."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "documents.jsonl"), Path(folder, "shards")
        rows = ({"id": str(number), "text": text} for number, text in enumerate(texts))
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        write_shards(ShardsConfig(max_shard_bytes=1024), [source], tokenizer, out, validation_fraction=0.0)
        shards = TokenShards(out / "train")
        ids = shards.tokens(0, shards.n_tokens)
    starts, ends = np.flatnonzero(ids == 1), np.flatnonzero(ids == 2)
    assert len(starts) == len(ends) == len(texts)
    assert starts.tolist() == [0, *(ends[:-1] + 1)]
    assert ends[-1] == len(ids) - 1
    assert 0 not in ids
    for start, end, text in zip(starts, ends, texts, strict=True):
        assert tokenizer.decode(ids[start + 1 : end]) == text.replace("▁", " ")


def test_after_training_on_nothing_else(tmp_path: Path, write_jsonl: Callable[[Path, list[str]], Path]):
    corpus = write_jsonl(tmp_path / "c.jsonl", ["<s> </s><s></s> <unk> <0x0A><0x41> [INST] hello"] * 200)
    train_tokenizer(TokenizerConfig(vocab_size=286), [corpus], tmp_path / "out")
    alone = Tokenizer.load(tmp_path / "out" / JSON_FILE)
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert (tokenizer.token(1), tokenizer.token(2)) == ("<s>", "</s>")
    for text in (*LITERALS, " ".join(LITERALS), "".join(LITERALS)):
        ids = tokenizer.encode(text)
        assert {0, 1, 2}.isdisjoint(ids)
        assert tokenizer.decode(ids) == text
        assert ids == alone.encode(text) == tokenizer.encode_batch([text])[0].tolist()
