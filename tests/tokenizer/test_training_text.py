"""What the trainer is given: which documents, cut where, with which settings."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinyllama.errors import InputError, RecipeError
from tinyllama.tokenizer import bpe_train
from tinyllama.tokenizer.bpe_train import TrainingText, split_line, train_tokenizer
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig

WriteJsonl = Callable[[Path, list[str]], Path]
SHARES = {"quarter": 0.25, "half": 0.5, "most": 0.75}  # 7 + 4 + 4 bytes


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_train, "hash_share", SHARES.__getitem__)


@pytest.mark.parametrize(
    ("max_bytes", "kept", "share", "note"),
    [
        (16, ["quarter", "half", "most"], 1.0, "0.0 MB"),
        (15, ["quarter", "half", "most"], 1.0, "0.0 MB"),
        (14, ["quarter", "half", "most"], 14 / 15, "0.0 MB, a sample of 93.3%"),
        (9, ["quarter", "half"], 0.6, "0.0 MB, a sample of 60.0%"),
        (5, ["quarter"], 1 / 3, "0.0 MB, a sample of 33.3%"),
        (1, [], 1 / 15, "0.0 MB, a sample of 6.7%"),
    ],
)
@pytest.mark.usefixtures("shares")
def test_documents_of_the_smallest_hashes_are_kept(
    tmp_path: Path, write_jsonl: WriteJsonl, max_bytes: int, kept: list[str], share: float, note: str
):
    text = TrainingText([write_jsonl(tmp_path / "c.jsonl", list(SHARES))], max_bytes)
    assert (list(text.texts()), text.kept_share, text.note) == (kept, share, note)
    assert (text.documents, text.bytes) == (3, 15)
    assert text.sample.kinds["web"].texts() == ["quarter", "half", "most"]


@pytest.mark.usefixtures("shares")
def test_a_hash_at_the_share_is_out(tmp_path: Path, write_jsonl: WriteJsonl, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SHARES, "half", 0.6)
    assert list(TrainingText([write_jsonl(tmp_path / "c.jsonl", list(SHARES))], 9).texts()) == ["quarter"]


def test_bytes_are_counted_not_characters_over_all_files(tmp_path: Path, write_jsonl: WriteJsonl):
    paths = [
        write_jsonl(tmp_path / "a.jsonl", ["é" * 500_000, "x"]),
        write_jsonl(tmp_path / "b.jsonl", ["y" * 499_999]),
    ]
    text = TrainingText(paths, 10**9)
    assert (text.documents, text.bytes, text.note) == (3, 1_500_000, "1.5 MB")
    assert text.sample.kinds["web"].text_bytes == 1_500_000
    assert [len(one) for one in text.texts()] == [500_000, 1, 499_999]


def test_empty_documents_are_documents(tmp_path: Path, write_jsonl: WriteJsonl):
    corpus = write_jsonl(tmp_path / "c.jsonl", ["", ""])
    text = TrainingText([corpus], 5)
    assert (text.documents, text.bytes, text.kept_share) == (2, 0, 1.0)
    with pytest.raises(InputError, match=r"c\.jsonl: no text to train a tokenizer on \(2 documents\)"):
        train_tokenizer(TokenizerConfig(), [corpus], tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("", []),
        ("abcde", ["abcde"]),
        ("abcdef", ["abcde", "f"]),
        ("abcdefghij", ["abcde", "fghij"]),
        ("ab cdefg", ["ab", "cdefg"]),
        ("a b cdef", ["a b", "cdef"]),  # at the last blank
        (" abcdef", [" abcd", "ef"]),  # a blank at the start cuts nothing
        ("abcd efg", ["abcd", "efg"]),
        ("abcde fghij", ["abcde", " fghi", "j"]),  # one beyond the limit is not seen
        ("ab cd ef gh", ["ab", "cd", "ef gh"]),
        ("abcde ", ["abcde", " "]),
    ],
)
def test_lines_are_cut_at_the_last_blank_that_fits(line: str, parts: list[str]):
    assert list(split_line(line, 5)) == parts


def test_sentences_are_the_lines_of_the_kept_documents(tmp_path: Path, write_jsonl: WriteJsonl):
    text = TrainingText([write_jsonl(tmp_path / "c.jsonl", ["one\n\ntwo\r\n", "x" * 1025])], 10**9)
    assert list(text.sentences()) == ["one", "two\r", "x" * 1024, "x"]


def trained_with(config: TokenizerConfig, tmp_path: Path, write_jsonl: WriteJsonl) -> dict[str, Any]:
    """The settings that sentencepiece is called with."""
    found: dict[str, Any] = {}

    def train(**settings: Any) -> None:
        found.update(settings, sentences=list(settings.pop("sentence_iterator")))
        raise RuntimeError("enough\nseen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_train, "SentencePieceTrainer", SimpleNamespace(train=train))
        with pytest.raises(InputError, match=r"sentencepiece cannot train on this text \(enough\)$"):
            train_tokenizer(config, [write_jsonl(tmp_path / "c.jsonl", ["one\ntwo", "three"])], tmp_path / "out")
    return found


def test_llamas_settings_and_the_recipes_reach_sentencepiece(tmp_path: Path, write_jsonl: WriteJsonl):
    config = TokenizerConfig(vocab_size=777, character_coverage=0.5, threads=3)
    found = trained_with(config, tmp_path, write_jsonl)
    del found["model_writer"], found["minloglevel"]
    assert found == {
        "sentences": ["one", "two", "three"], "vocab_size": 777, "character_coverage": 0.5, "num_threads": 3,
        "model_type": "bpe", "byte_fallback": True, "split_digits": True, "add_dummy_prefix": True,
        "remove_extra_whitespaces": False, "normalization_rule_name": "identity", "allow_whitespace_only_pieces": True,
        "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1,
        "max_sentence_length": 4096,  # bytes of 1,024 characters
    }  # fmt: skip
    assert trained_with(TokenizerConfig(), tmp_path, write_jsonl)["num_threads"] == os.cpu_count()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Vocabulary size too high (4096). Please set it to a value <= 300.", "the text allows at most 300 tokens; set"),
        ("Vocabulary size is smaller than required_chars. 270 vs 286. x", "special tokens need 286 tokens; raise it"),
    ],
)  # fmt: skip
def test_a_size_that_does_not_suit_the_text_is_mended_by_number(message: str, words: str):
    error = bpe_train._explained(444, message)
    assert isinstance(error, RecipeError)
    assert str(error).startswith("tokenizer.vocab_size = 444: ")
    assert words in str(error)


def test_the_summary_of_a_sample(corpus: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".tokenizer.model.killed").touch()
    (tmp_path / "mine.txt").touch()
    text_bytes = sum(len(text.encode()) for text in texts)
    config = TokenizerConfig(vocab_size=400, max_training_bytes=text_bytes // 3)
    summary = train_tokenizer(config, [corpus], tmp_path)
    assert summary["trained_on_share"] == round(text_bytes // 3 / text_bytes, 6)
    assert (summary["documents"], summary["text_bytes"], summary["vocab_size"]) == (len(texts), text_bytes, 400)
    assert summary["by_kind"]["web"]["text_bytes"] == text_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "tokenizer.json", "tokenizer.model"]
