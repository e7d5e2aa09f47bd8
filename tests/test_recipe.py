"""Recipes: how a file and `key=value` become settings, and what a mistake is answered with."""

from pathlib import Path
from typing import Any

import pytest

from tinyllama.errors import RecipeError
from tinyllama.recipe import ModelConfig, Recipe, load_recipe, packaged_recipes, to_toml

TINY = ["model.preset=tiny-2m", "train.micro_batch_size=2", "train.seq_len=16", "train.tokens_per_step=64"]


def refused(*overrides: str, name: str | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.peak_lr=3e-4", "train", "peak_lr", 3e-4),
        ("train.steps=12", "train", "steps", 12),
        (" train.steps =12", "train", "steps", 12),
        ("train.tokens=1_000", "train", "tokens", 1000),
        ("train.keep_best=false", "train", "keep_best", False),
        ("train.init_from=runs/a=b", "train", "init_from", "runs/a=b"),
        ("train.init_from=", "train", "init_from", ""),
        ('train.init_from="7"', "train", "init_from", "7"),
        ("clean.languages=[]", "clean", "languages", []),
        ('sources.seeds=["http://a/?b=c", "http://d/"]', "sources", "seeds", ["http://a/?b=c", "http://d/"]),
        ("tokenizer.character_coverage=1", "tokenizer", "character_coverage", 1),
    ],
)
def test_an_override_is_toml_or_else_text(override: str, section: str, key: str, value: Any):
    found = load_recipe(None, [override]).model_dump()[section][key]
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


def test_overrides_lie_on_top_of_the_file_and_the_last_one_wins(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nsteps = 5\nwarmup_steps = 3\n[tokenizer]\nthreads = 2\n")
    recipe = load_recipe(str(path), ["train.steps=6", "train.seed=1", "train.steps=7"])
    assert (recipe.train.steps, recipe.train.warmup_steps, recipe.train.seed) == (7, 3, 1)
    assert recipe.tokenizer.threads == 2
    assert load_recipe(str(path)).train.steps == 5
    assert load_recipe(None) == Recipe()


def test_a_packaged_name_comes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert packaged_recipes() == ["article-1b", "quickstart", "small-120m", "tinyllama-1b"]
    (tmp_path / "quickstart").write_text("[train]\nsteps = 77\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").train.steps != 77
    assert load_recipe("./quickstart").train.steps == 77
    assert refused("train.stepz=1", name="quickstart").startswith("recipe quickstart: unknown key train.stepz, did you")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.steps", "'train.steps': not an override; write section.key=value, such as train.peak_lr=3e-4"),
        ("steps=5", "'steps=5': not an override"),
        ("train.steps.more=5", "'train.steps.more=5': not an override"),
        ("trx.steps=5", "command line: unknown key trx, did you mean train?"),  # half of the letters are there
        (
            "moxy.dim=5",  # fewer are
            "command line: unknown key moxy; known: clean, evaluate, generate, model, parallel, shards, sources, "
            "tokenizer, train",
        ),
        ("train.stips=5", "command line: unknown key train.stips, did you mean train.steps?"),
        ("evaluate.xyz=5", "command line: unknown key evaluate.xyz; known: batch_size, last_word_examples"),
        ("train.steps=1.5", "command line: train.steps = 1.5 should be a valid integer"),
        ("train.steps=true", "command line: train.steps = true should be a valid integer"),
        ("train.keep_best=1", "command line: train.keep_best = 1 should be a valid boolean"),
        ("clean.languages=[1]", "command line: clean.languages.0 = 1 should be a valid string"),
        ("clean.languages=5", "command line: clean.languages = 5 should be a valid list"),
        ('train.steps="a\\u007f"', 'command line: train.steps = "a\\u007f" should be a valid integer'),
        ("train.steps=[1, true, 'é']", 'command line: train.steps = [1, true, "é"] should be a valid integer'),
        ("train.min_lr=1.0", "command line: train.min_lr: 1.0 is above peak_lr 0.0004"),
        ("model.preset=tiny-2", "command line: model.preset: unknown 'tiny-2', did you mean tiny-2m?"),
        ("model.n_heads=7", "command line: model.n_kv_heads: 4 does not divide n_heads 7"),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_mend(override: str, words: str):
    assert refused(override).startswith(words)


def test_a_section_that_is_no_table_is_named(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text("train = 3\n")
    for overrides in ([], ["train.steps=1"]):
        said = refused(*overrides, name=str(path))
        assert said == f"{path}: train = 3 is a value in place of a section; write [train] and its keys"


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    assert refused(name=str(tmp_path)) == f"{tmp_path}: cannot be read (Is a directory)"
    near = refused(name="quickstrat")
    assert near == (
        "no recipe 'quickstrat': no such file. Did you mean quickstart? Packaged: article-1b, quickstart, "
        "small-120m, tinyllama-1b"
    )
    assert refused(name="zzz").startswith("no recipe 'zzz': no such file. Packaged: article-1b, ")
    for content in (b"[train", b"\xff"):
        (tmp_path / "bad.toml").write_bytes(content)
        assert refused(name=str(tmp_path / "bad.toml")).startswith(f"{tmp_path / 'bad.toml'}: not valid TOML (")


def test_every_value_that_the_model_section_gives_reaches_the_network():
    given = {
        "vocab_size": 300, "dim": 48, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "head_dim": 10, "ffn_dim": 40,
        "embedding_dim": 24, "tied_head": False, "rope_theta": 500.0, "rope_scaling": "llama3", "rope_factor": 3.0,
        "rope_low_freq_factor": 1.5, "rope_high_freq_factor": 5.0, "rope_original_seq_len": 64, "norm_eps": 1e-4,
        "dropout": 0.1, "attention_dropout": 0.2,
    }  # fmt: skip
    assert given.keys() | {"preset"} == ModelConfig.model_fields.keys()
    words = [f"model.{key}={str(value).lower()}" for key, value in given.items()]
    network = load_recipe(None, [*TINY, "tokenizer.vocab_size=400", *words]).llama_config().to_dict()
    assert network == given | {"seq_len": 16}


def test_the_network_takes_its_vocabulary_and_context_from_the_other_sections():
    network = load_recipe(None, [*TINY, "tokenizer.vocab_size=400"]).llama_config()
    assert (network.vocab_size, network.seq_len, network.dim, network.tied_head) == (400, 16, 192, True)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # 4 micro-batches of 2 x 16 = 32 tokens; 4 heads, 2 of keys, 512 columns
        (["parallel.tensor=4"], "parallel.tensor: 4 ranks cannot share 2 key and value heads"),
        (["train.micro_batch_size=1", "train.seq_len=5", "train.tokens_per_step=5", "parallel.tensor=2"],
         "parallel.tensor: 2 ranks cannot share 5 tokens of a micro-batch"),
        (["parallel.replicate=3"], "parallel.replicate: 3 ranks cannot share the step's 2 micro-batches"),
        (["parallel.pipeline=4"], "parallel.pipeline: 4 stages need as many micro-batches a step"),
        (["train.deterministic_reduction=true"], "train.reduction_lanes: 8 lanes cannot share the step's 2 micro-"),
        (["train.deterministic_reduction=true", "train.reduction_lanes=2", "parallel.shard=2"],
         "train.deterministic_reduction: true works with parallel.replicate alone"),
        (["train.deterministic_reduction=true", "train.tokens_per_step=768", "parallel.replicate=3"],
         "parallel.replicate: 3 ranks cannot share train.reduction_lanes = 8 evenly"),
        (["train.precision=fp8", "train.seq_len=12", "train.tokens_per_step=24"],
         "train.precision: 'fp8' needs widths that are multiples of 16; the tokens of a micro-batch"),
        (["train.precision=fp8", "model.ffn_dim=528", "parallel.tensor=2"],
         "train.precision: 'fp8' needs widths that are multiples of 16; the columns of the feed-forward (model.ffn_dim) "
         "are 528 / 2 tensor ranks = 264"),
    ],
)  # fmt: skip
def test_what_the_ranks_cannot_share_is_refused_with_the_recipe(overrides: list[str], words: str):
    assert refused(*TINY, *overrides).startswith(f"command line: {words}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel.replicate=2"],
        ["parallel.pipeline=2"],
        ["parallel.tensor=2", "parallel.shard=2"],
        ["train.precision=fp8", "train.seq_len=8", "train.tokens_per_step=16"],
        ["train.precision=fp8", "model.ffn_dim=528"],
        ["train.deterministic_reduction=true", "train.reduction_lanes=2", "parallel.replicate=2"],
    ],
)
def test_what_the_ranks_can_share_is_accepted(overrides: list[str]):
    recipe = load_recipe(None, [*TINY, *overrides])
    assert recipe.layout().ranks == recipe.parallel.replicate * recipe.parallel.shard
    assert recipe.layout().lanes == (2 if recipe.train.deterministic_reduction else 0)


def test_a_recipe_is_written_with_every_section_and_value():
    written = to_toml(load_recipe(None, [*TINY, 'generate.stop=["a\\"b", "é\\u007f"]', "train.keep_best=false"]))
    assert [line for line in written.splitlines() if line.startswith("[")] == [
        f"[{section}]" for section in Recipe.model_fields
    ]
    lines = written.splitlines()
    for line in (
        'stop = ["a\\"b", "é\\u007f"]', "keep_best = false", "steps = 0", "peak_lr = 0.0004", 'preset = "tiny-2m"',
    ):  # fmt: skip
        assert line in lines
    assert "None" not in written
    assert lines[lines.index("[tokenizer]") - 1] == ""
