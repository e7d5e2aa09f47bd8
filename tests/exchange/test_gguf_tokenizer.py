"""A tokenizer as GGUF metadata: scores, kinds of pieces, special tokens and padding, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyllama.errors import InputError
from tinyllama.exchange import gguf_tokenizer
from tinyllama.exchange.gguf_format import NumberList
from tinyllama.exchange.gguf_tokenizer import (
    _from_llama_json,
    _pre_tokenizer_steps,
    adds_bos,
    tokenizer_from_metadata,
    tokenizer_to_metadata,
)
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.sentencepiece_proto import _varint

K = "tokenizer.ggml."
X = Path("x.gguf")


@pytest.fixture(scope="module")
def tokenizer(prepared_run: Path) -> Tokenizer:
    return Tokenizer.load(prepared_run / "tokenizer")


@pytest.fixture(scope="module")
def metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    return tokenizer_to_metadata(tokenizer, 512, True, X)


def changed(metadata: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The metadata with some keys changed; None takes one away."""
    found = metadata | {K + key: value for key, value in changes.items()}
    return {key: value for key, value in found.items() if value is not None}


def test_metadata_of_a_sentencepiece_model(tokenizer: Tokenizer, metadata: dict[str, Any]):
    assert {key: value for key, value in metadata.items() if not isinstance(value, list)} == {
        K + "model": "llama", K + "pre": "default", K + "bos_token_id": 1, K + "eos_token_id": 2,
        K + "unknown_token_id": 0, K + "add_bos_token": True, K + "add_eos_token": False, K + "add_space_prefix": True,
    }  # fmt: skip
    tokens, scores, types = (metadata[K + name] for name in ("tokens", "scores", "token_type"))
    assert tokens == [tokenizer.token(n) for n in range(512)]
    assert types[:3] == [2, 3, 3]  # unknown, control, control
    assert types[3:259] == [6] * 256
    assert set(types[259:]) == {1}
    assert scores[259:262] == [0.0, -1.0, -2.0]
    assert len(scores) == len(types) == 512


def test_rows_beyond_the_tokenizer_get_unused_names(tokenizer: Tokenizer, metadata: dict[str, Any]):
    padded = tokenizer_to_metadata(tokenizer, 515, False, X)
    assert padded[K + "tokens"] == [*metadata[K + "tokens"], "[PAD512]", "[PAD513]", "[PAD514]"]
    assert padded[K + "token_type"] == [*metadata[K + "token_type"], 5, 5, 5]
    assert padded[K + "scores"] == [*metadata[K + "scores"], -10_000.0, -10_000.0, -10_000.0]
    assert padded[K + "add_bos_token"] is False
    assert tokenizer_from_metadata(padded, X).encode("[PAD512]") == tokenizer.encode("[PAD512]")


def test_ids_are_held_against_the_tokenizers(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    whole = gguf_tokenizer.tokenizer_from_metadata

    def upside_down(metadata: dict[str, Any], origin: Path) -> Tokenizer:
        scores = [-1000.0 - score for score in metadata[K + "scores"]]
        return whole(metadata | {K + "scores": scores}, origin)

    monkeypatch.setattr(gguf_tokenizer, "tokenizer_from_metadata", upside_down)
    with pytest.raises(InputError, match="gives the same ids as this one"):
        tokenizer_to_metadata(tokenizer, 512, True, X)


def test_what_was_written_is_the_same_tokenizer(tokenizer: Tokenizer, metadata: dict[str, Any]):
    again = tokenizer_from_metadata(metadata, X)
    assert again.file_name == MODEL_FILE
    assert (again.bos_id, again.eos_id, again.unk_id, again.vocab_size) == (1, 2, 0, 512)
    for text in (" The name", "The  name", "a\tb\n\n", "π🙂", "<s> </s>", ""):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == text
    without = tokenizer_from_metadata(changed(metadata, add_space_prefix=False), X)
    assert without.encode(" The") == tokenizer.encode("The")
    assert tokenizer_from_metadata(changed(metadata, add_space_prefix=None), X).encode("The") == tokenizer.encode("The")
    exchanged = tokenizer_from_metadata(changed(metadata, bos_token_id=2, eos_token_id=1), X)
    assert (exchanged.bos_id, exchanged.eos_id, exchanged.unk_id) == (2, 1, 0)
    as_file = {key: NumberList(np.array(value)) for key, value in metadata.items() if "scores" in key or "type" in key}
    assert tokenizer_from_metadata(metadata | as_file, X).encode("The name") == tokenizer.encode("The name")


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "unknown_token_id"])
def test_special_tokens_are_ids_of_tokens(metadata: dict[str, Any], key: str):
    for bad in (512, -1, "1", 1.0):
        with pytest.raises(InputError, match=f"{K}{key}: .*{bad}"):
            tokenizer_from_metadata(changed(metadata, **{key: bad}), X)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokens: missing"),
        ({"tokens": []}, "tokens: [] must have at least 1 item"),
        ({"tokens": "abc"}, "tokens: 'abc' must be a valid list"),
        ({"scores": None}, "scores: missing, or not 512 numbers, one for each token"),
        ({"scores": [0.0] * 511}, "scores: missing"),
        ({"scores": [0.0] * 513}, "scores: missing"),
        ({"scores": [0.0] * 511 + [3.5e38]}, "scores.511: 3.5e+38 must be less than or equal to 34000"),
        ({"scores": [0.0] * 511 + [float("nan")]}, "scores.511: nan must be a finite number"),
        ({"scores": NumberList(np.zeros(513))}, "scores: missing"),
        ({"token_type": [1] * 511}, "token_type: missing"),
        ({"model": None}, "model: missing"),
        ({"model": "b" * 99}, f"model: '{'b' * 12}...{'b' * 13}' must be 'llama' or 'gpt2'"),
    ],
)
def test_what_a_tokenizer_cannot_be_made_of_is_named(metadata: dict[str, Any], changes: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        tokenizer_from_metadata(changed(metadata, **changes), X)
    assert K + message in str(caught.value)


def test_two_million_tokens_are_the_most(metadata: dict[str, Any]):
    assert gguf_tokenizer.MAX_TOKENS == 2_000_000
    tokenizer_from_metadata(changed(metadata, scores=[3.4e38] * 256 + [-3.4e38] * 256), X)
    for key, values in (("tokens", ["a"] * 2_000_001), ("scores", NumberList(np.zeros(2_000_001)))):
        with pytest.raises(InputError, match=f"{key}: .* must (have at most 2000000 items|be a valid list)"):
            tokenizer_from_metadata(changed(metadata, **{key: values}), X)


@pytest.mark.parametrize(
    ("values", "adds"),
    [
        ({"add_bos_token": True, "model": "gpt2"}, True),
        ({"add_bos_token": False, "model": "llama"}, False),
        ({"model": "llama"}, True),
        ({"model": "gpt2"}, False),
        ({"add_bos_token": 1, "model": "llama"}, False),
        ({}, False),
    ],
)
def test_bos_as_the_file_says_or_as_llama_cpp_takes_it(values: dict[str, Any], adds: bool):
    assert adds_bos({K + key: value for key, value in values.items()}) is adds


PIECES = ["<bos>", "<eos>", "a", "b", "c", "Ġ", "1", "2", "ab", "abc", "Ġa", "12", "<call>"]

TYPES = [3, 3, *[1] * 10, 4, 1]


def byte_level(pre: str = "gpt-2", **changes: Any) -> dict[str, Any]:
    values = {"model": "gpt2", "pre": pre, "tokens": PIECES, "merges": ["a b", "ab c", "Ġ a", "1 2"], "bos_token_id": 0,
              "eos_token_id": 1, "token_type": [3, 3, *[1] * 10, 4]}  # fmt: skip
    return changed({K + key: value for key, value in values.items()}, **changes)


def test_a_byte_level_tokenizer_by_hand():
    found = tokenizer_from_metadata(byte_level(), X)
    assert found.file_name == JSON_FILE
    assert (found.bos_id, found.eos_id, found.unk_id) == (0, 1, None)
    assert found.encode("abc ab12 a<call>") == [9, 5, 8, 11, 10, 12]
    assert tokenizer_from_metadata(byte_level("smollm"), X).encode("ab12") == [8, 6, 7]
    for name in ("llama-bpe", "llama3", "llama-v3"):  # a word that is a piece is taken whole, whatever the merges
        whole = tokenizer_from_metadata(byte_level(name, merges=["b c"], tokens=[*PIECES, "bc"], token_type=TYPES), X)
        assert whole.encode("abc") == [9]
    pairs = tokenizer_from_metadata(byte_level(merges=["b c"], tokens=[*PIECES, "bc"], token_type=TYPES), X)
    assert pairs.encode("abc") == [2, 13]
    document = json.loads(found.data)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    assert document["added_tokens"] == [
        {"id": 0, "content": "<bos>", **flags, "special": True},
        {"id": 1, "content": "<eos>", **flags, "special": True},
        {"id": 12, "content": "<call>", **flags, "special": False},
    ]
    assert document["model"]["vocab"] == {piece: n for n, piece in enumerate(PIECES)}
    assert (document["model"]["byte_fallback"], document["model"]["fuse_unk"]) == (False, False)
    assert document["decoder"]["type"] == "ByteLevel"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": None}, "pre: 'None' must be one of gpt-2, smollm, llama-bpe"),
        ({"pre": "qwen2"}, "pre: 'qwen2'"),
        ({"merges": ["a b", "abc"]}, "merges: missing, or an entry that is not two tokens"),
        ({"merges": ["a b c"]}, "merges: missing, or an entry that is not two tokens"),
        ({"merges": None}, "merges: missing"),
    ],
)
def test_what_a_byte_level_tokenizer_cannot_be_made_of_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        tokenizer_from_metadata(byte_level(**changes), X)
    assert K + message in str(caught.value)


def test_a_byte_level_tokenizer_is_written_as_it_was_read():
    found = tokenizer_to_metadata(tokenizer_from_metadata(byte_level("smollm"), X), 15, True, X)
    assert found == byte_level(
        "smollm", tokens=[*PIECES, "[PAD13]", "[PAD14]"], token_type=[3, 3, *[1] * 10, 4, 5, 5], add_bos_token=True,
        add_eos_token=False, add_space_prefix=False,
    )  # fmt: skip
    without_bos = tokenizer_from_metadata(byte_level(bos_token_id=None), X)
    assert tokenizer_to_metadata(without_bos, 13, True, X)[K + "add_bos_token"] is False


class Pieces:
    """As much of a tokenizer as scores are made from."""

    unk_id = 0

    def token(self, token_id: int) -> str:
        return "▁x"

    def encode(self, text: str) -> list[int]:
        return [0]


def test_a_score_is_the_place_of_the_first_pair_that_makes_the_piece():
    pieces = ["<unk>", "<s>", "<0x41>", "<0x4>", "a", "b", "ab", "abb", "<0x42>"]
    merges = [["a", "b"], ["ab", "b"], ["a", "bb"]]
    given: Any = Pieces()
    found = _from_llama_json(pieces, [1, 3, 1, 1, 1, 1, 1, 1, 4], merges, given)
    assert found[K + "scores"] == [0, 0, 0, 0, 0, 0, -1, -2, 0]
    assert found[K + "token_type"] == [2, 3, 6, 1, 1, 1, 1, 1, 4]
    assert (found[K + "model"], found[K + "pre"], found[K + "add_space_prefix"]) == ("llama", "default", True)


def test_steps_of_a_pre_tokenizer_in_one_form():
    split: dict[str, Any] = {"type": "Split", "behavior": "Isolated"}
    short: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False}
    whole = short | {"use_regex": True, "trim_offsets": True}
    assert _pre_tokenizer_steps(None) == []
    assert _pre_tokenizer_steps(short) == _pre_tokenizer_steps(short | {"trim_offsets": False}) == [whole]
    assert _pre_tokenizer_steps({"type": "Sequence", "pretokenizers": [split, short | {"use_regex": False}]}) == [
        split,
        whole | {"use_regex": False},
    ]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0, b"\0"), (1, b"\1"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (2**14, b"\x80\x80\x01")],
)
def test_whole_numbers_of_a_protocol_buffer(value: int, wanted: bytes):
    assert _varint(value) == wanted
