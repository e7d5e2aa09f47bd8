"""The public functions do what the commands do: every argument is passed on, and the result is the command's."""

import inspect
import json
import shutil
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tinyllama
from tests.command_line import StandIn, recorded
from tests.conftest import overrides
from tests.tiny_model import tiny_llama
from tinyllama import api_results, files
from tinyllama.evaluation.evaluate_config import EvaluateConfig
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.planning import cost
from tinyllama.recipe import load_recipe

CLEANED: dict[str, Any] = {
    "documents_in": 5, "documents_out": 3, "train_documents": 2, "validation_documents": 1, "text_bytes_in": 900,
    "text_bytes_out": 500, "dropped": {"c4_policy": 2}, "masked": {"email": 1}, "site_lines": 4, "unsafe_paragraphs": 0,
    "contaminated_paragraphs": 0, "copied_paragraphs": 1, "contaminated": {}, "clustered": {"in": 2, "out": 1},
    "seconds": 1.5, "cpu_seconds": 1.25,
}  # fmt: skip
TOKENIZED: dict[str, Any] = {
    "vocab_size": 512, "documents": 3, "text_bytes": 500, "trained_on_share": 1.0, "bytes_per_token": 2.5,
    "byte_fallback_share": 0.25, "byte_fallback_share_without_newlines": 0.125, "by_kind": {}, "longest_pieces": ["the"],
    "seconds": 1.5, "cpu_seconds": 1.25, "of a later version": 7,
}  # fmt: skip
MEASURED: dict[str, Any] = {
    "step": 3, "parameters": 99, "weights_sha256": "ab", "validation": None, "unigram_perplexity": None, "tasks": {},
}  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return partial(recorded, monkeypatch)


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text("[clean]\nmin_words = 8\n[tokenizer]\nvocab_size = 999\n[evaluate]\nbatch_size = 3\n")
    return str(path)


# -- the surface, which others build on --------------------------------------------------------------------------------

FUNCTIONS = {
    "open_model": "(model, device='auto', dtype='fp32')",
    "clean": "(inputs, out, recipe=None, overrides=())",
    "train_tokenizer": "(inputs, out, recipe=None, overrides=())",
    "pretrain": "(recipe, run_dir, overrides=(), allow_changes=())",
    "training_batches": "(run_dir, step)",
    "evaluate": "(run_dir, recipe=None, overrides=())",
    "plan": "(recipe, gpus, tokens=None, price_per_gpu_hour=None, overrides=(), *, gpus_per_node=None, devices=None)",
}
METHODS = {
    "generate": "(self, prompts, *, max_new_tokens=128, temperature=0.8, top_k=0, top_p=0.95, min_p=0.0, "
    "repetition_penalty=1.0, stop=(), seed=1, num_samples=1, logprobs=False, on_text=None)",
    "score": "(self, texts)",
}
FIELDS = {
    "Generation": "prompt text token_ids finish_reason token_logprobs",
    "TextScore": "token_ids token_logprobs total_logprob mean_logprob perplexity bits_per_byte",
    "StepBatches": "step epoch windows tokens micro_batch_size",
    "CleanResult": " ".join(CLEANED),
    "TokenizerResult": " ".join(key for key in TOKENIZED if " " not in key),
    "TokenizerFit": "documents text_bytes sample_bytes bytes_per_token byte_fallback_share "
    "byte_fallback_share_without_newlines",
    "ValidationResult": "loss perplexity accuracy bits_per_byte tokens by_kind",
    "PretrainResult": "parameters device ranks step tokens epochs loss validation unigram_perplexity tokens_per_second "
    "mfu_causal mfu_palm peak_memory_bytes skipped_steps weights_sha256 seconds cpu_seconds",
    "EvaluateResult": " ".join(MEASURED),
    "TaskResults": "last_word",
    "LastWordResult": "accuracy accuracy_stderr n examples",
    "PlanResult": "device gpus gpus_per_node parameters matmul_parameters flops_per_token tokens steps fits parallel "
    "micro_batch_size overrides stage_layers memory_bytes_per_gpu memory_stage memory_parts usable_memory_bytes_per_gpu "
    "tokens_per_second step_seconds mfu_palm mfu_causal days gpu_hours step_seconds_parts cost disk_bytes disk_parts "
    "layouts changes notes",
    "LayoutEstimate": "replicate shard tensor pipeline gather micro_batch_size memory_bytes_per_gpu tokens_per_second",
}
OTHERS = {"LanguageModel", "LlamaConfig", "TinyllamaError", "InputError", "RecipeError", "RunStoppedError"}


def signature(function: Any) -> str:
    """Names and defaults, without annotations."""
    found = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    return str(inspect.Signature(bare))


def test_what_is_public():
    assert set(tinyllama.__all__) == FUNCTIONS.keys() | FIELDS.keys() | OTHERS
    assert all(getattr(tinyllama, name) for name in tinyllama.__all__)
    with pytest.raises(AttributeError, match="no attribute 'chat'"):
        tinyllama.chat  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_signatures():
    assert {name: signature(getattr(tinyllama, name)) for name in FUNCTIONS} == FUNCTIONS
    assert {name: signature(getattr(tinyllama.LanguageModel, name)) for name in METHODS} == METHODS
    public = {name for name in vars(tinyllama.LanguageModel) if not name.startswith("_")}
    assert public == METHODS.keys()


def test_fields_of_results():
    for name, words in FIELDS.items():
        kind: Any = getattr(tinyllama, name)
        found = kind.model_fields if issubclass(kind, api_results.PhaseResult) else [f.name for f in fields(kind)]
        assert list(found) == words.split(), name


def test_defaults_of_generate_are_those_of_the_recipe():
    given = inspect.signature(tinyllama.LanguageModel.generate).parameters
    wanted = GenerateConfig().model_dump()
    for name in wanted.keys() - {"prompts", "stop"}:
        assert given[name].default == wanted[name], name


# -- what is passed on -------------------------------------------------------------------------------------------------


def test_open_model(stand_in: StandIn):
    opened = stand_in("tinyllama.exchange.open_model.open_model", "the model")
    formats = stand_in("tinyllama.generate.decode.number_format", "the format")
    wrapped = stand_in("tinyllama.generate.language_model.LanguageModel", "the language model")
    assert tinyllama.open_model("m") == tinyllama.open_model(Path("m"), "cpu", "bf16") == "the language model"
    assert [call[0] for call in opened] == [(Path("m"), "auto", "the format"), (Path("m"), "cpu", "the format")]
    assert [call[0] for call in formats] == [("fp32",), ("bf16",)]
    assert wrapped == [(("the model",), {})] * 2


def test_clean_and_train_tokenizer(stand_in: StandIn, recipe_file: str):
    phases = {name: stand_in(f"tinyllama.phases.{name}_phase", name) for name in ("clean", "tokenizer")}
    ran = stand_in("tinyllama.api.run_phase", CLEANED)
    cleaned = tinyllama.clean(["a", Path("b")], "out", recipe_file, ("clean.max_words=77",))
    assert cleaned.to_dict() == CLEANED
    assert (cleaned.dropped, cleaned.clustered["out"]) == ({"c4_policy": 2}, 1)
    (recipe, inputs, out, documents), _ = phases["clean"][0]
    assert (recipe.clean.min_words, recipe.clean.max_words) == (8, 77)
    assert (inputs, out, documents) == ((Path("a"), Path("b")), Path("out"), Path("out/documents"))
    tinyllama.clean(["a"], "out")
    assert phases["clean"][1][0][0] == load_recipe(None)
    ran += stand_in("tinyllama.api.run_phase", TOKENIZED)
    assert tinyllama.train_tokenizer(["a"], "out", recipe_file, ("tokenizer.threads=2",)).to_dict() == TOKENIZED
    (recipe, inputs, out), _ = phases["tokenizer"][0]
    assert (recipe.tokenizer.vocab_size, recipe.tokenizer.threads) == (999, 2)
    assert (inputs, out) == ((Path("a"),), Path("out"))


def test_pretrain_and_evaluate(stand_in: StandIn, recipe_file: str):
    trained = stand_in("tinyllama.phases.pretrain", {})  # of a rank after the first
    assert tinyllama.pretrain(recipe_file, "r", ("train.steps=5",), ["train.peak_lr"]).to_dict() == {}
    (recipe, run_dir, allowed), _ = trained[0]
    assert (recipe.train.steps, recipe.clean.min_words, run_dir, allowed) == (5, 8, Path("r"), ["train.peak_lr"])
    measured = stand_in("tinyllama.evaluation.run_evaluation.evaluate_run", MEASURED)
    assert tinyllama.evaluate("r", recipe_file, ("evaluate.last_word_examples=4",)).to_dict() == MEASURED
    tinyllama.evaluate("r")
    wanted = EvaluateConfig(batch_size=3, last_word_examples=4)
    assert [call[0] for call in measured] == [(Path("r"), wanted), (Path("r"), EvaluateConfig())]


def test_plan(stand_in: StandIn, tmp_path: Path):
    recipe = load_recipe("small-120m", ["train.seed=5", "parallel.shard=2"])
    planned = cost.plan(recipe.llama_config(), recipe.train, "8xH100", 2 * 10**9, 1.5, parallel=recipe.parallel)
    made = stand_in("tinyllama.planning.cost.plan", planned)
    stand_in("tinyllama.api.read_devices", {"Mine": "a kind"})
    options = {"gpus_per_node": 4, "devices": tmp_path / "d.toml"}
    tinyllama.plan("small-120m", "8xMine", "2B", 1.5, ("train.seed=5", "parallel.shard=2"), **options)
    assert made[0] == (
        (recipe.llama_config(), recipe.train, "8xMine", 2 * 10**9, 1.5),
        {"gpus_per_node": 4, "devices": {"Mine": "a kind"}, "parallel": recipe.parallel},
    )
    tinyllama.plan("small-120m", "H100")
    assert made[1][0][2:] == ("H100", None, None)
    assert made[1][1] | {"parallel": None} == {"gpus_per_node": None, "devices": None, "parallel": None}


# -- results are the commands' -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "gpus"), [("tinyllama-1b", "16xA100-40G"), ("tinyllama-1b", "1xRTX4090"),
                                              ("small-120m", "7xH100"), ("small-120m", "1xCPU")])  # fmt: skip
def test_a_plan_is_that_of_the_command(recipe: str, gpus: str):
    resolved = load_recipe(recipe)
    wanted = cost.plan(resolved.llama_config(), resolved.train, gpus, parallel=resolved.parallel)
    found = tinyllama.plan(recipe, gpus)
    assert json.dumps(found.to_dict()) == json.dumps(wanted)
    assert found.fits == bool(found.layouts) == wanted["fits"]
    assert [layout.memory_bytes_per_gpu for layout in found.layouts] == [
        layout["memory_bytes_per_gpu"] for layout in wanted["layouts"]
    ]


def test_a_run_by_the_functions(prepared_run: Path, tmp_path: Path):
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    words = overrides()
    tokenizer = tinyllama.train_tokenizer([prepared_run / "clean"], tmp_path / "t", overrides=words)
    assert json.dumps(tokenizer.to_dict()) == json.dumps(files.read_json(tmp_path / "t" / "manifest.json")["summary"])
    assert tokenizer.by_kind["web"].bytes_per_token == tokenizer.bytes_per_token
    trained = tinyllama.pretrain("small-120m", run_dir, words)
    summary = files.read_json(run_dir / "checkpoints" / "manifest.json")["summary"]
    assert json.dumps(trained.to_dict()) == json.dumps(summary)
    assert trained.validation is not None
    assert (trained.step, trained.validation.loss) == (12, summary["validation"]["loss"])
    measured = tinyllama.evaluate(run_dir, overrides=["evaluate.last_word_examples=5"])
    assert measured.tasks.last_word is not None
    assert measured.tasks.last_word.n == 5
    assert measured.validation is not None
    assert measured.validation.loss == pytest.approx(trained.validation.loss, rel=1e-5)
    with pytest.raises(ValueError, match="frozen"):
        trained.step = 13  # pyright: ignore[reportAttributeAccessIssue]
    model = tinyllama.open_model(run_dir, "cpu")
    assert model.config.n_parameters == trained.parameters == model.network.config.n_parameters
    assert isinstance(model.network, type(tiny_llama()))


def test_documents_cleaned_by_the_function(tmp_path: Path, reference_texts: list[str]):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in reference_texts[:20]))
    cleaned = tinyllama.clean([path], tmp_path / "out")
    assert json.dumps(cleaned.to_dict()) == json.dumps(files.read_json(tmp_path / "out" / "manifest.json")["summary"])
    assert cleaned.documents_in == 20 == cleaned.documents_out + sum(cleaned.dropped.values())
