"""Tokenizers of other programs' making, small enough to follow by hand; and when the fast encoder is trusted."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import pre_tokenizers

from tinyllama.errors import InputError
from tinyllama.tokenizer import bpe, encoders
from tinyllama.tokenizer.bpe import Tokenizer

PIECES = ["<unk>", "<s>", "</s>", "<0x41>", "<0x20>", "<0xe9>", "▁", "a", "b", "▁a", "ab", "▁ab"]
MERGES = [["a", "b"], ["▁", "ab"], ["▁", "a"]]


def special(token_id: int, content: str, **changes: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content} | flags | changes


def llama_form(**changes: Any) -> dict[str, Any]:
    """A `tokenizer.json` of Llama's form with a dozen pieces."""
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(i, PIECES[i]) for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, blanks]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "merges": MERGES,
            "vocab": {piece: i for i, piece in enumerate(PIECES)},
        },
    } | changes  # fmt: skip


def load(folder: Path, document: dict[str, Any], **names: str | None) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return Tokenizer.load(folder)


def refused(folder: Path, document: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, document)
    return str(caught.value)


# -- tokenizer.json ----------------------------------------------------------------------------------------------------


def test_ids_pieces_and_bytes_by_hand(tmp_path: Path):
    tokenizer = load(tmp_path, llama_form())
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 2, 12)
    assert tokenizer.encode("ab a") == [11, 9]
    assert tokenizer.encode("abA") == [11, 3]
    assert tokenizer.encode("a<s>")[0] == 9
    assert 1 not in tokenizer.encode("a<s>")
    assert [tokenizer.token_bytes(i) for i in range(12)] == [3, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 3]
    assert tokenizer.decode([1, 11, 9, 2]) == "ab a"
    assert tokenizer.decode([7, 9]) == "a a"  # a first piece without a blank loses none
    assert tokenizer.decode([6, 6, 7]) == " a"  # of two blanks one was written before the text
    assert tokenizer.decode([4, 7]) == " a"
    assert tokenizer.decode([5]) == "\ufffd"  # the byte E9, in small letters
    assert tokenizer.decode([0, 7]) == "\ufffda"
    assert tokenizer.decode([12, 7]) == "\ufffda"
    assert tokenizer.decode([]) == tokenizer.decode([1]) == ""
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            tokenizer.token_bytes(outside)


def test_no_bos_is_added_where_the_file_would_add_one(tmp_path: Path):
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    filled = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<unk>",
    }  # fmt: skip
    tokenizer = load(tmp_path, llama_form(post_processor=template, truncation=cut, padding=filled))
    for _ in range(2):  # by the reference, whatever the batch is encoded with
        assert tokenizer.encode("ab a ab a") == [11, 9, 11, 9]
        assert [ids.tolist() for ids in tokenizer.encode_batch(["ab a ab a", "a"])] == [[11, 9, 11, 9], [9]]
        tokenizer.__dict__["_batch_encoder"] = tokenizer._reference
    assert tokenizer.encode_batch(["a"])[0].dtype == np.int32
    assert tokenizer.decode(tokenizer.encode(" a")) == " a"  # the blank before a text is known all the same
    assert tokenizer.encode_batch([]) == []


def test_a_file_without_a_blank_before_the_text_keeps_the_texts_own(tmp_path: Path):
    document = llama_form()
    del document["normalizer"]["normalizers"][0]
    tokenizer = load(tmp_path, document)
    assert tokenizer.encode(" ab") == [11]
    assert tokenizer.decode([11]) == " ab"


@pytest.mark.parametrize(
    ("names", "special_ids"),
    [
        ({}, (1, 2, 0)),
        ({"bos_token": None, "eos_token": "<s>", "unk_token": "a"}, (None, 1, 7)),
        ({"bos_token": {"content": "</s>"}, "unk_token": None}, (2, 2, None)),
        ({"unk_token": "not there"}, (1, 2, None)),
    ],
)
def test_special_tokens_are_those_of_the_configuration(tmp_path: Path, names: dict[str, Any], special_ids: tuple):
    tokenizer = load(tmp_path, llama_form(), **names)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == special_ids
    assert tokenizer.decode([0, 7]) == {0: "\ufffda", 7: "\ufffd", None: "a"}[special_ids[2]]


def test_without_a_configuration_the_usual_names_count_in_their_order(tmp_path: Path):
    names = ["<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<s>", "</s>"]
    for first, (bos, eos) in enumerate([(3, 4), (1, 2), (0, 0)][::-1]):
        known = names[: 2 * first + 1]
        document = llama_form(added_tokens=[special(i, name) for i, name in enumerate(known)])
        document["model"] |= {"vocab": {piece: i for i, piece in enumerate([*known, "▁", "a"])}, "merges": []}
        document["model"] |= {"unk_token": None, "byte_fallback": False}
        tokenizer = load(tmp_path, document)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (bos, eos, None)


def test_an_added_token_that_is_not_special_is_text(tmp_path: Path):
    document = llama_form()
    document["added_tokens"] += [special(12, " tool▁", special=False), special(13, "<pad>")]
    tokenizer = load(tmp_path, document)
    assert tokenizer.encode("a tool▁") == [9, 12]
    assert (tokenizer.vocab_size, tokenizer.token(13)) == (14, "<pad>")
    assert tokenizer.decode([7, 12, 13, 7]) == "a tool▁a"
    assert (tokenizer.token_bytes(12), tokenizer.token_bytes(13)) == (8, 0)
    kept = json.loads(tokenizer._reference.without_special_tokens())
    assert [token["content"] for token in kept["added_tokens"]] == [" tool▁"]


def test_an_id_that_no_piece_has_is_empty(tmp_path: Path):
    document = llama_form()
    document["model"]["vocab"]["zz"] = 14
    tokenizer = load(tmp_path, document)
    assert (tokenizer.vocab_size, tokenizer.token(13), tokenizer.token_bytes(13)) == (15, "", 0)
    assert tokenizer.decode([7, 13, 14]) == "azz"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"type": "WordPiece"}}, "model type WordPiece, only BPE is read"),
        ({"model": {"type": "BPE", "vocab": {}}}, "model.vocab: it has no tokens"),
        (
            {"model": {"type": "BPE", "vocab": {"a": True}}},
            "token 'a' has the id True; ids are whole numbers below 1,048,576",
        ),
        ({"model": {"type": "BPE", "vocab": {"a": 2**20}}}, "token 'a' has the id 1048576"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}}}, "token 'a' has the id -1"),
        ({"added_tokens": [special(2**20, "x")]}, "token 'x' has the id 1048576"),
        ({"added_tokens": [special(5, "x"), special(6, "")]}, "added_tokens: one without content"),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BQAAAAA="}},
            "shorter than it says",
        ),  # 5 of 5 left
    ],
)
def test_what_is_no_tokenizer_json(tmp_path: Path, changes: dict[str, Any], words: str):
    line = refused(tmp_path, llama_form(**changes))
    if words == "shorter than it says":
        assert words not in line  # as long as it says is well; it fails elsewhere or not at all
        changes = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BgAAAAA="}}
        line = refused(tmp_path, llama_form(**changes))
    assert words in line
    assert line.startswith(f"{tmp_path / 'tokenizer.json'}: not a readable tokenizer, or a damaged one (")


def test_the_largest_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoders, "MAX_VOCAB_SIZE", 12)
    assert load(tmp_path, llama_form()).vocab_size == 12
    monkeypatch.setattr(encoders, "MAX_VOCAB_SIZE", 11)
    assert "has the id 11; ids are whole numbers below 11" in refused(tmp_path, llama_form())


def test_bytes_behind_gpt2s_stand_ins(tmp_path: Path):
    """Printable bytes stand for themselves, the others for U+0100 and on; 0x7F is the first of the second gap."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "日"]
    model = {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": []}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    form = llama_form(added_tokens=[], normalizer=None, model=model, pre_tokenizer=byte_level, decoder=byte_level)
    tokenizer = load(tmp_path, form)
    table = dict(zip(pieces, tokenizer._vocabulary.token_bytes, strict=True))
    by_hand = {
        "Ā": 0x00, "Ċ": 0x0A, "ğ": 0x1F, "Ġ": 0x20, "!": 0x21, "~": 0x7E, "ġ": 0x7F, "ł": 0xA0, "¡": 0xA1, "¬": 0xAC,
        "Ń": 0xAD, "®": 0xAE, "ÿ": 0xFF,
    }  # fmt: skip
    assert {piece: table[piece] for piece in by_hand} == {piece: bytes([byte]) for piece, byte in by_hand.items()}
    assert sorted(table[piece] for piece in alphabet) == [bytes([byte]) for byte in range(256)]
    assert table["日"] == "日".encode()
    assert tokenizer.decode(tokenizer.encode(" é")) == " é"
    assert tokenizer.unk_id is tokenizer.bos_id is None


# -- tokenizer.model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare_model(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without BOS, EOS and the blank before a text."""
    folder = tmp_path_factory.mktemp("bare")
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts[:100]), model_writer=(folder / "tokenizer.model").open("wb"), model_type="bpe",
        vocab_size=400, byte_fallback=True, bos_id=-1, eos_id=-1, unk_id=0, add_dummy_prefix=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=3,
    )  # fmt: skip
    return folder


def test_a_model_without_special_tokens_and_prefix(bare_model: Path):
    tokenizer = Tokenizer.load(bare_model)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (None, None, 0)
    for text in (" the", "the", "  a b"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode_batch([text])[0].tolist() == tokenizer.encode(text)
    assert sum(map(tokenizer.token_bytes, tokenizer.encode(" the\n"))) == 5
    assert tokenizer.decode([0]) == "\ufffd"


def test_which_file_is_read_and_what_is_kept_of_it(trained: Path, bare_model: Path, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(llama_form()))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": 5}')  # read for a tokenizer.json alone
    data = (bare_model / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data)
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.file_name, tokenizer.data, tokenizer.vocab_size) == ("tokenizer.model", data, 400)
    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (tokenizer.file_name, tokenizer.vocab_size) == ("tokenizer.json", 12)
    assert tokenizer.data == (tmp_path / "tokenizer.json").read_bytes()
    assert Tokenizer.load(trained).fingerprint != tokenizer.fingerprint


def test_a_file_may_be_as_large_as_the_limit(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert bpe.MAX_FILE_BYTES == 100_000_000
    size = (trained / "tokenizer.model").stat().st_size
    monkeypatch.setattr(bpe, "MAX_FILE_BYTES", size)
    Tokenizer.load(trained)
    monkeypatch.setattr(bpe, "MAX_FILE_BYTES", size - 1)
    with pytest.raises(InputError, match=f"larger than {size - 1:,} bytes; that is no tokenizer"):
        Tokenizer.load(trained)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(InputError, match="it has no tokens"):
        Tokenizer.load(tmp_path)


def test_a_lone_surrogate_is_named_with_its_place(tokenizer: Tokenizer):
    with pytest.raises(InputError) as caught:
        tokenizer.encode_batch(["fine", "ok \udfff"])
    assert str(caught.value) == "text: lone surrogate U+DFFF at character 3 is not valid Unicode"


# -- the fast encoder --------------------------------------------------------------------------------------------------


def test_the_texts_of_the_self_check():
    fixed = len(encoders._HARD_TEXTS)
    found = encoders.hard_texts([f"▁{number}" for number in range(250)])  # every second one
    assert found[fixed : fixed + 2] == [" 0 1 249", " 2 3 247"]
    assert len(found) == fixed + 125 + 1
    assert found[-1] == "".join(f" {number}" for number in range(0, 250, 2))
    few = encoders.hard_texts(["a", "b", "c"])
    assert few[fixed:] == ["abc", "bcb", "abc"]
    assert {"", " ", " " * 40, "a" * 17, "ab" * 9, "a\0b", "<s>"} <= set(found[:fixed])


@pytest.mark.parametrize("place", [0, 10, -2, -1])
def test_one_differing_text_is_enough_to_distrust_it(
    trained: Path, place: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("gigatoken")
    plain = Tokenizer.load(trained)
    wrong = encoders.hard_texts(plain._vocabulary.tokens)[place]
    whole = encoders.GigatokenEncoder.encode
    monkeypatch.setattr(
        encoders.GigatokenEncoder, "encode", lambda self, text: [5] if text == wrong else whole(self, text)
    )
    assert plain._batch_encoder is plain._reference
    assert "gigatoken gave other ids in the self-check" in " ".join(capsys.readouterr().err.split())


def test_what_the_fast_encoder_refuses_goes_to_the_reference(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def panic(text: str) -> None:
        raise BaseException("panicked\nat")

    fake = SimpleNamespace(Tokenizer=SimpleNamespace(from_json=panic))
    monkeypatch.setitem(sys.modules, "gigatoken", fake)
    tokenizer = Tokenizer.load(trained)
    assert tokenizer._batch_encoder is tokenizer._reference
    assert "sentencepiece encodes (gigatoken refused: panicked)" in " ".join(capsys.readouterr().err.split())

    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    fake.Tokenizer.from_json = interrupted
    with pytest.raises(KeyboardInterrupt):
        Tokenizer.load(trained)._batch_encoder  # noqa: B018
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert Tokenizer.load(trained)._batch_encoder.name == "sentencepiece"
    assert "but not installed" in " ".join(capsys.readouterr().err.split())


def test_the_fast_encoder_is_made_anew_after_so_many_characters(monkeypatch: pytest.MonkeyPatch):
    made: list[str] = []

    class Fast:
        def encode(self, text: str) -> np.ndarray:
            return np.array([len(made), 2**31 + 5], dtype=np.uint32)

    monkeypatch.setattr(encoders, "RENEW_AFTER_CHARACTERS", 10)
    fake = SimpleNamespace(Tokenizer=SimpleNamespace(from_json=lambda text: made.append(text) or Fast()))
    monkeypatch.setitem(sys.modules, "gigatoken", fake)
    encoder = encoders.GigatokenEncoder("the file")
    generations = [encoder.encode("éa345")[0] for _ in range(7)]  # 5, 10, 15 | 5, 10, 15 | 5 characters
    assert generations == [1, 1, 1, 2, 2, 2, 3]
    assert made == ["the file"] * 3
    batch = encoder.encode_batch(["a", "b"])
    assert [ids.dtype for ids in batch] == [np.int32] * 2
    assert encoder.name == "gigatoken"


def test_messages_are_cut(tmp_path: Path):
    line = refused(tmp_path, llama_form(model={"type": "BPE", "vocab": {"x" * 500: -1}}))
    assert line.count("x") == 200 - len("piece '")
    with pytest.raises(InputError) as caught:
        load(tmp_path, llama_form(), eos_token={"content": ["€" * 500]})  # pyright: ignore[reportArgumentType]
    assert str(caught.value).count("€") == 80 - len("{'content': ['")
