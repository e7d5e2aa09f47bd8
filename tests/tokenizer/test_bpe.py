import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from tinyllama.errors import InputError
from tinyllama.files import sha256_file
from tinyllama.tokenizer import encoders
from tinyllama.tokenizer.bpe import Tokenizer

HARD = [
    *(
        " ",
        "   leading and trailing   ",
        "a\n\n\tb\r\n",
        "👩\u200d👩\u200d👧 👍🏽",
        "שלום עולם \u202e abc",
        "\0\x01\x1b\x7f",
    ),
    *("<s>", "</s><unk><s> x", "<0x0A>", "日本語、中文。", "e\u0301\u0327", "\U0010ffff\ufffe", "\ufeff x", "a" * 300),
    " " * 300,
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
word_text = st.text("aeinorst <s>/_▁\n\t0123é你", max_size=60)


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_round_trip_by_every_path(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text])[0].tolist() == ids
    assert tokenizer.bos_id not in ids
    assert tokenizer.eos_id not in ids
    assert tokenizer.unk_id not in ids


@given(any_text | word_text)
@settings(max_examples=400, deadline=None)
def test_sentencepiece_tokenizers_and_gigatoken_agree_and_text_comes_back(
    trained: Path, tokenizer: Tokenizer, text: str
):
    ids = tokenizer.encode(text)
    assert ids == SentencePieceProcessor(model_file=str(trained / "tokenizer.model")).encode(text)
    assert ids == tokenizer.encode_batch([text])[0].tolist()
    reader = HuggingFaceTokenizer.from_file(str(trained / "tokenizer.json"))
    reader.encode_special_tokens = True
    assert ids == reader.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text.replace("▁", " ")


def test_real_text_is_the_same_by_every_encoder(trained: Path, tokenizer: Tokenizer, texts: list[str]):
    alone = Tokenizer.load(trained / "tokenizer.json")
    batch = tokenizer.encode_batch(texts)
    assert all(found.dtype == np.int32 for found in batch)
    for text, found in zip(texts, batch, strict=True):
        assert found.tolist() == tokenizer.encode(text) == alone.encode(text)
        assert tokenizer.decode(found) == alone.decode(found) == text


def test_gigatoken_is_in_use_and_gives_way_when_it_differs(trained: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gigatoken")
    assert Tokenizer.load(trained)._batch_encoder.name == "gigatoken"
    monkeypatch.setattr(encoders.GigatokenEncoder, "encode", lambda self, text: [5])
    assert Tokenizer.load(trained)._batch_encoder.name == "sentencepiece"


def test_without_gigatoken_the_reference_encodes(trained: Path, monkeypatch: pytest.MonkeyPatch):
    expected = Tokenizer.load(trained).encode("some text")
    monkeypatch.setitem(__import__("sys").modules, "gigatoken", None)
    tokenizer = Tokenizer.load(trained)
    assert tokenizer._batch_encoder.name == "sentencepiece"
    assert tokenizer.encode_batch(["some text"])[0].tolist() == expected


def test_gigatoken_made_anew_gives_the_same_ids(trained: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch):
    expected = Tokenizer.load(trained).encode_batch(texts[:50])
    monkeypatch.setattr(encoders, "RENEW_AFTER_CHARACTERS", 100)
    again = Tokenizer.load(trained).encode_batch(texts[:50])
    assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))


@given(st.lists(st.integers(-(2**70), 2**70) | st.integers(0, 999), max_size=30))
@settings(max_examples=300, deadline=None)
def test_decoding_any_ids_gives_text(tokenizer: Tokenizer, ids: list[int]):
    tokenizer.decode(ids).encode("utf-8")


@given(st.lists(st.integers(259, 999), max_size=30))
@settings(max_examples=200, deadline=None)
def test_decoding_is_sentencepieces(trained: Path, tokenizer: Tokenizer, ids: list[int]):
    reference = SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.decode([1, *ids, 2]) == reference.decode([1, *ids, 2])


def test_what_has_no_text_and_what_is_broken(tokenizer: Tokenizer):
    byte = {int(tokenizer.token(i)[3:5], 16): i for i in range(3, 259)}
    assert tokenizer.decode([1, 2]) == ""
    assert tokenizer.decode([1000]) == tokenizer.decode([-1]) == "\ufffd"
    assert tokenizer.decode([byte[0xE4], byte[0xBD], byte[0xA0]]) == "你"
    assert tokenizer.decode([byte[0xE4], byte[0xBD]]) == "\ufffd"
    assert tokenizer.decode([byte[0xFF], byte[0x41]]) == "\ufffdA"
    assert tokenizer.decode([byte[0x20], byte[0x41]]) == " A"  # a blank written by its byte is not the prefix
    assert tokenizer.decode(np.array([byte[0x41]], dtype=np.uint16)) == "A"


def test_token_bytes_sum_to_the_text_and_its_prefix(tokenizer: Tokenizer, texts: list[str]):
    for text in [*texts[:20], *HARD]:
        assert sum(map(tokenizer.token_bytes, tokenizer.encode(text))) == len(text.encode()) + 1
    assert tokenizer.token_bytes(1) == tokenizer.token_bytes(2) == 0


def test_pieces_and_ids(tokenizer: Tokenizer, trained: Path):
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 2, 1000)
    assert [tokenizer.token(i) for i in (0, 1, 2, 3, 258)] == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert tokenizer.fingerprint == sha256_file(trained / "tokenizer.model")
    for outside in (-1, 1000):
        with pytest.raises(IndexError, match="vocabulary of 1000"):
            tokenizer.token(outside)


@pytest.mark.parametrize("text", ["\ud800", "ok then \udfff no"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str):
    with pytest.raises(InputError, match="lone surrogate U\\+D"):
        tokenizer.encode(text)
    with pytest.raises(InputError, match="lone surrogate U\\+D"):
        tokenizer.encode_batch(["fine", text])


def test_missing_files_are_one_line(tmp_path: Path):
    with pytest.raises(InputError, match="no such file or folder"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no tokenizer\.model or tokenizer.json"):
        Tokenizer.load(tmp_path)


def test_a_model_file_under_any_name_and_the_model_before_the_json(trained: Path, tmp_path: Path):
    shutil.copy(trained / "tokenizer.model", tmp_path / "llama.model")
    assert Tokenizer.load(tmp_path / "llama.model").fingerprint == Tokenizer.load(trained).fingerprint


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"{}"])
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_damaged_files_load_or_are_refused_and_nothing_else(trained: Path, tmp_path: Path, name: str):
    whole = (trained / name).read_bytes()
    path = tmp_path / name
    refused = 0
    for seed in range(40):
        dice = random.Random(seed)
        data = bytearray(whole)
        data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data[: dice.randrange(len(data))] if seed % 2 else data)
        try:
            Tokenizer.load(path).encode("some text")
        except InputError:
            refused += 1
    assert refused >= 20


def _lie(document: dict[str, Any], lie: str) -> None:
    model = document["model"]
    added = {
        "content": "q",
        "special": False,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": True,
    }
    match lie:
        case "a piece of a huge id":
            model["vocab"]["q"] = 2**32 - 1
        case "a piece of a negative id":
            model["vocab"]["q"] = -1
        case "a piece whose id is text":
            model["vocab"]["q"] = "7"
        case "no pieces":
            model["vocab"], model["merges"] = {}, []
        case "pieces in a list":
            model["vocab"] = [["a", 0.0]]
        case "an added token of a huge id":
            document["added_tokens"].append(added | {"id": 2**32 - 1})
        case "an added token without content":
            document["added_tokens"].append(added | {"id": 5, "content": ""})
        case "a prefix that cuts characters in two":
            model["continuing_subword_prefix"] = "\0"
        case "a part that fails only at work":
            document["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
        case "a table shorter than it says":
            document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "//8A/////w=="}
        case "a merge of pieces that are not there":
            model["merges"].append(["no such", "pieces"])
        case "another kind of model":
            model["type"] = "Unigram"
        case "an array":
            document["model"] = []


LIES = (
    "a piece of a huge id", "a piece of a negative id", "a piece whose id is text", "no pieces", "pieces in a list",
    "an added token of a huge id", "an added token without content", "a prefix that cuts characters in two",
    "a part that fails only at work", "a merge of pieces that are not there",
    "a table shorter than it says", "another kind of model", "an array",
)  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_tokenizer_json_that_lies_is_refused_in_one_line(trained: Path, tmp_path: Path, lie: str):
    document = json.loads((trained / "tokenizer.json").read_text())
    _lie(document, lie)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pattern_without_end_is_an_error_of_the_text(trained: Path, tmp_path: Path):
    document = json.loads((trained / "tokenizer.json").read_text())
    pattern = {"Regex": "(x+x+)+y"}  # tries every way of dividing the letters
    document["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = Tokenizer.load(tmp_path)
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(InputError, match="retry-limit"):
            encode("x" * 1000)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_file_too_large_is_not_read(tmp_path: Path, name: str):
    with (tmp_path / name).open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(InputError, match=f"{name}: larger than"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("▁the", "'▁the', is no special token"),
        ("<no such>", "'<no such>', is no special token"),
        ({"content": "a"}, "'a', is no special token"),
        (5, "bos_token: 5 must be a token's text, or null"),
        ({"content": [1]}, "must be a token's text"),
    ],
)
def test_a_tokenizer_config_that_lies(trained: Path, tmp_path: Path, value: Any, message: str):
    shutil.copy(trained / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": value}))
    with pytest.raises(InputError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "5", "{", '{"eos_token": "</s>", "bos_token": null}'])
def test_a_tokenizer_config_of_another_shape(trained: Path, tmp_path: Path, content: str):
    shutil.copy(trained / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    if "null" in content:
        tokenizer = Tokenizer.load(tmp_path)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (None, 2, 0)
    else:
        with pytest.raises(InputError, match=r"tokenizer_config\.json: not"):
            Tokenizer.load(tmp_path)


def test_a_byte_level_tokenizer_of_another_program(tmp_path: Path, texts: list[str]):
    foreign = HuggingFaceTokenizer(models.BPE())
    foreign.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    foreign.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    foreign.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    foreign.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_id == 0
    assert tokenizer.unk_id is None
    for text in [*texts[:30], *HARD, "a▁b <|endoftext|>"]:
        ids = tokenizer.encode(text)
        assert 0 not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_batch([text])[0].tolist() == ids
        assert sum(map(tokenizer.token_bytes, ids)) == len(text.encode())


def test_a_sentencepiece_model_that_normalises_is_read_as_it_is(tmp_path: Path, texts: list[str]):
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=600, minloglevel=3
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = Tokenizer.load(tmp_path)
    reference = SentencePieceProcessor(model_proto=model.getvalue())
    for text in ["ｆｕｌｌ  width", *texts[:20]]:
        assert tokenizer.encode_batch([text])[0].tolist() == tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.decode(tokenizer.encode("two  blanks")) == "two blanks"
