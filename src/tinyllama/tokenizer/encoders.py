"""One protocol for three libraries that encode text: sentencepiece and tokenizers (references), gigatoken (fast)."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tinyllama.errors import InputError
from tinyllama.tokenizer.document_text import first_line
from tinyllama.tokenizer.tokenizer_json import SPACE, to_tokenizer_json

UNKNOWN_BYTES = "\ufffd".encode()
RENEW_AFTER_CHARACTERS = 64_000_000
MAX_VOCAB_SIZE = 2**20  # the libraries allocate for the largest id in a file, whatever it is
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary(NamedTuple):
    """What decoding needs: token and bytes by id. `control` ids have no text."""

    tokens: list[str]
    token_bytes: list[bytes]
    control: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    dummy_prefix: bool  # encoding puts a space before the text, decoding removes it


class Encoder(Protocol):
    """Text to ids without BOS or EOS; the text is valid Unicode, and never becomes a special token."""

    name: str

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]: ...


class SentencePieceEncoder:
    """The reference for `tokenizer.model`."""

    name = "sentencepiece"

    def __init__(self, model_bytes: bytes) -> None:
        """Raises RuntimeError or ValueError if the bytes are no sentencepiece model."""
        self.model = SentencePieceProcessor()
        if not model_bytes or not self.model.LoadFromSerializedProto(model_bytes) or not self.model.get_piece_size():
            raise ValueError("it has no tokens")

    def encode(self, text: str) -> list[int]:
        return list(self.model.encode(text))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return self.model.encode(texts, return_type="numpy")

    def vocabulary(self) -> Vocabulary:
        model = self.model
        tokens = [model.id_to_piece(i) for i in range(model.get_piece_size())]
        control = frozenset(i for i in range(len(tokens)) if model.is_control(i))

        def bytes_of(i: int) -> bytes:
            if i in control:
                return b""
            if model.is_unknown(i):
                return UNKNOWN_BYTES
            return bytes([int(tokens[i][3:5], 16)]) if model.is_byte(i) else tokens[i].replace(SPACE, " ").encode()

        bos, eos, unk = (i if i >= 0 else None for i in (model.bos_id(), model.eos_id(), model.unk_id()))
        dummy_prefix = model.normalize("a").startswith(SPACE)
        return Vocabulary(tokens, [bytes_of(i) for i in range(len(tokens))], control, bos, eos, unk, dummy_prefix)

    def without_special_tokens(self) -> str:
        """The same model as a `tokenizer.json` for gigatoken, in which no text becomes a special token."""
        return to_tokenizer_json(self.model, with_special_tokens=False)


class HuggingFaceEncoder:
    """The reference if there is only a `tokenizer.json`: Llama's form or a byte-level BPE."""

    name = "tokenizers"

    def __init__(self, text: str, special_names: dict[str, str | None]) -> None:
        """`special_names`: `bos_token`, `eos_token`, `unk_token` as far as known; None: there is no such token.

        Raises ValueError if `text` is no such tokenizer.
        """
        self._document = _checked_document(text)
        with _failing_as(ValueError):
            self.tokenizer = HuggingFaceTokenizer.from_str(text)
            self.tokenizer.encode("a b")  # some settings fail only now
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # a literal `<s>` in a text stays text
        self._special_names = special_names

    def encode(self, text: str) -> list[int]:
        with _failing_as(InputError):
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        with _failing_as(InputError):
            found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in found]

    def vocabulary(self) -> Vocabulary:
        ids = self.tokenizer.get_vocab(with_added_tokens=True)
        added = self.tokenizer.get_added_tokens_decoder()
        control = frozenset(i for i, token in added.items() if token.special)
        self._check_named(ids, control)
        tokens = [""] * (max(ids.values()) + 1)
        for token, i in ids.items():
            tokens[i] = token
        if '"ByteLevel"' in json.dumps(self._document.get("decoder")):
            to_bytes, dummy_prefix = _byte_level_bytes, False
        else:
            to_bytes = _llama_token_bytes
            dummy_prefix = "".join(self.tokenizer.encode("a", add_special_tokens=False).tokens).startswith(SPACE)
        unk_id = self._special_id("unk_token", ids, ("<unk>",))

        def bytes_of(i: int) -> bytes:
            if i == unk_id:
                return UNKNOWN_BYTES
            if i in added:
                return b"" if i in control else added[i].content.encode()
            return to_bytes(tokens[i])

        return Vocabulary(
            tokens,
            [bytes_of(i) for i in range(len(tokens))],
            control - {unk_id},
            self._special_id("bos_token", ids, ("<s>", "<|begin_of_text|>", "<|endoftext|>")),
            self._special_id("eos_token", ids, ("</s>", "<|end_of_text|>", "<|endoftext|>")),
            unk_id,
            dummy_prefix,
        )

    def without_special_tokens(self) -> str:
        """The same tokenizer for gigatoken, in which no text becomes a special token."""
        kept = [token for token in self._document.get("added_tokens") or [] if not token.get("special")]
        return json.dumps({**self._document, "added_tokens": kept, "truncation": None, "padding": None})

    def _special_id(self, name: str, ids: dict[str, int], usual: tuple[str, ...]) -> int | None:
        if name not in self._special_names:
            return next((ids[token] for token in usual if token in ids), None)
        token = self._special_names[name]
        return None if token is None else ids.get(token)

    def _check_named(self, ids: dict[str, int], control: frozenset[int]) -> None:
        """BOS and EOS must be special tokens: a text could produce an ordinary token of that name."""
        for name in ("bos_token", "eos_token"):
            token = self._special_names.get(name)
            if token is not None and ids.get(token) not in control:
                raise ValueError(f"tokenizer_config.json's {name}, {token!r}, is no special token of this file")


class GigatokenEncoder:
    """The fast encoder, used only if it gives the reference's ids on `hard_texts`. The package is optional."""

    name = "gigatoken"

    def __init__(self, tokenizer_json: str) -> None:
        """Raises ImportError if the package is missing, anything if it does not support the tokenizer."""
        import gigatoken

        self._make = lambda: gigatoken.Tokenizer.from_json(tokenizer_json)
        self._tokenizer = self._make()
        self._seen_characters = 0

    def encode(self, text: str) -> list[int]:
        return self._encode(text).tolist()

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        # Its cache of words only grows (measured: 70 bytes per word), so it is created again from time to time.
        if self._seen_characters > RENEW_AFTER_CHARACTERS:
            self._tokenizer, self._seen_characters = self._make(), 0
        self._seen_characters += len(text)
        return self._tokenizer.encode(text).view(np.int32)


def hard_texts(tokens: list[str]) -> list[str]:
    """Texts on which encoders often differ, and some that are made of neighbouring tokens of the vocabulary."""
    plain = [token.replace(SPACE, " ") for token in tokens]
    step = max(1, len(plain) // 100)
    joined = [a + b + c for a, b, c in zip(plain[::step], plain[1::step], plain[-1::-step], strict=False)]
    return [*_HARD_TEXTS, *joined, "".join(plain[::step])]


_HARD_TEXTS = (
    *("", " ", "  a   b ", "\n", " \n\n\t x\r\n", "a\0b", "\0", "\x07\x1b[0m\x7f", " " * 40, "a" * 17, "ab" * 9),
    *("<s>", "x<s>y</s><unk>z", "<0x0A><0x41>", "▁x▁▁y", "\ufeffbom", "\ufffd\u2047\u2585", "1234567890 3.14159e-10"),
    *("naïve café e\u0301 \u0130\u0131ß", "你好，世界。", "日本語テキスト", "שלום עולם", "مرحبا بالعالم \u200f\u202e"),
    *("👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏽", "𝔘𝔫𝔦 \U0010ffff", "I'll we've don't THE The the"),
    *("def f(x: int) -> int:\n    return x ** 2  # doc\n", "http://example.org/a?b=c&d=%20#e"),
)


@contextmanager
def _failing_as(kind: type[Exception]) -> Iterator[None]:
    """Raise whatever fails inside as `kind`: bare Exceptions, and panics of Rust code, which are BaseExceptions."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise kind(f"tokenizers: {first_line(error)}") from None


def _checked_document(text: str) -> dict[str, Any]:
    """A `tokenizer.json` whose ids are within bounds. Raises ValueError, KeyError or TypeError for anything else."""
    document = json.loads(text, object_hook=_checked_table)
    model = document["model"]
    if model.get("type") != "BPE":
        raise ValueError(f"model type {model.get('type')}, only BPE is read")
    if not isinstance(vocabulary := model["vocab"], dict) or not vocabulary:
        raise ValueError("model.vocab: it has no tokens")
    if model.get("continuing_subword_prefix"):  # one that does not fit the tokens ends the process
        raise ValueError("model.continuing_subword_prefix is not supported")
    added = document.get("added_tokens") or []
    for token, i in [*vocabulary.items(), *((one["content"], one["id"]) for one in added)]:
        if type(i) is not int or not 0 <= i < MAX_VOCAB_SIZE:
            raise ValueError(f"token {token!r} has the id {i!r}; ids are whole numbers below {MAX_VOCAB_SIZE:,}")
    if not all(one["content"] for one in added):  # an empty token matches everywhere, without end
        raise ValueError("added_tokens: one without content")
    return document


def _checked_table(values: dict[str, Any]) -> dict[str, Any]:
    """A normalizer's table begins with its length, which the library allocates before it reads the table."""
    if values.get("type") == "Precompiled":
        table = base64.b64decode(values["precompiled_charsmap"])
        if int.from_bytes(table[:4], "little") > len(table):
            raise ValueError("precompiled_charsmap: shorter than it says")
    return values


def _llama_token_bytes(token: str) -> bytes:
    if found := BYTE_TOKEN.fullmatch(token):
        return bytes([int(found[1], 16)])
    return token.replace(SPACE, " ").encode()


def _byte_level_bytes(token: str) -> bytes:
    return b"".join(bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in token)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are written as themselves, the others as U+0100 and following, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
