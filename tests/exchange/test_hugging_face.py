"""What we export opens in Transformers without our code: the same logits, the same ids."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_model import make_run, random_tokens, tiny_llama
from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import OpenedModel, open_model
from tinyllama.generate.decode import generate
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.tokenizer.encoders import hard_texts

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tied_head": True},
    "free head_dim": {"head_dim": 6, "rope_theta": 5e5, "norm_eps": 1e-6},
    "linear rope": {"rope_scaling": "linear", "rope_factor": 4.0},
    "llama3 rope": {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_seq_len": 24, "rope_theta": 500.0},
    "projections": {"embedding_dim": 16},
    "article-1.1b scaled down": {"dim": 96, "n_heads": 16, "n_kv_heads": 4, "ffn_dim": 60, "embedding_dim": 48},
    "tied projections": {"embedding_dim": 16, "tied_head": True},
}


def opened_run(prepared_run: Path, folder: Path, **changes: Any) -> OpenedModel:
    return open_model(make_run(prepared_run, folder / "run", tiny_llama(**changes)), "cpu")


@pytest.fixture(scope="module")
def opened(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return opened_run(prepared_run, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def exported(opened: OpenedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    export_hugging_face(opened, out)
    return out


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_equal(prepared_run: Path, tmp_path: Path, changes: dict[str, Any]):
    opened = opened_run(prepared_run, tmp_path, **changes)
    summary = export_hugging_face(opened, tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = random_tokens(2, 48)
    with torch.no_grad():
        found, wanted = theirs(tokens).logits, opened.model(tokens)
    assert found.dtype == torch.float32
    assert ((found - wanted).abs().max() / wanted.abs().max()).item() < 2e-5
    assert summary["parameters"] == theirs.num_parameters()
    again = open_model(tmp_path / "model", "cpu").config
    assert {key: value for key, value in vars(again).items() if key.startswith("rope")} == {
        key: value for key, value in vars(opened.config).items() if key.startswith("rope")
    }
    assert summary["files"] == sorted(path.name for path in (tmp_path / "model").iterdir())


def test_tokenizer_gives_our_ids(opened: OpenedModel, exported: Path, reference_texts: list[str]):
    theirs = AutoTokenizer.from_pretrained(exported)
    pieces = [opened.tokenizer.token(token_id) for token_id in range(512)]
    for text in [*hard_texts(pieces), *(text[:2000] for text in reference_texts)]:
        ids = opened.tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs(text)["input_ids"] == opened.with_bos(ids)
        assert theirs.decode(ids, skip_special_tokens=True) == opened.tokenizer.decode(ids)


def test_greedy_text_is_theirs(opened: OpenedModel, exported: Path):
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    inputs = tokenizer("The statement", return_tensors="pt")
    whole = theirs.generate(**inputs, max_new_tokens=20, do_sample=False)  # pyright: ignore[reportAttributeAccessIssue]
    wanted = whole[0, inputs["input_ids"].shape[1] :].tolist()
    found = generate(opened, "The statement", GenerateConfig(max_new_tokens=20, temperature=0.0))["token_ids"]
    assert found == wanted


def test_what_transformers_saves_opens_here(opened: OpenedModel, exported: Path, tmp_path: Path):
    AutoModelForCausalLM.from_pretrained(exported).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(exported).save_pretrained(tmp_path)
    again = open_model(tmp_path, "cpu")
    assert weights_sha256(again.model) == weights_sha256(opened.model)
    text = "for x in  range(3):\n\tπ </s>"
    assert again.with_bos(again.tokenizer.encode(text)) == opened.with_bos(opened.tokenizer.encode(text))


def test_large_weights_are_cut_into_files(opened: OpenedModel, tmp_path: Path):
    summary = export_hugging_face(opened, tmp_path / "model", max_file_bytes=100_000)
    files = [name for name in summary["files"] if name.endswith(".safetensors")]
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert weights_sha256(open_model(tmp_path / "model", "cpu").model) == weights_sha256(opened.model)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = random_tokens(1, 8)
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, opened.model(tokens), atol=1e-5)


def test_exporting_again_replaces(opened: OpenedModel, tmp_path: Path):
    out = tmp_path / "model"
    export_hugging_face(opened, out, max_file_bytes=100_000)
    first = export_hugging_face(opened, out)
    assert sorted(path.name for path in out.iterdir()) == first["files"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    export_hugging_face(opened, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("name", ["thesis.txt", "photos/"])
def test_a_folder_with_other_files_is_left_alone(opened: OpenedModel, tmp_path: Path, name: str):
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.write_text("years of work")
    with pytest.raises(InputError, match="not an earlier export's file"):
        export_hugging_face(opened, tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == [name.rstrip("/")]


def test_out_that_is_a_file(opened: OpenedModel, tmp_path: Path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(InputError, match="not a folder"):
        export_hugging_face(opened, tmp_path / "x")


def test_a_network_that_transformers_would_refuse_is_named(prepared_run: Path, tmp_path: Path):
    opened = opened_run(prepared_run, tmp_path, n_heads=6, head_dim=4)
    with pytest.raises(InputError, match="dim 32 is not a multiple of n_heads 6"):
        export_hugging_face(opened, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_config_serves_old_and_new_readers(exported: Path):
    config = json.loads((exported / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10_000.0
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert "auto_map" not in config  # no custom code


def test_a_foreign_tokenizer_is_copied_as_it_is(exported: Path, tmp_path: Path):
    folder = Path(shutil.copytree(exported, tmp_path / "theirs"))
    settings = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    export_hugging_face(open_model(folder, "cpu"), tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_card_of_ones_own(opened: OpenedModel, tmp_path: Path):
    export_hugging_face(opened, tmp_path / "model", card="# Mine\n")
    assert (tmp_path / "model" / "README.md").read_text() == "# Mine\n"
