"""The public functions do what the commands do: every argument reaches its part."""

from functools import partial
from pathlib import Path

import pytest

import tinyllama
from tests.command_line import StandIn, recorded
from tinyllama.evaluation.evaluate_config import EvaluateConfig
from tinyllama.recipe import load_recipe


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return partial(recorded, monkeypatch)


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text("[clean]\nmin_words = 8\n[tokenizer]\nvocab_size = 999\n[evaluate]\nbatch_size = 3\n")
    return str(path)


def test_what_is_public():
    assert sorted(tinyllama.__all__) == ["clean", "evaluate", "open_model", "plan", "pretrain", "train_tokenizer"]


def test_open_model(stand_in: StandIn):
    opened = stand_in("tinyllama.exchange.open_model.open_model", "the model")
    assert tinyllama.open_model("m") == tinyllama.open_model(Path("m"), "cpu") == "the model"
    assert [call[0] for call in opened] == [(Path("m"), "auto"), (Path("m"), "cpu")]


def test_clean_and_train_tokenizer(stand_in: StandIn, recipe_file: str):
    phases = {name: stand_in(f"tinyllama.phases.{name}_phase", name) for name in ("clean", "tokenizer")}
    ran = stand_in("tinyllama.api.run_phase", {"n": 1})
    assert tinyllama.clean(["a", Path("b")], "out", recipe_file, ("clean.max_words=77",)) == {"n": 1}
    (recipe, inputs, out, documents), _ = phases["clean"][0]
    assert (recipe.clean.min_words, recipe.clean.max_words) == (8, 77)
    assert (inputs, out, documents) == ((Path("a"), Path("b")), Path("out"), Path("out/documents"))
    assert tinyllama.train_tokenizer(["a"], "out", recipe_file, ("tokenizer.threads=2",)) == {"n": 1}
    (recipe, inputs, out), _ = phases["tokenizer"][0]
    assert (recipe.tokenizer.vocab_size, recipe.tokenizer.threads) == (999, 2)
    assert (inputs, out) == ((Path("a"),), Path("out"))
    assert [call[0] for call in ran] == [("clean",), ("tokenizer",)]
    tinyllama.clean(["a"], "out")
    assert phases["clean"][1][0][0] == load_recipe(None)


def test_pretrain_and_evaluate(stand_in: StandIn, recipe_file: str):
    trained = stand_in("tinyllama.phases.pretrain", {"step": 1})
    assert tinyllama.pretrain(recipe_file, "r", ("train.steps=5",), ["train.peak_lr"]) == {"step": 1}
    (recipe, run_dir, allowed), _ = trained[0]
    assert (recipe.train.steps, recipe.clean.min_words, run_dir, allowed) == (5, 8, Path("r"), ["train.peak_lr"])
    measured = stand_in("tinyllama.evaluation.run_evaluation.evaluate_run", {"loss": 2.0})
    assert tinyllama.evaluate("r", recipe_file, ("evaluate.last_word_examples=4",)) == {"loss": 2.0}
    tinyllama.evaluate("r")
    wanted = EvaluateConfig(batch_size=3, last_word_examples=4)
    assert [call[0] for call in measured] == [(Path("r"), wanted), (Path("r"), EvaluateConfig())]


def test_plan(stand_in: StandIn, tmp_path: Path):
    made = stand_in("tinyllama.planning.cost.plan", {"fits": True})
    stand_in("tinyllama.api.read_devices", {"Mine": "a kind"})
    overrides = ("train.seed=5", "parallel.shard=2")
    options = {"gpus_per_node": 4, "devices": tmp_path / "d.toml"}
    assert tinyllama.plan("small-120m", "8xMine", "2B", 1.5, overrides, **options) == {"fits": True}
    recipe = load_recipe("small-120m", list(overrides))
    assert made[0] == (
        (recipe.llama_config(), recipe.train, "8xMine", 2 * 10**9, 1.5),
        {"gpus_per_node": 4, "devices": {"Mine": "a kind"}, "parallel": recipe.parallel},
    )
    tinyllama.plan("small-120m", "H100")
    assert made[1][0][2:] == ("H100", None, None)
    assert made[1][1] | {"parallel": None} == {"gpus_per_node": None, "devices": None, "parallel": None}
