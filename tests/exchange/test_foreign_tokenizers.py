"""Tokenizers of others, as sentencepiece trains them with other settings, on their way out."""

import io
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer

from tests.tiny_model import tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.gguf import export_gguf
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import OpenedModel, open_tokenizer
from tinyllama.tokenizer.bpe import MODEL_FILE, Tokenizer
from tinyllama.tokenizer.sentencepiece_proto import user_defined_pieces

pytest.importorskip("gguf")

PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}


def opened_with(folder: Path, texts: list[str], **settings: Any) -> OpenedModel:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n") if line),
        model_writer=model, model_type="bpe", vocab_size=512, minloglevel=3, **settings,
    )  # fmt: skip
    (folder / MODEL_FILE).write_bytes(model.getvalue())
    network = tiny_llama()
    return OpenedModel(network, network.config, Tokenizer.load(folder), folder, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"normalization_rule_name": "nmt_nfkc", "byte_fallback": True},
        PLAIN | {"remove_extra_whitespaces": True},
        PLAIN | {"add_dummy_prefix": False},
        PLAIN | {"user_defined_symbols": ["[DOC_1]"]},
    ],
)
def test_what_no_tokenizer_json_can_say_is_refused(
    reference_texts: list[str], tmp_path: Path, settings: dict[str, Any]
):
    opened = opened_with(tmp_path, reference_texts, **settings)
    with pytest.raises(InputError, match=r"put its author's tokenizer\.json beside it"):
        export_hugging_face(opened, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_user_defined_pieces_stay_so_in_a_gguf(reference_texts: list[str], tmp_path: Path):
    opened = opened_with(tmp_path, reference_texts, **PLAIN, user_defined_symbols=["[DOC_1]"])
    path = tmp_path / "out" / export_gguf(opened, tmp_path / "out", "f32")["files"][0]
    again = open_tokenizer(path)
    assert user_defined_pieces(again.data) == ["[DOC_1]"]
    text = "see [DOC_1] there"
    assert again.encode(text) == opened.tokenizer.encode(text)
    assert "[DOC_1]" in [again.token(i) for i in again.encode(text)]
