"""Three programs that turn text into token ids, behind one small protocol: two references and a fast one."""

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
from tinyllama.tokenizer.tokenizer_json import BLANK, to_tokenizer_json

UNKNOWN_BYTES = "\ufffd".encode()
RENEW_AFTER_CHARACTERS = 64_000_000
MAX_PIECES = 2**20  # the libraries make room for the largest id that a file names, without asking
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary(NamedTuple):
    """What decoding needs: per id its piece and its bytes. `control` ids have no text; an id not there is None."""

    pieces: list[str]
    piece_bytes: list[bytes]
    control: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    dummy_prefix: bool  # encoding writes a blank before the text; decoding takes it away


class Encoder(Protocol):
    """Text to ids without BOS or EOS; the text is valid Unicode and never makes a special token."""

    name: str

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]: ...


class SentencePieceEncoder:
    """The reference for `tokenizer.model`."""

    name = "sentencepiece"

    def __init__(self, model_bytes: bytes) -> None:
        """Raises RuntimeError or ValueError when the bytes are no sentencepiece model."""
        self.model = SentencePieceProcessor()
        if not model_bytes or not self.model.LoadFromSerializedProto(model_bytes) or not self.model.get_piece_size():
            raise ValueError("no pieces in it")

    def encode(self, text: str) -> list[int]:
        return list(self.model.encode(text))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return self.model.encode(texts, return_type="numpy")

    def vocabulary(self) -> Vocabulary:
        model = self.model
        pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
        control = frozenset(i for i in range(len(pieces)) if model.is_control(i))

        def bytes_of(i: int) -> bytes:
            if i in control:
                return b""
            if model.is_unknown(i):
                return UNKNOWN_BYTES
            return bytes([int(pieces[i][3:5], 16)]) if model.is_byte(i) else pieces[i].replace(BLANK, " ").encode()

        bos, eos, unk = (i if i >= 0 else None for i in (model.bos_id(), model.eos_id(), model.unk_id()))
        dummy_prefix = model.normalize("a").startswith(BLANK)
        return Vocabulary(pieces, [bytes_of(i) for i in range(len(pieces))], control, bos, eos, unk, dummy_prefix)

    def without_special_tokens(self) -> str:
        """The same model for gigatoken: a `tokenizer.json` in which no text can make a special token."""
        return to_tokenizer_json(self.model, with_special_tokens=False)


class HuggingFaceEncoder:
    """The reference where only `tokenizer.json` exists: Llama's form or a byte-level BPE."""

    name = "tokenizers"

    def __init__(self, text: str, special_names: dict[str, str | None]) -> None:
        """`special_names`: `bos_token`, `eos_token`, `unk_token` where known, None for one that it says it has not.

        Raises ValueError for any other text.
        """
        self._document = _checked_document(text)
        with _failing_as(ValueError):
            self.tokenizer = HuggingFaceTokenizer.from_str(text)
            self.tokenizer.encode("a b")  # some settings fail only at work
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
        pieces = [""] * (max(ids.values()) + 1)
        for piece, i in ids.items():
            pieces[i] = piece
        if '"ByteLevel"' in json.dumps(self._document.get("decoder")):
            to_bytes, dummy_prefix = _byte_level_bytes, False
        else:
            to_bytes = _blank_piece_bytes
            dummy_prefix = "".join(self.tokenizer.encode("a", add_special_tokens=False).tokens).startswith(BLANK)
        unk_id = self._special_id("unk_token", ids, ("<unk>",))

        def bytes_of(i: int) -> bytes:
            if i == unk_id:
                return UNKNOWN_BYTES
            if i in added:
                return b"" if i in control else added[i].content.encode()
            return to_bytes(pieces[i])

        return Vocabulary(
            pieces,
            [bytes_of(i) for i in range(len(pieces))],
            control - {unk_id},
            self._special_id("bos_token", ids, ("<s>", "<|begin_of_text|>", "<|endoftext|>")),
            self._special_id("eos_token", ids, ("</s>", "<|end_of_text|>", "<|endoftext|>")),
            unk_id,
            dummy_prefix,
        )

    def without_special_tokens(self) -> str:
        """The same tokenizer for gigatoken, with no text that can make a special token."""
        kept = [token for token in self._document.get("added_tokens") or [] if not token.get("special")]
        return json.dumps({**self._document, "added_tokens": kept, "truncation": None, "padding": None})

    def _special_id(self, name: str, ids: dict[str, int], usual: tuple[str, ...]) -> int | None:
        if name not in self._special_names:
            return next((ids[piece] for piece in usual if piece in ids), None)
        piece = self._special_names[name]
        return None if piece is None else ids.get(piece)

    def _check_named(self, ids: dict[str, int], control: frozenset[int]) -> None:
        """BOS and EOS must be special tokens: an ordinary piece by such a name could come out of a text."""
        for name in ("bos_token", "eos_token"):
            piece = self._special_names.get(name)
            if piece is not None and ids.get(piece) not in control:
                raise ValueError(f"tokenizer_config.json's {name}, {piece!r}, is no special token of this file")


class GigatokenEncoder:
    """The fast one; trusted only after it gave the reference's ids on `hard_texts`. The package is optional."""

    name = "gigatoken"

    def __init__(self, tokenizer_json: str) -> None:
        """Raises ImportError where the package is missing, anything where it does not know the tokenizer's form."""
        import gigatoken

        self._make = lambda: gigatoken.Tokenizer.from_json(tokenizer_json)
        self._tokenizer = self._make()
        self._seen_characters = 0

    def encode(self, text: str) -> list[int]:
        return self._encode(text).tolist()

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        # It remembers every word that it has met (measured: 70 bytes a word, never forgotten), so it is made anew.
        if self._seen_characters > RENEW_AFTER_CHARACTERS:
            self._tokenizer, self._seen_characters = self._make(), 0
        self._seen_characters += len(text)
        return self._tokenizer.encode(text).view(np.int32)


def hard_texts(pieces: list[str]) -> list[str]:
    """Texts on which encoders like to differ, and some made of the vocabulary's own pieces side by side."""
    plain = [piece.replace(BLANK, " ") for piece in pieces]
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


def first_line(error: BaseException) -> str:
    """The beginning of what an error says, on one line."""
    return str(error).strip().split("\n", 1)[0][:200]


@contextmanager
def _failing_as(kind: type[Exception]) -> Iterator[None]:
    """Whatever fails inside is raised as `kind`: bare Exceptions, and panics of Rust code, which are no Exceptions."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise kind(f"tokenizers: {first_line(error)}") from None


def _checked_document(text: str) -> dict[str, Any]:
    """A `tokenizer.json` whose ids are in bounds. Raises ValueError, KeyError or TypeError for anything else."""
    document = json.loads(text, object_hook=_checked_table)
    model = document["model"]
    if model.get("type") != "BPE":
        raise ValueError(f"model type {model.get('type')}, only BPE is read")
    if not isinstance(vocabulary := model["vocab"], dict) or not vocabulary:
        raise ValueError("model.vocab: no pieces in it")
    if model.get("continuing_subword_prefix"):  # one that does not suit the pieces ends the whole process
        raise ValueError("model.continuing_subword_prefix is not supported")
    added = document.get("added_tokens") or []
    for piece, i in [*vocabulary.items(), *((token["content"], token["id"]) for token in added)]:
        if type(i) is not int or not 0 <= i < MAX_PIECES:
            raise ValueError(f"piece {piece!r} has the id {i!r}; ids are whole numbers below {MAX_PIECES:,}")
    if not all(token["content"] for token in added):  # found everywhere, forever
        raise ValueError("added_tokens: one without content")
    return document


def _checked_table(part: dict[str, Any]) -> dict[str, Any]:
    """A normalizer's table begins with its own length, for which room is made before anything is read."""
    if part.get("type") == "Precompiled":
        table = base64.b64decode(part["precompiled_charsmap"])
        if int.from_bytes(table[:4], "little") > len(table):
            raise ValueError("precompiled_charsmap: shorter than it says")
    return part


def _blank_piece_bytes(piece: str) -> bytes:
    if found := BYTE_PIECE.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace(BLANK, " ").encode()


def _byte_level_bytes(piece: str) -> bytes:
    return b"".join(bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in piece)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: printable bytes stand for themselves, the others for U+0100 and on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
