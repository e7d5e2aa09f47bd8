"""Every program that can read our tokenizer gives the same ids: ours, sentencepiece, tokenizers, transformers, llama.cpp."""

import http.client
import importlib.util
import json
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tests.conftest import SHARED
from tests.tokenizer.hard_strings import giant_strings, hard_strings
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.bpe_train import train_tokenizer
from tinyllama.tokenizer.tokenizer_config import TokenizerConfig

Reader = Callable[[list[str]], list[list[int]]]
STRINGS = 3_000
FULL_STRINGS = 100_000


def words_of(tokenizer: Tokenizer) -> list[str]:
    """Pieces as texts hold them."""
    return [tokenizer.token(i).replace("▁", " ") for i in range(259, tokenizer.vocab_size)]


def own_readers(folder: Path) -> dict[str, Reader]:
    """sentencepiece, which the others are compared with, and ours."""
    ours = Tokenizer.load(folder)
    reference = SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
    return {
        "sentencepiece": lambda texts: reference.encode(texts),
        "ours, one by one": lambda texts: [ours.encode(text) for text in texts],
        "ours, in a batch": lambda texts: [ids.tolist() for ids in ours.encode_batch(texts)],
    }


def readers(folder: Path, exported: Path) -> dict[str, Reader]:
    """Programs by name, each with the files that it would be given."""
    from transformers import AutoTokenizer

    assert Tokenizer.load(folder)._batch_encoder.name == "gigatoken"
    alone = Tokenizer.load(exported / JSON_FILE)
    rust = HuggingFaceTokenizer.from_file(str(exported / JSON_FILE))
    rust.encode_special_tokens = True
    transformers = AutoTokenizer.from_pretrained(str(exported))
    return own_readers(folder) | {
        "ours, from tokenizer.json": lambda texts: [ids.tolist() for ids in alone.encode_batch(texts)],
        "tokenizers": lambda texts: [found.ids for found in rust.encode_batch(texts, add_special_tokens=False)],
        "transformers": lambda texts: transformers(texts, add_special_tokens=False)["input_ids"],
        "transformers, less BOS": lambda texts: [ids[1:] for ids in transformers(texts)["input_ids"]],
    }


def export(folder: Path, out: Path, form: str) -> Path:
    """What users of other programs get: a network of this vocabulary with its tokenizer."""
    from tests.tiny_model import tiny_llama
    from tinyllama.exchange.gguf import export_gguf
    from tinyllama.exchange.hugging_face import export_hugging_face
    from tinyllama.exchange.open_model import OpenedModel

    tokenizer = Tokenizer.load(folder)
    model = tiny_llama(vocab_size=tokenizer.vocab_size)
    opened = OpenedModel(model, model.config, tokenizer, folder, None)
    if form == "hf":
        export_hugging_face(opened, out, card="")
        return out
    return out / export_gguf(opened, out, "f32")["files"][0]


def check_same_ids(folder: Path, out: Path | None, count: int, seed: int) -> None:
    """By every program, or by our own encoders where `out` is None."""
    tokenizer = Tokenizer.load(folder)
    found = readers(folder, export(folder, out, "hf")) if out else own_readers(folder)
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    for texts in batches(hard_strings(count, seed, words_of(tokenizer)), 5_000):
        wanted = found["sentencepiece"](texts)
        for name, reader in found.items():
            for text, expected, ids in zip(texts, wanted, reader(texts), strict=True):
                assert ids == expected, f"{name}: {text!r}"
        for text, ids in zip(texts, wanted, strict=True):
            assert tokenizer.decode(ids) == text.replace("▁", " ")
            assert special.isdisjoint(ids), repr(text)


def check_giants(folder: Path, out: Path) -> None:
    found = readers(folder, export(folder, out, "hf"))
    for name, text in giant_strings(words_of(Tokenizer.load(folder))).items():
        expected = found["sentencepiece"]([text])
        for program, reader in found.items():
            assert reader([text]) == expected, f"{program}: {name}"


def batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch


def llama_cpp(gguf: Path) -> Reader:
    """llama.cpp's tokenizer over one connection."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp (pip install xllamacpp) is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 64, 1, False, 0
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    connection = http.client.HTTPConnection(server.listening_address.removeprefix("http://"), timeout=600)

    def ids_of(text: str) -> list[int]:
        assert server  # it lives as long as this function
        body = json.dumps({"content": text, "add_special": False, "parse_special": False})
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        return json.load(connection.getresponse())["tokens"]

    return lambda texts: [ids_of(text) for text in texts]


def check_llama_cpp(folder: Path, out: Path, count: int, seed: int) -> None:
    """llama.cpp ends a text at a zero byte, so the texts have none."""
    tokenizer = Tokenizer.load(folder)
    reader = llama_cpp(export(folder, out, "gguf"))
    words = words_of(tokenizer)
    strings = (text.replace("\0", "") for text in hard_strings(count, seed, words))
    giants = giant_strings(words).values() if count == FULL_STRINGS else ()
    for texts in batches(chain(strings, giants), 1_000):
        for text, ours, theirs in zip(texts, tokenizer.encode_batch(texts), reader(texts), strict=True):
            assert ours.tolist() == theirs, repr(text)


def test_every_program_gives_the_same_ids(trained: Path, tmp_path: Path):
    check_same_ids(trained, tmp_path / "hf", STRINGS, seed=1)


def test_llama_cpp_gives_the_same_ids(trained: Path, tmp_path: Path):
    check_llama_cpp(trained, tmp_path / "gguf", STRINGS // 10, seed=2)


def test_the_strings_are_the_same_every_time_and_hold_what_is_hard():
    strings = list(hard_strings(STRINGS, 1, ["word"]))
    assert strings == list(hard_strings(STRINGS, 1, ["word"]))
    text = "".join(strings)
    for needed in (
        "<s>",
        "</s>",
        "<0x0A>",
        "[INST]",
        "\0",
        "\x1b",
        "\r\n",
        "\u200d",
        " " * 50,
        "word word",
    ):
        assert needed in text
    assert any(string.startswith("  ") for string in strings)
    assert max(map(len, strings)) > 1_000


# -- the whole proof ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32,000 pieces trained on real books, encyclopedia and manuals."""
    if not (SHARED / "corpus").is_dir():
        pytest.skip("no ../shared/corpus beside the checkout")
    out = tmp_path_factory.mktemp("large")
    train_tokenizer(TokenizerConfig(vocab_size=32_000), [SHARED / "corpus"], out)
    return out


def foreign(name: str, out: Path) -> Path:
    """A sentencepiece vocabulary of others (Apache-2.0), as a folder."""
    spec: Any = importlib.util.find_spec("mistral_common")
    path = Path(spec.origin).parent / "data" / name if spec and spec.origin else None
    if path is None or not path.is_file():
        pytest.skip(f"no {name} of mistral-common (pip install --no-deps mistral-common)")
    out.mkdir()
    (out / MODEL_FILE).write_bytes(path.read_bytes())
    return out


@pytest.mark.full
@pytest.mark.parametrize("check", [check_same_ids, check_llama_cpp])
def test_small_vocabulary_in_full(trained: Path, tmp_path: Path, check: Callable[..., None]):
    check(trained, tmp_path / "out", FULL_STRINGS, 3)


@pytest.mark.full
@pytest.mark.parametrize("check", [check_same_ids, check_llama_cpp])
def test_large_vocabulary_in_full(large: Path, tmp_path: Path, check: Callable[..., None]):
    check(large, tmp_path / "out", FULL_STRINGS, 4)


@pytest.mark.full
def test_a_vocabulary_of_others_in_full(tmp_path: Path):
    folder = foreign("tokenizer.model.v1", tmp_path / "foreign")
    check_same_ids(folder, tmp_path / "hf", FULL_STRINGS, 5)
    check_llama_cpp(folder, tmp_path / "gguf", FULL_STRINGS, 7)
    check_giants(folder, tmp_path / "giants")


@pytest.mark.full
def test_a_vocabulary_with_user_defined_pieces_in_full(tmp_path: Path):
    """No tokenizer.json gives its ids, so it is not exported as one."""
    check_same_ids(foreign("mistral_instruct_tokenizer_240323.model.v3", tmp_path / "foreign"), None, FULL_STRINGS, 6)


@pytest.mark.full
def test_giants(trained: Path, large: Path, tmp_path: Path):
    check_giants(trained, tmp_path / "small")
    check_giants(large, tmp_path / "large")
