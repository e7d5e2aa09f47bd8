"""What each phase reads, writes, gives to its worker and has in its fingerprint; the order of a run's phases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import overrides
from tinyllama import files, phases
from tinyllama.errors import InputError, RecipeError, RunStoppedError
from tinyllama.phase_runner import Phase
from tinyllama.recipe import Recipe, load_recipe

StandIn = Callable[..., list[Any]]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Replaces a function by one that gives a value; returns the list of the arguments of its calls."""

    def replace(name: str, value: Any = None) -> list[Any]:
        calls: list[Any] = []

        def called(*words: Any, **options: Any) -> Any:
            calls.append((*words, *([options] if options else [])))
            return value(*words) if callable(value) else value

        owner, attribute = name.rsplit(".", 1)
        module = owner.removesuffix(".Tokenizer")  # imported by name: packages have functions of their modules' names
        place = import_module(module)
        monkeypatch.setattr(place if module == owner else place.Tokenizer, attribute, called)
        return calls

    return replace


@pytest.fixture
def recipe() -> Recipe:
    """Every section has a value that is no default, and one that does not change the result."""
    words = [
        "sources.seeds=['https://a.example/']", "sources.max_pages=7", "sources.paths=['/given/a', '/given/b']",
        "clean.max_page_bytes=1234567", "shards.max_shard_bytes=4096", "generate.prompts=['one', 'two']",
    ]  # fmt: skip
    return load_recipe("small-120m", [*overrides(), *words])


def facts(phase: Phase) -> tuple[Any, ...]:
    return phase.name, phase.format_version, phase.config, phase.inputs, phase.out


def test_crawl(recipe: Recipe, stand_in: StandIn, tmp_path: Path):
    calls = stand_in("tinyllama.sources.crawl.crawl", {"pages": 7})
    phase = phases.crawl_phase(recipe, tmp_path / "crawl")
    config = recipe.sources.result_values()
    assert config.pop("paths") == ["/given/a", "/given/b"]
    assert config["max_pages"] == 7
    assert facts(phase) == ("crawl", 1, config, (), tmp_path / "crawl")
    assert phase.run(tmp_path / "there") == {"pages": 7}
    assert calls == [(recipe.sources, tmp_path / "there")]


def test_clean_extracts_first_and_closes_its_workers(stand_in: StandIn, tmp_path: Path):
    model, tasks = tmp_path / "safety.json", tmp_path / "tasks"
    words = ["clean.max_page_bytes=1234567", f"clean.safety_model='{model}'", f"clean.decontaminate='{tasks}'"]
    recipe = load_recipe(None, words)
    extracted = stand_in("tinyllama.cleaning.clean_run.extract_documents", {"documents": 3})
    cleaned = stand_in("tinyllama.cleaning.clean_run.clean_documents", {"kept": 2})
    closed = stand_in("tinyllama.cleaning.clean_run.close_workers")
    ran = stand_in("tinyllama.phases.run_phase", lambda phase: phase.run(phase.out))
    phase = phases.clean_phase(recipe, (Path("/in"),), tmp_path / "clean", tmp_path / "documents")
    inputs = (Path("/in"), model, tasks)
    assert facts(phase) == ("clean", 4, recipe.clean.result_values(), inputs, tmp_path / "clean")
    assert phases.clean_phase(load_recipe(None, []), (), tmp_path, tmp_path).inputs == ()
    assert phase.run(tmp_path / "there") == {"kept": 2}
    ((documents,),) = ran
    assert facts(documents) == ("documents", 1, {"max_page_bytes": 1234567}, (Path("/in"),), tmp_path / "documents")
    assert extracted == [(recipe.clean, [Path("/in")], tmp_path / "documents")]
    assert cleaned == [(recipe.clean, tmp_path / "documents", tmp_path / "there")]
    assert closed == [()]

    def fails(*_: Any) -> None:
        raise InputError("mend this")

    stand_in("tinyllama.cleaning.clean_run.clean_documents", fails)
    with pytest.raises(InputError, match="mend this"):
        phase.run(tmp_path)
    assert closed == [(), ()]


def test_tokenizer_and_shards(recipe: Recipe, stand_in: StandIn, tmp_path: Path):
    trained = stand_in("tinyllama.tokenizer.bpe_train.train_tokenizer", {"pieces": 9})
    phase = phases.tokenizer_phase(recipe, (Path("/a"), Path("/b")), tmp_path / "t")
    config = recipe.tokenizer.result_values()
    assert facts(phase) == ("tokenizer", 1, config, (Path("/a"), Path("/b")), tmp_path / "t")
    assert phase.run(tmp_path / "there") == {"pieces": 9}
    assert trained == [(recipe.tokenizer, [Path("/a"), Path("/b")], tmp_path / "there")]

    written = stand_in("tinyllama.shards.shard_writer.write_shards", {"tokens": 5})
    loaded = stand_in("tinyllama.tokenizer.bpe.Tokenizer.load", "the tokenizer")
    phase = phases.shards_phase(recipe, (Path("/a"), Path("/b")), Path("/t"), tmp_path / "s")
    inputs = (Path("/a"), Path("/b"), Path("/t"))
    assert facts(phase) == ("shards", 1, {"max_shard_bytes": 4096}, inputs, tmp_path / "s")
    assert phase.run(tmp_path / "there") == {"tokens": 5}
    assert loaded == [(Path("/t"),)]
    assert written == [(recipe.shards, [Path("/a"), Path("/b")], "the tokenizer", tmp_path / "there")]


def test_pretrain_phase(recipe: Recipe, stand_in: StandIn, tmp_path: Path):
    calls = stand_in("tinyllama.train.trainer.pretrain", {"step": 12})
    called: list[Any] = []
    ranks: Any = SimpleNamespace(call=called.append)
    recipe = load_recipe("small-120m", [*overrides(), "parallel.threads=3"])
    phase = phases.pretrain_phase(recipe, tmp_path, ["train.peak_lr", "model.dropout"], ranks)
    config = {"model": recipe.llama_config().to_dict(), "train": recipe.train.result_values()}
    inputs, out = (tmp_path / "shards", tmp_path / "tokenizer"), tmp_path / "checkpoints"
    assert facts(phase) == ("pretrain", 1, config, inputs, out)
    assert (phase.keeps_changed, phase.allowed_changes) == (True, ("train.peak_lr", "model.dropout"))
    files.write_json(out / "unfinished.json", {"allowed_changes": ["train.peak_lr", "a"]})
    assert phase.run(out) == {"step": 12}
    assert called == [["a", "train.peak_lr"]]
    assert phases.pretrain_phase(recipe, tmp_path).run(out) == {"step": 12}
    words = (recipe.llama_config(), recipe.train, tmp_path, {"a", "train.peak_lr"})
    assert calls == [(*words, ranks, 3), (*words, None, 3)]
    assert len(called) == 1
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    for given, known in (("other", "other/checkpoints"), ("model", "model")):
        recipe = load_recipe("small-120m", [*overrides(), f"train.init_from='{tmp_path / given}'"])
        assert phases.pretrain_phase(recipe, tmp_path).inputs == (*inputs, tmp_path / known)


@pytest.mark.parametrize("key", ["train.peak_lr", "train.seed", "model.dropout", "model.dim"])
def test_keys_that_may_be_allowed(recipe: Recipe, tmp_path: Path, key: str):
    assert phases.pretrain_phase(recipe, tmp_path, [key]).allowed_changes == (key,)
    with pytest.raises(RecipeError, match="not a key"):
        phases.pretrain_phase(recipe, tmp_path, [key, "train.save_every_steps"])


def test_evaluate_generate_and_export(recipe: Recipe, stand_in: StandIn, tmp_path: Path):
    evaluated = stand_in("tinyllama.evaluation.run_evaluation.evaluate_run", {"loss": 2.0})
    (tmp_path / "shards").mkdir()
    (tmp_path / "checkpoints").mkdir()
    phase = phases.evaluate_phase(recipe, tmp_path)
    inputs, out = (tmp_path / "checkpoints", tmp_path / "shards"), tmp_path / "evaluation.json"
    assert facts(phase) == ("evaluate", 1, recipe.evaluate.result_values(), inputs, out)
    assert phase.run(out) == {"loss": 2.0} == files.read_json(out)
    assert evaluated == [(tmp_path, recipe.evaluate)]
    (tmp_path / "clean").mkdir()
    assert phases.evaluate_phase(recipe, tmp_path).inputs == (*inputs, tmp_path / "clean")

    opened = stand_in("tinyllama.exchange.open_model.open_model", "the model")
    made = stand_in("tinyllama.generate.decode.generate", lambda _, prompt, __: {"text": f"{prompt} more"})
    phase, out = phases.generate_phase(recipe, tmp_path), tmp_path / "samples.json"
    assert facts(phase) == ("generate", 1, recipe.generate.result_values(), (tmp_path / "checkpoints",), out)
    samples = [{"prompt": "one", "text": "one more"}, {"prompt": "two", "text": "two more"}]
    assert phase.run(out) == {"prompt": "one", "text": "one more", "samples": samples} == files.read_json(out)
    assert made == [("the model", text, recipe.generate) for text in ("one", "two")]
    assert opened == [(tmp_path,)]
    silent = load_recipe("small-120m", ["generate.prompts=[]"])
    assert phases.generate_phase(silent, tmp_path).run(out) == {"samples": []} == files.read_json(out)

    to_hf = stand_in("tinyllama.exchange.hugging_face.export_hugging_face", {"form": "hf"})
    to_gguf = stand_in("tinyllama.exchange.gguf.export_gguf", {"form": "gguf"})
    phase = phases.export_phase((Path("/a"),), tmp_path, tmp_path / "model")
    assert facts(phase) == ("export", 1, {"format": "hf"}, (Path("/a"),), tmp_path / "model")
    assert phase.run(Path("/there")) == {"form": "hf"}
    assert to_hf == [("the model", Path("/there"))]
    config = {"format": "gguf", "gguf_type": "q8_0"}
    phase = phases.export_phase((Path("/a"),), tmp_path, tmp_path / "model", "gguf", "q8_0")
    assert facts(phase) == ("export", 1, config, (Path("/a"),), tmp_path / "model")
    assert phase.run(Path("/there")) == {"form": "gguf"}
    assert to_gguf == [("the model", Path("/there"), "q8_0")]
    assert opened[2:] == [(tmp_path, {"device": "cpu"})] * 2
    assert phases.export_phase((), tmp_path, tmp_path, "gguf").config["gguf_type"] == "f16"


def stand_in_ranks(monkeypatch: pytest.MonkeyPatch, ranks: Any) -> list[Any]:
    """`join` gives these ranks; returns what it was asked for."""
    asked: list[Any] = []

    @contextmanager
    def join(parallel: Any) -> Iterator[Any]:
        asked.append(parallel)
        yield ranks

    monkeypatch.setattr(phases, "join", join)
    return asked


def test_pretrain_alone_and_the_ranks_that_follow(
    recipe: Recipe, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran = stand_in("tinyllama.phases.run_phase", {"step": 1})
    asked = stand_in_ranks(monkeypatch, None)
    for name in ("shards", "tokenizer"):
        with pytest.raises(InputError, match=f"{name}: no such folder; `tinyllama {name}` creates it"):
            phases.pretrain(recipe, tmp_path)
        (tmp_path / name).mkdir()
    assert phases.pretrain(recipe, tmp_path, ["train.peak_lr"]) == {"step": 1}
    assert asked == [recipe.parallel] * 3
    assert ran[0][0].allowed_changes == ("train.peak_lr",)
    assert (tmp_path / "recipe.toml").exists()

    (tmp_path / "recipe.toml").unlink()
    trained = stand_in("tinyllama.train.trainer.pretrain", {"step": 9})
    for allowed, n_calls in ((["a", "b"], 1), (None, 1), ([], 2)):
        ranks = SimpleNamespace(is_first=False, await_call=lambda allowed=allowed: allowed)
        stand_in_ranks(monkeypatch, ranks)
        assert phases.pretrain(recipe, tmp_path) == {}
        assert phases.run_recipe(recipe, tmp_path) == {} or n_calls
        assert len(trained) == {1: 2, 2: 4}[n_calls]
    assert trained[0][:4] == (recipe.llama_config(), recipe.train, tmp_path, {"a", "b"})
    assert trained[0][5] == recipe.parallel.threads
    assert len(ran) == 1, "only rank 0 runs phases"
    assert not (tmp_path / "recipe.toml").exists()
    first: Any = SimpleNamespace(is_first=True)
    stand_in_ranks(monkeypatch, first)
    assert phases.pretrain(recipe, tmp_path) == {"step": 1}


def test_the_phases_of_a_run_in_the_order_of_the_data(
    recipe: Recipe, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stand_in_ranks(monkeypatch, None)
    ran = stand_in("tinyllama.phases.run_phase", lambda phase: {"of": phase.name})
    reported = stand_in("tinyllama.report.run_report.write_report", tmp_path / "report.html")
    found = phases.run_recipe(recipe, tmp_path, ["train.peak_lr"])
    names = ["crawl", "clean", "tokenizer", "shards", "pretrain", "evaluate", "generate", "export"]
    assert found == {name: {"of": name} for name in names}
    assert list(found) == names
    by_name = {phase.name: phase for (phase,) in ran}
    given, clean, tokenizer = (Path("/given/a"), Path("/given/b")), tmp_path / "clean", tmp_path / "tokenizer"
    assert by_name["crawl"].out == tmp_path / "crawl"
    assert (by_name["clean"].inputs, by_name["clean"].out) == ((tmp_path / "crawl", *given), clean)
    assert (by_name["tokenizer"].inputs, by_name["tokenizer"].out) == ((clean,), tokenizer)
    assert (by_name["shards"].inputs, by_name["shards"].out) == ((clean, tokenizer), tmp_path / "shards")
    assert by_name["pretrain"].allowed_changes == ("train.peak_lr",)
    assert by_name["export"].inputs == (tmp_path / "checkpoints", tmp_path / "evaluation.json")
    assert by_name["export"].out == tmp_path / "model"
    assert [phase.keeps_changed for (phase,) in ran] == [name == "pretrain" for name in names]
    assert reported == [(tmp_path,)]

    ran.clear()
    (tmp_path / "checkpoints").mkdir()  # what training rests on is dear from now on
    phases.run_recipe(recipe, tmp_path)
    dear = {"crawl", "clean", "tokenizer", "shards", "pretrain"}
    assert {phase.name for (phase,) in ran if phase.keeps_changed} == dear
    assert by_name["clean"].allowed_changes is None

    ran.clear()
    only_files = load_recipe("small-120m", [*overrides(), "sources.paths=['/given/a']"])
    assert list(phases.run_recipe(only_files, tmp_path)) == names[1:]
    assert ran[0][0].inputs == (Path("/given/a"),)
    site = load_recipe("small-120m", [*overrides(), "sources.documentation_site=true"])
    assert next(iter(phases.run_recipe(site, tmp_path))) == "crawl"
    with pytest.raises(RecipeError, match="sources: nothing to read"):
        phases.run_recipe(load_recipe("small-120m", overrides()), tmp_path)


def test_the_recipe_of_a_refused_run_is_not_kept(recipe: Recipe, tmp_path: Path):
    run_dir = tmp_path / "run"
    path = run_dir / "recipe.toml"

    def work(error: BaseException | None, more: str = "") -> None:
        with phases.recorded_recipe(recipe, run_dir):
            assert path.read_text().startswith("# Every value of this run, made with\n# python ")
            assert "max_pages = 7" in path.read_text()
            if more:
                (run_dir / more).write_text("x")
            if error is not None:
                raise error

    for error, more, is_left in (
        (InputError("x"), "", False), (InputError("x"), "more", True), (RunStoppedError("x", 75), "", True),
        (ZeroDivisionError(), "", True),
    ):  # fmt: skip
        with pytest.raises(type(error)):
            work(error, more)
        assert path.exists() == run_dir.exists() == is_left, error
        if is_left:
            for file in run_dir.iterdir():
                file.unlink()
            run_dir.rmdir()
    run_dir.mkdir()
    with pytest.raises(InputError):
        work(InputError("x"))
    assert path.exists(), "a folder that was there is not removed"
    path.write_text("before")
    with pytest.raises(InputError):
        work(InputError("x"))
    assert path.read_text() == "before"
    with pytest.raises(RunStoppedError):
        work(RunStoppedError("x", 75))
    assert "max_pages = 7" in path.read_text()
    work(None)
    run_dir = tmp_path / "file"
    run_dir.write_text("x")
    with pytest.raises(InputError, match="file: not a folder; choose another --run-dir"):
        work(None)
