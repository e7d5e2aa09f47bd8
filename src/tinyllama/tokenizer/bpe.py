"""Text to token ids and back, with a Llama tokenizer: `tokenizer.model`, or `tokenizer.json` alone."""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from tinyllama import log
from tinyllama.errors import InputError
from tinyllama.files import read_json
from tinyllama.tokenizer.document_text import first_line
from tinyllama.tokenizer.encoders import (
    UNKNOWN_BYTES,
    Encoder,
    GigatokenEncoder,
    HuggingFaceEncoder,
    SentencePieceEncoder,
    hard_texts,
)

MODEL_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"
MAX_FILE_BYTES = 100_000_000  # the largest known files have 40 million


class Tokenizer:
    """A loaded tokenizer. Make one with `Tokenizer.load`.

    `decode(encode(text)) == text` for every valid Unicode text without U+2581, spaces and control characters included
    (U+2581 comes back as a space). No text produces a special token: callers that need BOS and EOS add them.
    """

    def __init__(self, reference: SentencePieceEncoder | HuggingFaceEncoder, file_name: str, data: bytes) -> None:
        self._reference = reference
        self._vocabulary = reference.vocabulary()
        self.file_name, self.data = file_name, data  # MODEL_FILE or JSON_FILE, and its content
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self.bos_id = self._vocabulary.bos_id  # None if the vocabulary has none
        self.eos_id = self._vocabulary.eos_id
        self.unk_id = self._vocabulary.unk_id
        self.vocab_size = len(self._vocabulary.tokens)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load from a folder with `tokenizer.model` or `tokenizer.json` (the first wins), or from such a file.

        Raises InputError when there is none or it is damaged.
        """
        file = _tokenizer_file(Path(path))
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file}: larger than {MAX_FILE_BYTES:,} bytes; that is no tokenizer")
        names = _special_names(file.parent) if file.name.endswith(".json") else {}
        return cls.from_data(file.read_bytes(), JSON_FILE if file.name.endswith(".json") else MODEL_FILE, names, file)

    @classmethod
    def from_data(cls, data: bytes, file_name: str, special_names: dict[str, str | None], origin: Path) -> "Tokenizer":
        """Load from the content of a `tokenizer.model` or a `tokenizer.json`; `file_name` says which.

        `special_names`: `bos_token`, `eos_token`, `unk_token` of a `tokenizer.json`, as far as known. Raises InputError
        that names `origin` when the content is damaged.
        """
        try:
            if file_name == JSON_FILE:
                reference = HuggingFaceEncoder(data.decode(), special_names)
            else:
                reference = SentencePieceEncoder(data)
            return cls(reference, file_name, data)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{origin}: not a readable tokenizer, or a damaged one ({first_line(error)})") from None

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of `bos_token`, `eos_token` and `unk_token`, as far as the vocabulary has them."""
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.unk_id}
        return {name: token_id for name, token_id in ids.items() if token_id is not None}

    def first_difference(self, other: "Tokenizer") -> str | None:
        """The first of the difficult texts (`hard_texts`) to which `other` gives other ids; None if there is none."""
        return next(
            (text for text in hard_texts(self._vocabulary.tokens) if other.encode(text) != self.encode(text)), None
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS or EOS. Raises InputError for a lone surrogate (not valid Unicode)."""
        _check_unicode(text)
        return self._reference.encode(text)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, int32, the same as from `encode`, by the fastest encoder that passed the self-check."""
        for text in texts:
            _check_unicode(text)
        return self._batch_encoder.encode_batch(texts) if texts else []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; never fails.

        BOS, EOS and other special tokens have no text. The unknown token, ids outside the vocabulary and bytes that
        are not UTF-8 become U+FFFD (one for each maximal invalid sequence). The space that encoding puts before a text is
        removed.
        """
        table, control = self._vocabulary.token_bytes, self._vocabulary.control
        kept = [i for i in map(int, ids) if i not in control]
        found = b"".join(table[i] if 0 <= i < len(table) else UNKNOWN_BYTES for i in kept)
        # A byte token 0x20 is a space of the text; only a token that begins with U+2581 carries the prefix.
        if self._vocabulary.dummy_prefix and kept and found[:1] == b" " and self.token(kept[0])[:1] == "▁":
            found = found[1:]
        return found.decode("utf-8", errors="replace")

    def token(self, token_id: int) -> str:
        """The token as the vocabulary writes it, for example `▁the` or `<0x0A>`. Raises IndexError outside of it."""
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token id {token_id} outside the vocabulary of {self.vocab_size}")
        return self._vocabulary.tokens[token_id]

    def token_bytes(self, token_id: int) -> int:
        """Bytes of UTF-8 text that the token decodes to; 0 for special tokens.

        Over `encode(text)` they sum to the text's bytes, plus 1 for the space that Llama's scheme puts before a text.
        """
        self.token(token_id)  # raises outside the vocabulary
        return len(self._vocabulary.token_bytes[token_id])

    @cached_property
    def _batch_encoder(self) -> Encoder:
        try:
            fast = GigatokenEncoder(self._reference.without_special_tokens())
            texts = hard_texts(self._vocabulary.tokens)
            if all(fast.encode(text) == self._reference.encode(text) for text in texts):
                log.info(
                    f"tokenizer: gigatoken encodes (same ids as {self._reference.name} on {len(texts)} difficult texts)"
                )
                return fast
            problem = "gigatoken gave other ids in the self-check"
        except ImportError:
            problem = "gigatoken is faster, but not installed"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # unsupported tokenizers raise many kinds, panics of Rust code among them
            problem = f"gigatoken refused: {first_line(error)}"
        log.info(f"tokenizer: {self._reference.name} encodes ({problem})")
        return self._reference


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise InputError(f"text: lone surrogate U+{code:04X} at character {error.start} is not valid Unicode") from None


def _tokenizer_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    for name in (MODEL_FILE, JSON_FILE):
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path}: no {MODEL_FILE} or {JSON_FILE} in this folder")


def _special_names(folder: Path) -> dict[str, str | None]:
    """`bos_token` and so on from Hugging Face's `tokenizer_config.json`; None where it says null: no such token.

    Raises InputError when one is neither a text nor null.
    """
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise InputError(f"{path}: not a JSON object")
    names: dict[str, str | None] = {}
    for key in ("bos_token", "eos_token", "unk_token"):
        if key in settings:
            value = settings[key]
            names[key] = value.get("content") if isinstance(value, dict) else value
            if not isinstance(names[key], str | None):
                raise InputError(f"{path}: {key}: {str(value)[:80]} must be a token's text, or null")
    return names
