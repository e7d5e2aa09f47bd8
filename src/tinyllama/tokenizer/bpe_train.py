"""Trains a BPE tokenizer with byte fallback, like Llama 2's, with sentencepiece."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tinyllama import log
from tinyllama.errors import InputError, RecipeError, TinyllamaError
from tinyllama.files import atomic_file
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.document_text import DocumentText, read_documents, split_files
from tinyllama.tokenizer.fertility import FertilitySample, fertility, hash_share
from tinyllama.tokenizer.sentencepiece_proto import without_thread_count
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig
from tinyllama.tokenizer.tokenizer_json import to_tokenizer_json

MAX_SENTENCE_CHARACTERS = 1_024  # sentencepiece skips sentences of more than max_sentence_length bytes
FIXED_OPTIONS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
    "allow_whitespace_only_pieces": True,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "minloglevel": 3,  # errors are raised
    "max_sentence_length": 4 * MAX_SENTENCE_CHARACTERS,
}


def train_tokenizer(config: TokenizerConfig, inputs: list[Path], out: Path) -> dict[str, Any]:
    """Train on the documents of `inputs`; write `out/tokenizer.model` and `out/tokenizer.json`; return the summary.

    The result depends on the documents alone, not on their files, order or the number of threads. Raises InputError
    when there is no text, RecipeError when tokenizer.vocab_size does not fit it.
    """
    text = TrainingText(split_files(inputs, "train"), config.max_training_bytes)
    if not text.bytes:
        raise InputError(f"{', '.join(map(str, inputs))}: no text to train a tokenizer on ({text.documents} documents)")
    log.info(f"tokenizer: training a vocabulary of {config.vocab_size:,} on {text.documents:,} documents, {text.note}")
    model = _train(config, text)
    processor = SentencePieceProcessor(model_proto=model)
    for leftover in out.glob(".tokenizer.*"):  # of a run that was killed while it wrote one
        leftover.unlink()
    with atomic_file(out / MODEL_FILE) as file:
        file.write(model)
    with atomic_file(out / JSON_FILE, "w") as file:
        file.write(to_tokenizer_json(processor))
    return {
        "vocab_size": processor.get_piece_size(),
        "documents": text.documents,
        "text_bytes": text.bytes,
        "trained_on_share": round(text.kept_share, 6),
        **fertility(Tokenizer.load(out), text.sample),
    }


class TrainingText:
    """The documents that training reads; if they have more than `max_bytes`, a sample of them by the hash of each text.

    So the choice does not depend on the files. Two passes over the files: one to measure, one to read. `sample`, for the
    fertility report, holds the documents with the smallest hashes, which are among those that training reads.
    """

    def __init__(self, paths: list[Path], max_bytes: int) -> None:
        self._paths = paths
        self.documents = self.bytes = 0
        self.sample = FertilitySample()
        for document in self._all():
            text_bytes = len(document.text.encode())
            self.documents += 1
            self.bytes += text_bytes
            self.sample.add(document.kind, document.text, text_bytes, hash_share(document.text))
        self.kept_share = min(1.0, max_bytes / max(self.bytes, 1))
        self.note = f"{self.bytes / 1e6:,.1f} MB" + (
            f", a sample of {self.kept_share:.1%}" if self.kept_share < 1 else ""
        )

    def texts(self) -> Iterator[str]:
        """Text of each document in the sample."""
        for document in self._all():
            if self.kept_share == 1 or hash_share(document.text) < self.kept_share:
                yield document.text

    def sentences(self) -> Iterator[str]:
        """Lines of these documents, none longer than sentencepiece reads."""
        for text in self.texts():
            for line in text.split("\n"):
                yield from split_line(line)

    def _all(self) -> Iterator[DocumentText]:
        for path in self._paths:
            yield from read_documents(path)


def split_line(line: str, max_characters: int = MAX_SENTENCE_CHARACTERS) -> Iterator[str]:
    """Split `line` into sentences of at most `max_characters`, at a space where there is one; empty ones are skipped.

    That space is dropped: the trainer puts one before each sentence, so the words stay the same.
    """
    start = 0
    while len(line) - start > max_characters:
        space = line.rfind(" ", start + 1, start + max_characters)
        stop = space if space > 0 else start + max_characters
        yield line[start:stop]
        start = stop + (space > 0)
    if start < len(line):
        yield line[start:]


def _train(config: TokenizerConfig, text: TrainingText) -> bytes:
    """sentencepiece's model file."""
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=text.sentences(),
            model_writer=model,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            num_threads=config.threads or os.cpu_count() or 1,
            **FIXED_OPTIONS,
        )
    except RuntimeError as error:
        raise _explained(config.vocab_size, str(error)) from None
    return without_thread_count(model.getvalue())


def _explained(vocab_size: int, message: str) -> TinyllamaError:
    if found := re.search(r"too high \(\d+\)\D*(\d+)", message):
        return RecipeError(
            f"tokenizer.vocab_size = {vocab_size}: the text allows at most {found[1]} tokens; "
            f"set it to {found[1]} or less, or give more text"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return RecipeError(
            f"tokenizer.vocab_size = {vocab_size}: the text's characters, the bytes and the special tokens need "
            f"{found[1]} tokens; raise it to that or more, or lower tokenizer.character_coverage"
        )
    return InputError(f"sentencepiece cannot train on this text ({message.strip().splitlines()[0]})")
