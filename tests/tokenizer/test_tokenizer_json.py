import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tinyllama.tokenizer.tokenizer_json import merges, to_tokenizer_json


class TinyModel:
    """Pieces with scores as sentencepiece reports them, written by hand."""

    PIECES = (("<unk>", 0.0), ("a", -9.0), ("b", -10.0), ("ab", -1.0), ("ba", -2.0), ("aba", -3.0), ("abab", -4.0))

    def get_piece_size(self):
        return len(self.PIECES)

    def id_to_piece(self, i):
        return self.PIECES[i][0]

    def get_score(self, i):
        return self.PIECES[i][1]

    def is_unknown(self, i):
        return i == 0

    def is_control(self, i):
        return False

    is_byte = is_unused = is_control


def test_merges_by_score_then_the_longer_left_part():
    found = merges(TinyModel())  # pyright: ignore[reportArgumentType]
    assert found == [("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba"), ("aba", "b"), ("ab", "ab")]


def test_the_form_that_other_programs_read(trained: Path):
    document = json.loads((trained / "tokenizer.json").read_text())
    assert document["pre_tokenizer"] is None
    assert [part["type"] for part in document["normalizer"]["normalizers"]] == ["Prepend", "Replace"]
    assert document["model"]["byte_fallback"] is True
    assert [token["content"] for token in document["added_tokens"]] == ["<unk>", "<s>", "</s>"]
    model = SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    assert json.loads(to_tokenizer_json(model, with_special_tokens=False))["added_tokens"] == []


@given(st.text("abcdeinorst ▁\n<>é\0", max_size=200))
@settings(max_examples=300, deadline=None)
def test_another_program_decodes_as_it_encoded(trained: Path, text: str):
    reader = HuggingFaceTokenizer.from_file(str(trained / "tokenizer.json"))
    reader.encode_special_tokens = True
    ids = reader.encode(text, add_special_tokens=False).ids
    assert reader.decode(ids, skip_special_tokens=False) == text.replace("▁", " ")


class OddModel(TinyModel):
    """With a control piece, a byte and an unused piece, whose parts look like those of a pair."""

    PIECES = (
        ("<unk>", 0.0), ("a", -9.0), ("b", -10.0), ("c", -11.0), ("bc", -3.0), ("ab", -1.0), ("abc", -1.0), ("ac", -2.0),
        ("ca", -2.5), ("cb", -2.7),
    )  # fmt: skip

    def is_control(self, i):
        return self.PIECES[i][0] == "ac"

    def is_byte(self, i):
        return self.PIECES[i][0] == "ca"

    def is_unused(self, i):
        return self.PIECES[i][0] == "cb"


def test_special_byte_and_unused_pieces_are_never_joined():
    found = merges(OddModel())  # pyright: ignore[reportArgumentType]
    assert found == [
        ("ab", "c"),
        ("a", "bc"),
        ("a", "b"),
        ("b", "c"),
    ]  # of equals the longer left, then the longer right


def test_the_whole_form_by_hand(trained: Path):
    document = json.loads((trained / "tokenizer.json").read_text())
    reference = SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    model = document.pop("model")
    assert model.pop("vocab") == {reference.id_to_piece(i): i for i in range(1000)}
    assert len(model.pop("merges")) > 600
    assert model == {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
    }  # fmt: skip
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [{"id": i, "content": text} | flags for i, text in enumerate(("<unk>", "<s>", "</s>"))]
    assert document.pop("added_tokens") == special
    to_blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    from_blank = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    assert document == {
        "version": "1.0", "truncation": None, "padding": None, "pre_tokenizer": None, "post_processor": None,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, to_blank]},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                from_blank, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    }  # fmt: skip
