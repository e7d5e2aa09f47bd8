"""Training goes on from a model that exists."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.conftest import overrides
from tests.tiny_model import make_run, tiny_config, tiny_llama
from tests.train.run_processes import assert_kill_changes_nothing
from tinyllama import api, files
from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError, RecipeError
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import open_model
from tinyllama.recipe import load_recipe
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.train import initial_weights
from tinyllama.train.initial_weights import load_initial_weights
from tinyllama.train.trainer import Trainer


@pytest.fixture(scope="module")
def first_run(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run to go on from."""
    run_dir = Path(shutil.copytree(prepared_run, tmp_path_factory.mktemp("first") / "run"))
    api.pretrain("small-120m", run_dir, overrides(train__peak_lr=0.01))
    return run_dir


def test_weights_are_the_models_before_the_first_step(first_run: Path, prepared_run: Path, tmp_path: Path):
    wanted = weights_sha256(open_model(first_run, "cpu").model)
    export_hugging_face(open_model(first_run, "cpu"), tmp_path / "hf")
    for model in (first_run, tmp_path / "hf", first_run / "checkpoints" / "step_00000012"):
        run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
        recipe = load_recipe("small-120m", overrides(train__init_from=str(model)))
        trainer = Trainer(recipe.llama_config(), recipe.train, run_dir)
        trainer.resume()
        assert weights_sha256(trainer.state.model) == wanted
        shutil.rmtree(run_dir)


def test_training_goes_on_where_the_model_was(first_run: Path, prepared_run: Path, tmp_path: Path):
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    api.pretrain("small-120m", run_dir, overrides(train__init_from=str(first_run), train__steps=2))
    before, after = (files.read_jsonl(folder / "metrics.jsonl") for folder in (first_run, run_dir))
    assert after[0]["loss"] < before[0]["loss"] - 0.2


def test_killed_run_does_not_start_from_the_model_again(first_run: Path, prepared_run: Path, tmp_path: Path):
    assert_kill_changes_nothing(prepared_run, tmp_path, overrides(train__steps=40, train__init_from=str(first_run)))


def test_another_model_is_another_run(first_run: Path, prepared_run: Path, tmp_path: Path):
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    model = Path(shutil.copytree(first_run / "checkpoints" / "step_00000012", tmp_path / "model"))
    words = overrides(train__init_from=str(model))
    first = api.pretrain("small-120m", run_dir, words).to_dict()
    assert api.pretrain("small-120m", run_dir, words).to_dict() == first
    manifest = files.read_json(model / "manifest.json")
    manifest["files"]["weights.safetensors"]["sha256"] = "0" * 64
    files.write_json(model / "manifest.json", manifest)
    with pytest.raises(InputError, match="its inputs changed"):
        api.pretrain("small-120m", run_dir, words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 64}, r"model\.dim: 32, but train\.init_from .* has 64"),
        ({"n_layers": 3}, r"model\.n_layers: 2, but .* has 3"),
        ({"n_kv_heads": 4}, r"model\.n_kv_heads: 2, but .* has 4"),
        ({"tied_head": True}, r"model\.tied_head: False, but .* has True"),
        ({"vocab_size": 600}, r"model\.vocab_size: 512, but .* has 600"),
    ],
)
def test_another_network_is_refused(prepared_run: Path, tmp_path: Path, changes: dict, message: str):
    run = make_run(prepared_run, tmp_path / "run", tiny_llama(**changes))
    with pytest.raises(RecipeError, match=message):
        load_initial_weights(tiny_config(), Tokenizer.load(run / "tokenizer"), str(run))


def test_another_vocabulary_is_refused(prepared_run: Path, tmp_path: Path, reference_texts: list[str]):
    run = make_run(prepared_run, tmp_path / "run")
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(f'{{"id": "{n}", "text": "{chr(97 + n % 26) * 9} zyx wvu"}}\n' for n in range(200)))
    api.train_tokenizer([texts], tmp_path / "other", overrides=["tokenizer.vocab_size=300"])
    with pytest.raises(RecipeError, match=r"train\.init_from: .* has 512 tokens, the run's tokenizer 300"):
        load_initial_weights(tiny_config(), Tokenizer.load(tmp_path / "other"), str(run))
    model = Path(shutil.copytree(run / "checkpoints" / "step_00000003", tmp_path / "model"))
    export_hugging_face(open_model(model, "cpu"), tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.model").unlink()
    document = (tmp_path / "hf" / "tokenizer.json").read_text()
    (tmp_path / "hf" / "tokenizer.json").write_text(document.replace("<0x41>", "<0X41>"))
    with pytest.raises(RecipeError, match=r"id 68 is '<0X41>' in .*, '<0x41>' in the run's tokenizer"):
        load_initial_weights(tiny_config(), Tokenizer.load(run / "tokenizer"), str(tmp_path / "hf"))


def test_no_model_is_named(prepared_run: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"train\.init_from: .*nowhere: no such file or folder"):
        load_initial_weights(tiny_config(), Tokenizer.load(prepared_run / "tokenizer"), str(tmp_path / "nowhere"))


class Pieces:
    def __init__(self, *pieces: str) -> None:
        self.pieces, self.vocab_size = pieces, len(pieces)

    def token(self, number: int) -> str:
        return self.pieces[number]


def loaded(monkeypatch: pytest.MonkeyPatch, ours: Any = ("a", "b"), theirs: Any = ("a", "b"), **changes: Any) -> Any:
    """The weights of a MODEL that differs from the recipe's network in `changes`."""
    model = tiny_llama()
    opened = SimpleNamespace(config=replace(model.config, **changes), tokenizer=Pieces(*theirs), model=model)
    monkeypatch.setattr(initial_weights, "open_model", lambda path, device: {("m", "cpu"): opened}[str(path), device])
    return load_initial_weights(model.config, cast("Tokenizer", Pieces(*ours)), "m")


@pytest.mark.parametrize(
    "key", ["vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "embedding_dim"]
)
def test_every_size_must_be_the_models(monkeypatch: pytest.MonkeyPatch, key: str):
    ours = getattr(tiny_config(), key)
    with pytest.raises(
        RecipeError, match=rf"model\.{key}: {ours}, but train\.init_from m has {2 * ours}; set it to that"
    ):
        loaded(monkeypatch, **{key: 2 * ours})


@pytest.mark.parametrize(
    ("key", "value"), [("rope_theta", 500.0), ("rope_scaling", "linear"), ("rope_factor", 2.0), ("norm_eps", 1e-3)]
)
def test_angles_and_epsilon_may_change_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], key: str, value: Any
):
    weights = loaded(monkeypatch, **{key: value})
    assert set(weights) == {name for name, _ in tiny_llama().named_parameters()}
    assert not any(weight.requires_grad for weight in weights.values())
    said = " ".join(capfd.readouterr().err.split())
    assert f"model.{key}: {getattr(tiny_config(), key)} from now on; m was trained with {value}" in said
    assert said.count("from now on") == 1


def test_every_piece_must_be_the_models(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RecipeError, match="m has 3 tokens, the run's tokenizer 2; make tokenizer/"):
        loaded(monkeypatch, theirs=("a", "b", "c"))
    for theirs, number in ((("x", "b", "c"), 0), (("a", "b", "x"), 2)):
        with pytest.raises(RecipeError, match=f"id {number} is 'x' in m, '{'abc'[number]}' in the run's tokenizer"):
            loaded(monkeypatch, ours=("a", "b", "c"), theirs=theirs)
