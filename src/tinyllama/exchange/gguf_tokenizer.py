"""A tokenizer as GGUF metadata, both ways: llama.cpp's kinds `llama` (sentencepiece) and `gpt2` (byte-level BPE).

Whatever is written is read back and held against the tokenizer on hard texts: a GGUF with wrong scores or the wrong split
of words loads everywhere and tokenises wrongly without a word.
"""

import json
import struct
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from tinyllama.errors import InputError
from tinyllama.exchange.gguf_format import NumberList
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.encoders import hard_texts
from tinyllama.tokenizer.sentencepiece_proto import user_defined_pieces

Metadata = dict[str, Any]
MAX_PIECES = 2_000_000
_LARGEST_F32 = 3.4e38
_KEY = "tokenizer.ggml."
# Kinds of pieces; sentencepiece and llama.cpp number them alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPECIAL = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id"}

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How a byte-level tokenizer cuts text into words before it joins pairs, by llama.cpp's name for it (`pre`).
_WORDS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL | {"use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL | {"use_regex": True}],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3_WORDS}, "behavior": "Isolated", "invert": False},
        _BYTE_LEVEL | {"use_regex": False},
    ],
}
_OTHER_NAMES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
_WHOLE_WORDS = {"llama-bpe"}  # a word that is a piece is taken before pairs are joined


# -- into a GGUF -------------------------------------------------------------------------------------------------------


def tokenizer_to_metadata(tokenizer: Tokenizer, vocab_size: int, add_bos: bool, origin: Path) -> Metadata:
    """The metadata of `tokenizer` for a network of `vocab_size` rows; rows beyond its pieces get unused names.

    Raises InputError when llama.cpp has no kind of tokenizer that gives the same ids.
    """
    if tokenizer.file_name == MODEL_FILE:
        found = _from_sentencepiece(SentencePieceProcessor(model_proto=tokenizer.data))
    else:
        found = _from_json(json.loads(tokenizer.data), tokenizer, origin)
    pieces, types = found[_KEY + "tokens"], found[_KEY + "token_type"]
    unused = vocab_size - len(pieces)
    pieces += [f"[PAD{number}]" for number in range(len(pieces), vocab_size)]
    types += [UNUSED] * unused
    if _KEY + "scores" in found:
        found[_KEY + "scores"] += [-10_000.0] * unused
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)
    for key, token_id in zip(_SPECIAL.values(), ids, strict=True):
        if token_id is not None:
            found[_KEY + key] = token_id
    found[_KEY + "add_bos_token"] = add_bos and tokenizer.bos_id is not None
    found[_KEY + "add_eos_token"] = False
    again = tokenizer_from_metadata(found, origin)
    if any(again.encode(text) != tokenizer.encode(text) for text in hard_texts(pieces[: tokenizer.vocab_size])):
        raise InputError(f"{origin}: its tokenizer gives other ids in any form that a GGUF can hold")
    return found


def _from_sentencepiece(model: SentencePieceProcessor) -> Metadata:
    ids = range(model.get_piece_size())
    matched_first = set(user_defined_pieces(model.serialized_model_proto()))
    kinds = (
        (CONTROL, model.is_control),
        (UNKNOWN, model.is_unknown),
        (BYTE, model.is_byte),
        (UNUSED, model.is_unused),
        (USER_DEFINED, lambda i: model.id_to_piece(i) in matched_first),
    )
    return {
        _KEY + "model": "llama",
        _KEY + "pre": "default",
        _KEY + "tokens": [model.id_to_piece(i) for i in ids],
        _KEY + "scores": [model.get_score(i) for i in ids],
        _KEY + "token_type": [next((kind for kind, holds in kinds if holds(i)), NORMAL) for i in ids],
        _KEY + "add_space_prefix": model.normalize("a").startswith("▁"),
    }


def _from_json(document: dict[str, Any], tokenizer: Tokenizer, origin: Path) -> Metadata:
    model = document["model"]
    pieces = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
    added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in document.get("added_tokens") or []}
    types = [added.get(i, NORMAL) for i in range(len(pieces))]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    if '"ByteLevel"' not in json.dumps(document.get("decoder")):
        return _from_blanks(pieces, types, merges, tokenizer)
    words = _words_of(document.get("pre_tokenizer"))
    pre = next((name for name, known in _WORDS.items() if known == words), None)
    if pre is None or document.get("normalizer") is not None:
        raise InputError(
            f"{origin}: its tokenizer cuts words as none of {', '.join(_WORDS)} does; GGUF has no name for it"
        )
    return {
        _KEY + "model": "gpt2",
        _KEY + "pre": pre,
        _KEY + "tokens": pieces,
        _KEY + "token_type": types,
        _KEY + "merges": [" ".join(pair) for pair in merges],
        _KEY + "add_space_prefix": False,
    }


def _from_blanks(pieces: list[str], types: list[int], merges: list[list[str]], tokenizer: Tokenizer) -> Metadata:
    """Llama's form of tokenizer.json: a piece's score is the place of the first pair that makes it."""
    scores = dict.fromkeys(pieces, 0.0)
    for place, pair in enumerate(merges, 1):
        if not scores.get("".join(pair)):
            scores["".join(pair)] = -float(place)
    for i, piece in enumerate(pieces):
        if i == tokenizer.unk_id:
            types[i] = UNKNOWN
        elif types[i] == NORMAL and len(piece) == 6 and piece.startswith("<0x"):
            types[i] = BYTE
    return {
        _KEY + "model": "llama",
        _KEY + "pre": "default",
        _KEY + "tokens": pieces,
        _KEY + "scores": [scores[piece] for piece in pieces],
        _KEY + "token_type": types,
        _KEY + "add_space_prefix": tokenizer.piece(tokenizer.encode("a")[0]).startswith("▁"),
    }


def _words_of(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a `pre_tokenizer` in one form."""
    if pre_tokenizer is None:
        return []
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    defaults = {"use_regex": True, "trim_offsets": True}
    found = [defaults | step if step.get("type") == "ByteLevel" else step for step in steps]
    return [{**step, "trim_offsets": True} if "trim_offsets" in step else step for step in found]


# -- out of a GGUF -----------------------------------------------------------------------------------------------------


def tokenizer_from_metadata(metadata: Metadata, origin: Path) -> Tokenizer:
    """The tokenizer that a GGUF's metadata describes. Raises InputError, with key and value, for what we cannot read."""
    pieces = _texts(metadata, "tokens", origin)
    types = [NORMAL] * len(pieces)
    if _KEY + "token_type" in metadata:
        types = [int(kind) for kind in _numbers(metadata, "token_type", len(pieces), origin)]
    special: dict[str, str | None] = {}
    for name, key in _SPECIAL.items():
        token_id = metadata.get(_KEY + key)
        if token_id is not None and not (isinstance(token_id, int) and 0 <= token_id < len(pieces)):
            raise InputError(f"{origin}: {_KEY}{key}: {str(token_id)[:40]} is no id of {len(pieces)} tokens")
        special[name] = None if token_id is None else pieces[token_id]
    kind = metadata.get(_KEY + "model")
    if kind == "llama":
        scores = [float(score) for score in _numbers(metadata, "scores", len(pieces), origin)]
        blank_first = metadata.get(_KEY + "add_space_prefix", True) is not False
        data = _sentencepiece_model(pieces, scores, types, special, blank_first)
        return Tokenizer.from_data(data, MODEL_FILE, {}, origin)
    if kind == "gpt2":
        document = _byte_level_json(pieces, types, _texts(metadata, "merges", origin), metadata, origin)
        return Tokenizer.from_data(json.dumps(document).encode(), JSON_FILE, special, origin)
    raise InputError(f"{origin}: {_KEY}model: {str(kind)[:40]!r}; only 'llama' and 'gpt2' are read")


def adds_bos(metadata: Metadata) -> bool:
    """Whether a text begins with BOS: as the file says, else as llama.cpp takes it for the tokenizer's kind."""
    return metadata.get(_KEY + "add_bos_token", metadata.get(_KEY + "model") == "llama") is True


def _texts(metadata: Metadata, key: str, origin: Path) -> list[str]:
    values = metadata.get(_KEY + key)
    if not isinstance(values, list) or not 0 < len(values) <= MAX_PIECES:
        raise InputError(f"{origin}: {_KEY}{key}: missing, or no list of 1 to {MAX_PIECES:,} texts")
    return values


def _numbers(metadata: Metadata, key: str, count: int, origin: Path) -> list[float]:
    """A list of `count` numbers that fp32 can hold."""
    values = metadata.get(_KEY + key)
    if isinstance(values, NumberList):
        values = values.values.tolist() if len(values.values) == count else None
    if not isinstance(values, list) or len(values) != count or not all(abs(value) <= _LARGEST_F32 for value in values):
        raise InputError(f"{origin}: {_KEY}{key}: missing, or not {count:,} numbers, one for each token")
    return values


def _byte_level_json(
    pieces: list[str], types: list[int], merges: list[str], metadata: Metadata, origin: Path
) -> dict[str, Any]:
    pre = metadata.get(_KEY + "pre")
    pre = _OTHER_NAMES.get(str(pre), pre)
    if pre not in _WORDS:
        raise InputError(f"{origin}: {_KEY}pre: {str(pre)[:40]!r}; {', '.join(_WORDS)} are read")
    pairs = [merge.split(" ") for merge in merges]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError(f"{origin}: {_KEY}merges: a line that is not two pieces with a blank between")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": pieces[i], **flags, "special": kind == CONTROL}
            for i, kind in enumerate(types)
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _WORDS[pre]},
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _WHOLE_WORDS,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": pairs,
        },
    }


# -- sentencepiece's model file: a protocol buffer -----------------------------------------------------------------------


def _sentencepiece_model(
    pieces: list[str], scores: list[float], types: list[int], special: dict[str, str | None], blank_first: bool
) -> bytes:
    """A `tokenizer.model` (ModelProto of sentencepiece_model.proto): pieces, trainer_spec, normalizer_spec."""
    parts = [
        _field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for piece, score, kind in zip(pieces, scores, types, strict=True)
    ]
    trainer = _field(3, 2) + _field(35, 1)  # model_type BPE, byte_fallback
    trainer += b"".join(_field(number, (special[name] or "").encode()) for number, name in _PIECE_FIELDS)
    flags = _field(3, int(blank_first)) + _field(4, 0) + _field(5, 1)  # dummy prefix, keep blanks, blanks as U+2581
    return b"".join(parts) + _field(2, trainer) + _field(3, _field(1, b"identity") + flags)


_PIECE_FIELDS = ((45, "unk_token"), (46, "bos_token"), (47, "eos_token"))


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer: a whole number, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
