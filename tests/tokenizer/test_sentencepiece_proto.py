import io
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tinyllama.errors import InputError
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.tokenizer.sentencepiece_proto import user_defined_pieces, without_thread_count
from tinyllama.tokenizer.tokenizer_json import to_tokenizer_json


@pytest.fixture(scope="module")
def with_user_defined(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of others that matches some pieces before it joins pairs."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=3,
        user_defined_symbols=["[DOC_1]", "\u2581\u2581"], control_symbols=["[INST]"],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("foreign") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def test_the_thread_count_leaves_the_model(trained: Path):
    model = (trained / "tokenizer.model").read_bytes()
    assert without_thread_count(model) == model
    # one piece (field 1), then settings (field 2) of num_threads = 300 (field 16) and vocab_size = 5 (field 4)
    settings = b"\x80\x01\xac\x02" + b"\x20\x05"
    assert without_thread_count(b"\x0a\x01x\x12\x06" + settings) == b"\x0a\x01x\x12\x02\x20\x05"


def test_user_defined_pieces_are_found(with_user_defined: Path, trained: Path):
    assert user_defined_pieces(with_user_defined.read_bytes()) == ["[DOC_1]", "▁▁"]
    assert user_defined_pieces((trained / "tokenizer.model").read_bytes()) == []
    # pieces (field 1) with text (field 1) and type (field 3): normal, user-defined, control
    pieces = [
        b"\x0a\x05\x0a\x01" + text + b"\x18" + kind for text, kind in ((b"a", b"\1"), (b"b", b"\4"), (b"c", b"\3"))
    ]
    assert user_defined_pieces(b"".join(pieces)) == ["b"]


def test_a_model_with_user_defined_pieces_is_encoded_by_the_reference(with_user_defined: Path):
    tokenizer = Tokenizer.load(with_user_defined)
    reference = SentencePieceProcessor(model_file=str(with_user_defined))
    for text in ("a [DOC_1] b", "[DOC_1]x", "[DOC_1][DOC_1]  c", "[INST] </s>", "x  y"):
        ids = reference.encode(text)
        assert tokenizer.encode(text) == tokenizer.encode_batch([text])[0].tolist() == ids
        assert reference.piece_to_id("[INST]") not in ids
        assert tokenizer.decode(ids) == text


def test_it_is_not_written_as_a_tokenizer_json_that_would_differ(with_user_defined: Path):
    with pytest.raises(InputError, match=r"2 user-defined tokens, such as '\[DOC_1\]'"):
        to_tokenizer_json(SentencePieceProcessor(model_file=str(with_user_defined)))


@pytest.mark.parametrize("length", [125, 126, 127, 128, 300])
def test_lengths_of_settings_in_one_and_two_bytes(length: int):
    """The settings: a text (field 1) that fills them, the threads (field 16) before and after it."""
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    text = b"\x0a" + size + b"x" * length
    threads = b"\x80\x01\x04"

    def model(settings: bytes) -> bytes:
        count = len(settings)
        return (
            b"\x12" + (bytes([count]) if count < 128 else bytes([count & 127 | 128, count >> 7])) + settings + b"\x0a\0"
        )

    assert without_thread_count(model(threads + text + threads)) == model(text)
    assert without_thread_count(model(text)) == model(text)


def test_fields_of_fixed_length_and_pieces_without_a_type_are_passed_over():
    fixed = b"\x09" + b"\x12" * 8 + b"\x1d" + b"\x0a" * 4  # field 1 of 8 bytes, field 3 of 4
    plain = b"\x0a\x03\x0a\x01p"
    score = b"\x15" + b"\x18" * 4  # field 2 of a piece, its score
    wanted = b"\x0a\x0a\x0a\x01q" + score + b"\x18\x04"
    assert user_defined_pieces(plain + fixed[9:] + wanted) == ["q"]
    assert without_thread_count(plain + fixed) == plain + fixed
    other = b"\x0a\x06\x0a\x01r\x18\x84\x01"  # type 132, in two bytes
    assert user_defined_pieces(other + wanted) == ["q"]
    assert user_defined_pieces(b"\x1a" + wanted[1:]) == []  # field 3 of the model holds no pieces
