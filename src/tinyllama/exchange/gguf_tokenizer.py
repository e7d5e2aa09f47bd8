"""A tokenizer as GGUF metadata, in both directions: llama.cpp's kinds `llama` (sentencepiece) and `gpt2` (byte-level BPE).

The metadata that is written is read back and compared with the tokenizer on difficult texts, because a GGUF file with wrong
scores or the wrong pre-tokenizer loads everywhere and tokenizes wrongly without an error.
"""

import json
import struct
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from sentencepiece import SentencePieceProcessor

from tinyllama.errors import InputError
from tinyllama.exchange.file_settings import FileSettings
from tinyllama.exchange.gguf_format import NumberList
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.encoders import BYTE_TOKEN
from tinyllama.tokenizer.sentencepiece_proto import encode_field, user_defined_pieces

Metadata = dict[str, Any]
MAX_TOKENS = 2_000_000
_LARGEST_F32 = 3.4e38
_KEY = "tokenizer.ggml."
# Types of tokens, the same numbers in sentencepiece and llama.cpp.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPECIAL = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id"}

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Steps of the pre-tokenizer of a byte-level tokenizer, by llama.cpp's name for it (`pre`).
_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL | {"use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL | {"use_regex": True}],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
        _BYTE_LEVEL | {"use_regex": False},
    ],
}
_OTHER_NAMES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
_IGNORE_MERGES = {"llama-bpe"}  # a word that is a token is not built from pairs


# -- writing -----------------------------------------------------------------------------------------------------------


def tokenizer_to_metadata(tokenizer: Tokenizer, vocab_size: int, add_bos: bool, origin: Path) -> Metadata:
    """The metadata of `tokenizer` for a network of `vocab_size` rows; rows beyond its tokens get unused names.

    Raises InputError when llama.cpp has no kind of tokenizer that gives the same ids.
    """
    if tokenizer.file_name == MODEL_FILE:
        found = _from_sentencepiece(SentencePieceProcessor(model_proto=tokenizer.data))
    else:
        found = _from_json(json.loads(tokenizer.data), tokenizer, origin)
    tokens, types = found[_KEY + "tokens"], found[_KEY + "token_type"]
    unused = vocab_size - len(tokens)
    tokens += [f"[PAD{number}]" for number in range(len(tokens), vocab_size)]
    types += [UNUSED] * unused
    if _KEY + "scores" in found:
        found[_KEY + "scores"] += [-10_000.0] * unused
    found |= {_KEY + _SPECIAL[name]: token_id for name, token_id in tokenizer.special_ids.items()}
    found[_KEY + "add_bos_token"] = add_bos and tokenizer.bos_id is not None
    found[_KEY + "add_eos_token"] = False
    if tokenizer.first_difference(tokenizer_from_metadata(found, origin)) is not None:
        raise InputError(f"{origin}: no form of tokenizer that GGUF has gives the same ids as this one")
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
    tokens = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in document.get("added_tokens") or []}
    types = [added.get(i, NORMAL) for i in range(len(tokens))]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    if '"ByteLevel"' not in json.dumps(document.get("decoder")):
        return _from_llama_json(tokens, types, merges, tokenizer)
    steps = _pre_tokenizer_steps(document.get("pre_tokenizer"))
    pre = next((name for name, known in _PRE_TOKENIZERS.items() if known == steps), None)
    if pre is None or document.get("normalizer") is not None:
        raise InputError(
            f"{origin}: its pre-tokenizer or normalizer has no name in GGUF; "
            f"pre-tokenizers that have one: {', '.join(_PRE_TOKENIZERS)}"
        )
    return {
        _KEY + "model": "gpt2",
        _KEY + "pre": pre,
        _KEY + "tokens": tokens,
        _KEY + "token_type": types,
        _KEY + "merges": [" ".join(pair) for pair in merges],
        _KEY + "add_space_prefix": False,
    }


def _from_llama_json(tokens: list[str], types: list[int], merges: list[list[str]], tokenizer: Tokenizer) -> Metadata:
    """Llama's form of tokenizer.json: a token's score is minus the number of the first merge that makes it."""
    scores = dict.fromkeys(tokens, 0.0)
    for number, pair in enumerate(merges, 1):
        if not scores.get("".join(pair)):
            scores["".join(pair)] = -float(number)
    for i, token in enumerate(tokens):
        if i == tokenizer.unk_id:
            types[i] = UNKNOWN
        elif types[i] == NORMAL and BYTE_TOKEN.fullmatch(token):
            types[i] = BYTE
    return {
        _KEY + "model": "llama",
        _KEY + "pre": "default",
        _KEY + "tokens": tokens,
        _KEY + "scores": [scores[token] for token in tokens],
        _KEY + "token_type": types,
        _KEY + "add_space_prefix": tokenizer.token(tokenizer.encode("a")[0]).startswith("▁"),
    }


def _pre_tokenizer_steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a `pre_tokenizer` with their defaults filled in."""
    if pre_tokenizer is None:
        return []
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    defaults = {"use_regex": True, "trim_offsets": True}
    found = [defaults | step if step.get("type") == "ByteLevel" else step for step in steps]
    return [{**step, "trim_offsets": True} if "trim_offsets" in step else step for step in found]


# -- reading -----------------------------------------------------------------------------------------------------------


def _plain_list(values: Any) -> Any:
    is_list = isinstance(values, NumberList) and len(values.values) <= MAX_TOKENS
    return values.values.tolist() if is_list else values


_Float32 = Annotated[float, Field(ge=-_LARGEST_F32, le=_LARGEST_F32, allow_inf_nan=False)]
_Scores = Annotated[list[_Float32], Field(fail_fast=True), BeforeValidator(_plain_list)]
_Types = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True), BeforeValidator(_plain_list)]
_Texts = Annotated[list[str], Field(max_length=MAX_TOKENS, fail_fast=True)]


class _TokenizerMetadata(FileSettings):
    """What is read of a tokenizer; fields are llama.cpp's keys behind `tokenizer.ggml.`."""

    model_config = ConfigDict(alias_generator=_KEY.__add__)

    model: Literal["llama", "gpt2"]
    tokens: _Texts = Field(min_length=1)
    token_type: _Types | None = None
    scores: _Scores | None = None
    merges: _Texts | None = None
    pre: str | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    unknown_token_id: int | None = None

    @model_validator(mode="after")
    def _check_against_tokens(self) -> Self:
        count = len(self.tokens)
        for key in _SPECIAL.values():
            token_id = getattr(self, key)
            if token_id is not None and not 0 <= token_id < count:
                raise ValueError(f"{_KEY}{key}: {token_id} is not the id of one of the {count} tokens")
        for key in ("token_type", "scores") if self.model == "llama" else ("token_type",):
            values = getattr(self, key)
            if (values is None and key == "scores") or (values is not None and len(values) != count):
                raise ValueError(f"{_KEY}{key}: missing, or not {count:,} numbers, one for each token")
        return self


def tokenizer_from_metadata(metadata: Metadata, origin: Path) -> Tokenizer:
    """The tokenizer that a GGUF's metadata describes. Raises InputError, with key and value, for what cannot be read."""
    found = _TokenizerMetadata.read(metadata, origin)
    tokens, types = found.tokens, found.token_type or [NORMAL] * len(found.tokens)
    ids = {name: getattr(found, key) for name, key in _SPECIAL.items()}
    special = {name: None if i is None else tokens[i] for name, i in ids.items()}
    if found.model == "llama":
        add_prefix = metadata.get(_KEY + "add_space_prefix", True) is not False
        data = _sentencepiece_model(tokens, found.scores or [], types, special, add_prefix)
        return Tokenizer.from_data(data, MODEL_FILE, {}, origin)
    document = _byte_level_json(found, types, origin)
    return Tokenizer.from_data(json.dumps(document).encode(), JSON_FILE, special, origin)


def adds_bos(metadata: Metadata) -> bool:
    """Whether a text begins with BOS: as the file says, else llama.cpp's default for the kind of tokenizer."""
    return metadata.get(_KEY + "add_bos_token", metadata.get(_KEY + "model") == "llama") is True


def _byte_level_json(found: _TokenizerMetadata, types: list[int], origin: Path) -> dict[str, Any]:
    pre = _OTHER_NAMES.get(str(found.pre), str(found.pre))
    if pre not in _PRE_TOKENIZERS:
        raise InputError(f"{origin}: {_KEY}pre: {pre[:40]!r} must be one of {', '.join(_PRE_TOKENIZERS)}")
    pairs = [merge.split(" ") for merge in found.merges or [""]]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError(f"{origin}: {_KEY}merges: missing, or an entry that is not two tokens separated by a space")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": found.tokens[i], **flags, "special": kind == CONTROL}
            for i, kind in enumerate(types)
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[pre]},
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
            "ignore_merges": pre in _IGNORE_MERGES,
            "vocab": {token: i for i, token in enumerate(found.tokens)},
            "merges": pairs,
        },
    }


def _sentencepiece_model(
    tokens: list[str], scores: list[float], types: list[int], special: dict[str, str | None], add_prefix: bool
) -> bytes:
    """A `tokenizer.model` (ModelProto of sentencepiece_model.proto): pieces, trainer_spec, normalizer_spec."""
    pieces = [
        encode_field(1, encode_field(1, token.encode()) + b"\x15" + struct.pack("<f", score) + encode_field(3, kind))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    ]
    trainer = encode_field(3, 2) + encode_field(35, 1)  # model_type BPE, byte_fallback
    for number, name in ((45, "unk_token"), (46, "bos_token"), (47, "eos_token")):
        trainer += encode_field(number, (special[name] or "").encode())
    # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    flags = encode_field(3, int(add_prefix)) + encode_field(4, 0) + encode_field(5, 1)
    normalizer = encode_field(1, b"identity") + flags
    return b"".join(pieces) + encode_field(2, trainer) + encode_field(3, normalizer)
