"""A GGUF that we write is the same model: read back here, and in llama.cpp where it is installed."""

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceTrainer

from tests.tiny_model import make_run, random_tokens, tiny_llama
from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError, MissingExtraError
from tinyllama.exchange.gguf import export_gguf
from tinyllama.exchange.gguf_tokenizer import tokenizer_from_metadata, tokenizer_to_metadata
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import OpenedModel, open_model, open_tokenizer
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.encoders import hard_texts

pytest.importorskip("gguf")

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"dim": 64},
    "tied": {"tied_head": True, "n_kv_heads": 4},
    "free head_dim": {"head_dim": 12, "n_kv_heads": 1, "rope_theta": 1e5, "norm_eps": 1e-6},
    "linear rope": {"rope_scaling": "linear", "rope_factor": 4.0},
    "llama3 rope": {
        "rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_seq_len": 24, "rope_theta": 500.0, "head_dim": 32,
    },
    "article-1.1b scaled down": {"dim": 96, "n_heads": 16, "n_kv_heads": 4, "ffn_dim": 60, "embedding_dim": 48},
    "rows beyond the tokenizer": {"vocab_size": 530},
}  # fmt: skip


def opened_run(prepared_run: Path, folder: Path, **changes: Any) -> OpenedModel:
    return open_model(make_run(prepared_run, folder / "run", tiny_llama(**changes)), "cpu")


@pytest.fixture(scope="module")
def opened(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return opened_run(prepared_run, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=list(SHAPES.values()), ids=list(SHAPES))
def pair(request: Any, prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenedModel, Path]:
    """A model and its GGUF in f32."""
    folder = tmp_path_factory.mktemp("shape")
    model = opened_run(prepared_run, folder, **request.param)
    return model, folder / "gguf" / export_gguf(model, folder / "gguf", "f32")["files"][0]


def test_it_is_the_same_model(pair: tuple[OpenedModel, Path]):
    model, path = pair
    again = open_model(path, "cpu")
    if not model.config.has_projections:
        assert weights_sha256(again.model) == weights_sha256(model.model)
        assert again.config == model.config
    tokens = random_tokens(2, 48)
    assert torch.allclose(again.model(tokens), model.model(tokens), atol=1e-4)
    assert again.with_bos([7]) == model.with_bos([7])
    pieces = [model.tokenizer.token(token_id) for token_id in range(512)]
    for text in hard_texts(pieces):
        assert again.tokenizer.encode(text) == model.tokenizer.encode(text)
        assert again.tokenizer.decode(model.tokenizer.encode(text)) == model.tokenizer.decode(
            model.tokenizer.encode(text)
        )


@pytest.mark.parametrize(("gguf_type", "error"), [("f32", 0.0), ("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 127)])
def test_number_formats(opened: OpenedModel, tmp_path: Path, gguf_type: str, error: float):
    summary = export_gguf(opened, tmp_path / "out", gguf_type)
    assert summary == {"files": [f"model-{gguf_type}.gguf"], "parameters": opened.config.n_parameters}
    again = open_model(tmp_path / "out" / summary["files"][0], "cpu")
    for (name, wanted), found in zip(opened.model.named_parameters(), again.model.parameters(), strict=True):
        assert (found - wanted).abs().max() <= wanted.abs().max() * (error if wanted.dim() > 1 else 0), name


def test_rows_that_do_not_divide_are_not_quantised(prepared_run: Path, tmp_path: Path):
    opened = opened_run(prepared_run, tmp_path, ffn_dim=50)
    again = open_model(tmp_path / "out" / export_gguf(opened, tmp_path / "out", "q8_0")["files"][0], "cpu")
    name = "layers.0.feed_forward.down.weight"  # rows of 50
    assert torch.equal(again.model.get_parameter(name), opened.model.get_parameter(name).half().float())


def test_values_beyond_f16_are_named(prepared_run: Path, tmp_path: Path):
    model = tiny_llama()
    with torch.no_grad():
        model.layers[0].get_parameter("attention.o.weight")[0, 0] = 1e6
    opened = open_model(make_run(prepared_run, tmp_path / "run", model), "cpu")
    with pytest.raises(InputError, match=r"blk\.0\.attn_output\.weight: values above 65,504"):
        export_gguf(opened, tmp_path / "out", "f16")
    assert list((tmp_path / "out").iterdir()) == []
    assert export_gguf(opened, tmp_path / "out", "bf16")["files"] == ["model-bf16.gguf"]


def test_the_same_bytes_again(opened: OpenedModel, tmp_path: Path):
    for name in ("a", "b"):
        export_gguf(opened, tmp_path / name, "q8_0")
    assert (tmp_path / "a" / "model-q8_0.gguf").read_bytes() == (tmp_path / "b" / "model-q8_0.gguf").read_bytes()


def test_from_gguf_to_hugging_face_and_back(opened: OpenedModel, tmp_path: Path):
    export_gguf(opened, tmp_path / "first", "f32")
    middle = open_model(tmp_path / "first" / "model-f32.gguf", "cpu")
    export_hugging_face(middle, tmp_path / "hf")
    again = open_model(tmp_path / "hf", "cpu")
    assert weights_sha256(again.model) == weights_sha256(opened.model)
    text = "for x in  range(3):\n\tπ </s>"
    assert again.with_bos(again.tokenizer.encode(text)) == opened.with_bos(opened.tokenizer.encode(text))
    export_gguf(again, tmp_path / "second", "f32")
    assert open_tokenizer(tmp_path / "second" / "model-f32.gguf").encode(text) == opened.tokenizer.encode(text)


def test_a_tokenizer_json_alone_is_enough(opened: OpenedModel, tmp_path: Path):
    export_hugging_face(opened, tmp_path / "hf")
    (tmp_path / "hf" / MODEL_FILE).unlink()
    alone = open_model(tmp_path / "hf", "cpu")
    assert alone.tokenizer.file_name == JSON_FILE
    export_gguf(alone, tmp_path / "gguf", "f32")  # holds the ids against the tokenizer's
    again = open_tokenizer(tmp_path / "gguf" / "model-f32.gguf")
    assert (again.bos_id, again.eos_id, again.unk_id) == (1, 2, 0)


def test_a_tokenizer_that_gguf_has_no_form_for_is_named(opened: OpenedModel, tmp_path: Path):
    export_hugging_face(opened, tmp_path / "hf")
    (tmp_path / "hf" / MODEL_FILE).unlink()
    path = tmp_path / "hf" / JSON_FILE
    document = json.loads(path.read_text())
    document["model"]["merges"].reverse()  # another tokenizer: the rarest pairs first
    document["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="gives the same ids"):
        export_gguf(open_model(tmp_path / "hf", "cpu"), tmp_path / "gguf")


def test_pieces_that_are_taken_whole_stay_so(tmp_path: Path, reference_texts: list[str]):
    (tmp_path / "text").write_text("\n".join(reference_texts[:20]))
    SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "tokenizer"), model_type="bpe", vocab_size=400,
        byte_fallback=True, user_defined_symbols=["<|call|>"], normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.model")
    metadata = tokenizer_to_metadata(tokenizer, 400, True, tmp_path)
    whole = metadata["tokenizer.ggml.tokens"].index("<|call|>")
    assert metadata["tokenizer.ggml.token_type"][whole] == 4
    text = "the<|call|> of"
    assert whole in tokenizer.encode(text)
    assert tokenizer_from_metadata(metadata, tmp_path).encode(text) == tokenizer.encode(text)


def test_what_does_not_agree_inside_a_gguf_is_named(
    opened: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def written(**changes: Any) -> Path:
        def metadata(tokenizer: Tokenizer, vocab_size: int, *others: Any) -> dict[str, Any]:
            return tokenizer_to_metadata(tokenizer, vocab_size + 5 * ("rows" in changes), *others) | {
                key.replace("__", "."): value for key, value in changes.items() if key != "rows"
            }

        monkeypatch.setattr("tinyllama.exchange.gguf.tokenizer_to_metadata", metadata)
        return tmp_path / export_gguf(opened, tmp_path, "f32")["files"][0]

    for changes, message in (
        ({"rows": 5}, "the tokenizer has 517 tokens, the network's vocabulary 512"),
        ({"llama__embedding_length": 64}, r"tensor token_embd\.weight has shape \(512, 32\), the configuration says"),
        ({"llama__block_count": 3}, "the weights have 2 layers, its configuration says 3"),
        ({"llama__block_count": "two"}, "llama.block_count: 'two' must be a valid integer"),
        ({"llama__rope__dimension_count": 4}, "llama.rope.dimension_count: 4 must be the heads' width 8"),
        ({"llama__rope__scaling__type": "yarn"}, "llama.rope.scaling.type: 'yarn' must be 'none' or 'linear'"),
        ({"llama__expert_count": 8}, "mixtures of experts are not supported"),
        ({"split__count": 2}, "split.count: 2 must be 1; join the files"),
        ({"tokenizer__ggml__model": "bert"}, "tokenizer.ggml.model: 'bert' must be 'llama' or 'gpt2'"),
        ({"tokenizer__ggml__eos_token_id": 512}, "eos_token_id: 512 is not the id of one of the 512 tokens"),
        ({"tokenizer__ggml__scores": [0.0]}, "tokenizer.ggml.scores: missing, or not 512 numbers"),
    ):
        with pytest.raises(InputError, match=message):
            open_model(written(**changes), "cpu")


def test_out_must_be_a_folder_of_its_own(opened: OpenedModel, tmp_path: Path):
    with pytest.raises(InputError, match="--out is a folder"):
        export_gguf(opened, tmp_path / "model.gguf")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not an earlier export's file"):
        export_gguf(opened, tmp_path)


def test_without_the_package_the_mend_is_named(opened: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyllama-pretrain\[gguf\]'"):
        export_gguf(opened, tmp_path / "out")


# -- llama.cpp -----------------------------------------------------------------------------------------------------------


Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


def llama_cpp(gguf: Path) -> Ask:
    """llama.cpp with a GGUF: a function (path, body) -> answer."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp (pip install xllamacpp) is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 64, 1, False, 0
    params.cpuparams.n_threads = 1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to f16
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    return ask


def check_ids(ask: Ask, model: OpenedModel) -> None:
    """llama.cpp makes our ids of hard texts, but for those with a zero byte, where it ends."""
    tokenizer = model.tokenizer
    for text in hard_texts([tokenizer.token(token_id) for token_id in range(tokenizer.vocab_size)]):
        if text and "\0" not in text:
            found = ask("/tokenize", {"content": text, "add_special": True, "parse_special": False})["tokens"]
            assert found == model.with_bos(tokenizer.encode(text)), text


def test_llama_cpp_gives_our_ids_and_tokens(pair: tuple[OpenedModel, Path]):
    model, path = pair
    ask = llama_cpp(path)
    check_ids(ask, model)
    tokens = model.with_bos(model.tokenizer.encode("The statement is executed"))
    settings = {"temperature": 0, "return_tokens": True, "ignore_eos": True, "n_probs": 3}
    found = ask("/completion", settings | {"prompt": tokens, "n_predict": 24})["tokens"]
    assert len(found) == 24
    n_compared = 0
    for n_made, token_id in enumerate(found):
        seen = tokens + found[:n_made]
        logprobs = model.model(torch.tensor([seen]))[0, -1].log_softmax(-1)
        without_eos = logprobs.clone()
        without_eos[[model.tokenizer.eos_id]] = float("-inf")
        assert token_id == without_eos.argmax().item()
        answer = ask("/completion", settings | {"prompt": seen, "n_predict": 1})
        for row in answer.get("completion_probabilities", []):  # none where the token is a part of a character
            n_compared += 1
            for likely in row["top_logprobs"]:
                assert likely["logprob"] == pytest.approx(logprobs[likely["id"]].item(), abs=1e-4)
    assert n_compared


# -- byte-level tokenizers -----------------------------------------------------------------------------------------------


def byte_level_folder(folder: Path, opened: OpenedModel, pre_tokenizer: dict[str, Any], ignore_merges: bool) -> Path:
    """A Hugging Face folder with a tokenizer of GPT-2's kind: all bytes, some pairs, two special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    export_hugging_face(opened, folder)
    (folder / MODEL_FILE).unlink()
    pairs = [["t", "h"], ["th", "e"], ["Ġ", "the"], ["i", "n"], ["1", "2"], ["12", "3"], ["\u010a", "\u010a"]]
    pieces = ["<|eos|>", "<|bos|>", *sorted(ByteLevel.alphabet()), *("".join(pair) for pair in pairs), "hello"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": pieces[i], **flags} for i in (0, 1)],
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
            "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": pairs,
        },
    }  # fmt: skip
    (folder / JSON_FILE).write_text(json.dumps(document))
    special = {"bos_token": "<|bos|>", "eos_token": {"content": "<|eos|>"}, "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "add_bos_token": ignore_merges}))
    return folder


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
LLAMA3_SPLIT = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
WORDS: dict[str, dict[str, Any]] = {
    "gpt-2": BYTES,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3_SPLIT}, "behavior": "Isolated", "invert": False},
            BYTES | {"use_regex": False},
        ],
    },
}


@pytest.mark.parametrize("pre", WORDS)
def test_byte_level_tokenizers_go_through_a_gguf(opened: OpenedModel, tmp_path: Path, pre: str):
    folder = byte_level_folder(tmp_path / "hf", opened, WORDS[pre], ignore_merges=pre == "llama-bpe")
    model = open_model(folder, "cpu")
    export_gguf(model, tmp_path / "gguf", "f32")
    again = open_model(tmp_path / "gguf" / "model-f32.gguf", "cpu")
    assert (again.tokenizer.bos_id, again.tokenizer.eos_id, again.tokenizer.unk_id) == (1, 0, None)
    assert again.add_bos == model.add_bos == (pre == "llama-bpe")
    for text in [*hard_texts(["the", "hello", "in"]), "the 123 hello <|bos|>\n\n in12 123"]:
        ids = model.tokenizer.encode(text)
        assert again.tokenizer.encode(text) == ids
        assert again.tokenizer.decode(ids) == text
    export_hugging_face(again, tmp_path / "again")
    assert open_tokenizer(tmp_path / "again").encode("the hello 123") == model.tokenizer.encode("the hello 123")


@pytest.mark.parametrize("pre", WORDS)
def test_llama_cpp_gives_our_byte_level_ids(opened: OpenedModel, tmp_path: Path, pre: str):
    folder = byte_level_folder(tmp_path / "hf", opened, WORDS[pre], ignore_merges=pre == "llama-bpe")
    export_gguf(open_model(folder, "cpu"), tmp_path / "gguf", "f32")
    check_ids(llama_cpp(tmp_path / "gguf" / "model-f32.gguf"), open_model(folder, "cpu"))


def test_a_split_of_words_that_gguf_has_no_name_for(opened: OpenedModel, tmp_path: Path):
    split = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    words = {"type": "Sequence", "pretokenizers": [split, BYTES]}
    folder = byte_level_folder(tmp_path / "hf", opened, words, ignore_merges=False)
    with pytest.raises(InputError, match="has no name in GGUF"):
        export_gguf(open_model(folder, "cpu"), tmp_path / "gguf")
