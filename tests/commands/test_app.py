"""Every option of a command reaches what it is for; the parts are stand-ins that write down how they are called."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.command_line import Call, StandIn, recorded, replace, result, tinyllama
from tinyllama.errors import InputError, RecipeError
from tinyllama.phase_runner import Phase
from tinyllama.recipe import Recipe, load_recipe

SUMMARY = {"documents": 1234, "share": 0.5}
PLAIN = "documents: 1,234\nshare: 0.5\n"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return partial(recorded, monkeypatch)


@pytest.fixture
def run_phase(stand_in: StandIn) -> list[Call]:
    """`run_phase` as the commands see it."""
    return stand_in("tinyllama.commands.app.run_phase", SUMMARY)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text("[sources]\nmax_pages = 7\n[clean]\nmin_words = 8\n[tokenizer]\nvocab_size = 999\n")
    return path


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.touch()
    return path


# -- every phase -------------------------------------------------------------------------------------------------------


def test_run_passes_recipe_overrides_folder_and_allowed_changes(stand_in: StandIn, recipe_file: Path):
    calls = stand_in("tinyllama.phases.run_recipe", {"crawl": {"a": 1}, "export": {"b": 2}})
    words = ("run", recipe_file, "train.steps=5", "clean.min_words=9")
    found = result(*words, "--run-dir", "here", "--allow-change", "train.peak_lr", "--allow-change", "train.min_lr")
    (recipe, run_dir, allowed), _ = calls[0]
    assert (recipe.sources.max_pages, recipe.train.steps, recipe.clean.min_words) == (7, 5, 9)
    assert (run_dir, list(allowed)) == (Path("here"), ["train.peak_lr", "train.min_lr"])
    assert found["crawl"] == {"a": 1}
    assert found["run_dir"] == "here"
    assert 0 <= found["seconds"] < 60
    result(*words)
    assert calls[1][0][1:] == (Path("runs/mine"), [])  # named as the recipe's file
    result("run", "small-120m")
    assert calls[2][0][1] == Path("runs/small-120m")


def test_quickstart_is_its_recipe_in_its_folder(stand_in: StandIn):
    calls = stand_in("tinyllama.phases.run_recipe", {})
    result("quickstart")
    result("quickstart", "--run-dir", "first")
    assert [(call[0][0], call[0][1], list(call[0][2])) for call in calls] == [
        (load_recipe("quickstart"), Path(folder), []) for folder in ("runs/quickstart", "first")
    ]


def test_people_read_each_phase_with_its_figures(stand_in: StandIn):
    summaries = {"crawl": {"pages": 1234, "left_out": {"robots": 5}}, "generate": {"text": "a", "samples": ["b"]}}
    stand_in("tinyllama.phases.run_recipe", summaries)
    out = tinyllama("quickstart", "--run-dir", "first").stdout
    assert out.startswith("\ncrawl\n  pages: 1,234\n  left_out: robots = 5\n\ngenerate\n  text: a\n\nfirst: ")
    assert out.endswith(" s; the report is first/report.html\n")


# -- data --------------------------------------------------------------------------------------------------------------


def test_crawl_puts_its_options_into_the_recipe(stand_in: StandIn, run_phase: list[Call], recipe_file: Path):
    phase = stand_in("tinyllama.phases.crawl_phase", "the phase")
    seeds, out = ["http://a.example/?q=1", "https://b.example/😀"], Path("out")
    private = ("--allow-private", "127.0.0.1:1", "--allow-private", "127.0.0.1:2")
    words = (*seeds, "sources.min_page_chars=3", "--out", out, "--recipe", recipe_file)
    found = result("crawl", *words, "--max-pages", 11, *private)
    (recipe, folder), _ = phase[0]
    assert (recipe.sources.seeds, recipe.sources.max_pages, recipe.sources.min_page_chars) == (seeds, 11, 3)
    assert (recipe.sources.allow_private, folder) == (["127.0.0.1:1", "127.0.0.1:2"], out)
    assert run_phase == [(("the phase",), {})]
    assert found.pop("cpu_seconds") > 0
    assert found == SUMMARY
    result("crawl", *words)
    assert (phase[1][0][0].sources.max_pages, phase[1][0][0].sources.allow_private) == (7, [])
    result("crawl", *words, "--max-pages", 0)  # 0 is a choice: no limit
    assert phase[2][0][0].sources.max_pages == 0
    result("crawl", 'sources.seeds=["http://c.example/"]', "--out", out)
    assert phase[3][0][0].sources.seeds == ["http://c.example/"]


def test_a_dry_crawl_only_looks(stand_in: StandIn, run_phase: list[Call]):
    looked = stand_in("tinyllama.sources.crawl.dry_run", {"would_fetch": 2})
    assert result("crawl", "http://a.example/", "--out", "out", "--dry-run") == {"would_fetch": 2}
    assert looked[0][0][0].seeds == ["http://a.example/"]
    assert run_phase == []


def test_clean_passes_inputs_and_recipe(stand_in: StandIn, run_phase: list[Call], recipe_file: Path, text_file: Path):
    phase = stand_in("tinyllama.phases.clean_phase", "the phase")
    found = result("clean", text_file, "clean.max_words=77", "--out", "out", "--recipe", recipe_file)
    (recipe, inputs, out, documents), _ = phase[0]
    assert (recipe.clean.min_words, recipe.clean.max_words) == (8, 77)
    assert (inputs, out, documents) == ((text_file,), Path("out"), Path("out/documents"))
    assert run_phase == [(("the phase",), {})]
    assert found.pop("cpu_seconds") > 0
    assert found == SUMMARY


def test_tokenizer_train_passes_inputs_and_recipe(stand_in: StandIn, recipe_file: Path, text_file: Path):
    phase = stand_in("tinyllama.phases.tokenizer_phase", "the phase")
    row = {"documents": 1, "text_bytes": 2, "bytes_per_token": 3.0, "byte_fallback_share": 0.1}
    summary = {"vocab_size": 300, "by_kind": {"web": row | {"byte_fallback_share_without_newlines": 0.0}}}
    stand_in("tinyllama.commands.app.run_phase", summary.copy())
    words = ("tokenizer", "train", text_file, "tokenizer.threads=3", "--out", "out", "--recipe", recipe_file)
    assert result(*words) == summary
    (recipe, inputs, out), _ = phase[0]
    assert (recipe.tokenizer.vocab_size, recipe.tokenizer.threads) == (999, 3)
    assert (inputs, out) == ((text_file,), Path("out"))
    lines = tinyllama(*words, "--vocab-size", 555).stdout.splitlines()
    assert phase[1][0][0].tokenizer.vocab_size == 555
    assert lines[0] == "vocab_size: 300"
    assert [line.split()[0] for line in lines[1:]] == ["kind", "web"]


def test_shards_passes_inputs_tokenizer_and_recipe(
    stand_in: StandIn, run_phase: list[Call], tmp_path: Path, text_file: Path
):
    (recipe_file := tmp_path / "s.toml").write_text("[shards]\nmax_shard_bytes = 4000\n")
    phase = stand_in("tinyllama.phases.shards_phase", "the phase")
    words = ("shards", text_file, tmp_path, "--tokenizer", "t", "--out", "out", "--recipe", recipe_file)
    assert result(*words) == SUMMARY
    (recipe, inputs, tokenizer, out), _ = phase[0]
    assert (recipe.shards.max_shard_bytes, inputs) == (4000, (text_file, tmp_path))
    assert (tokenizer, out) == (Path("t"), Path("out"))
    assert run_phase == [(("the phase",), {})]
    assert tinyllama(*words, "shards.max_shard_bytes=5000").stdout == PLAIN
    assert phase[1][0][0].shards.max_shard_bytes == 5000


@pytest.mark.parametrize("command", [("clean",), ("tokenizer", "train"), ("shards", "--tokenizer", "t")])
def test_an_input_that_is_not_there_is_named(run_phase: list[Call], command: tuple[str, ...], tmp_path: Path):
    done = tinyllama(*command, tmp_path / "none", "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError)
    assert run_phase == []


# -- the model ---------------------------------------------------------------------------------------------------------


def test_pretrain_passes_recipe_overrides_folder_and_allowed_changes(stand_in: StandIn, recipe_file: Path):
    calls = stand_in("tinyllama.phases.pretrain", SUMMARY)
    words = ("pretrain", recipe_file, "train.steps=5")
    assert result(*words, "--run-dir", "here", "--allow-change", "train.min_lr") == SUMMARY
    (recipe, run_dir, allowed), _ = calls[0]
    assert (recipe.sources.max_pages, recipe.train.steps) == (7, 5)
    assert (run_dir, allowed) == (Path("here"), ["train.min_lr"])
    assert tinyllama(*words).stdout == PLAIN
    assert calls[1][0][1:] == (Path("runs/mine"), [])


def test_score_takes_the_text_or_stdin(stand_in: StandIn):
    opened = stand_in("tinyllama.exchange.open_model.open_model", "the model")
    scored = stand_in("tinyllama.generate.text_score.score", SUMMARY)
    assert result("score", "m", "--text", "A text", stdin="other") == SUMMARY
    result("score", "m", "--text", "-", stdin="From\nstdin")
    assert [call[0] for call in opened] == [(Path("m"),)] * 2
    assert [call[0] for call in scored] == [("the model", "A text"), ("the model", "From\nstdin")]


@pytest.fixture
def decoding(stand_in: StandIn) -> dict[str, list[Call]]:
    """The calls of decoding and of opening a model."""
    return {
        "format": stand_in("tinyllama.generate.decode.number_format", "the format"),
        "open": stand_in("tinyllama.exchange.open_model.open_model", "the model"),
        "one": stand_in("tinyllama.generate.decode.generate", SUMMARY),
        "many": stand_in("tinyllama.generate.decode.generate_many", {"sequences": [{"prompt": "P", "text": "q"}] * 2}),
    }


def test_generate_without_options_is_the_recipes_default(decoding: dict[str, list[Call]]):
    assert result("generate", "m") == SUMMARY
    assert decoding["one"] == [(("the model", "", load_recipe(None).generate), {})]
    assert decoding["format"][0][0] == ("auto",)
    assert decoding["open"] == [((Path("m"),), {"dtype": "the format"})]


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        (("--max-new-tokens", "9"), "max_new_tokens", 9),
        (("--temperature", "0.25"), "temperature", 0.25),
        (("--greedy",), "temperature", 0.0),
        (("--top-k", "6"), "top_k", 6),
        (("--top-p", "0.5"), "top_p", 0.5),
        (("--min-p", "0.125"), "min_p", 0.125),
        (("--repetition-penalty", "1.5"), "repetition_penalty", 1.5),
        (("--stop", "é😀", "--stop", '"\n'), "stop", ["é😀", '"\n']),
        (("--seed", "12"), "seed", 12),
    ],
)
def test_each_option_of_generate_changes_its_key_alone(
    decoding: dict[str, list[Call]], option: tuple[str, ...], key: str, value: object
):
    result("generate", "m", "--prompt", "P", *option)
    (_, prompt, config), _ = decoding["one"][0]
    default = load_recipe(None).generate.model_dump()
    assert prompt == "P"
    assert config.model_dump() == default | {key: value}


def test_several_prompts_and_samples_are_decoded_together(decoding: dict[str, list[Call]]):
    found = result("generate", "m", "--prompt", "a", "--prompt", "b", "--num-samples", 2, "--dtype", "fp16")
    assert len(found["sequences"]) == 2
    assert decoding["many"][0][0][:2] == ("the model", ["a", "a", "b", "b"])
    assert decoding["format"][0][0] == ("fp16",)
    result("generate", "m", "--num-samples", 2)
    assert decoding["many"][1][0][1] == ["", ""]
    assert decoding["one"] == []
    assert tinyllama("generate", "m", "--num-samples", 2).stdout == "--- 1\nPq\n--- 2\nPq\n"


def test_people_read_the_text_as_it_is_made(decoding: dict[str, list[Call]], monkeypatch: pytest.MonkeyPatch):
    def generate(*_: object, on_text: Callable[[str], None]) -> None:
        on_text(" and")
        on_text(" on")

    replace(monkeypatch, "tinyllama.generate.decode.generate", generate)
    assert tinyllama("generate", "m", "--prompt", "On").stdout == "On and on\n"


def test_export_passes_its_form(stand_in: StandIn, run_phase: list[Call], tmp_path: Path):
    phase = stand_in("tinyllama.phases.export_phase", "the phase")
    (tmp_path / "checkpoints").mkdir()
    assert result("export", tmp_path, "--out", "out") == SUMMARY
    result("export", "m.gguf", "--out", "out", "--format", "gguf", "--gguf-type", "q8_0")
    assert [call[0] for call in phase] == [
        ((tmp_path / "checkpoints",), tmp_path, Path("out"), "hf", "f16"),
        ((Path("m.gguf"),), Path("m.gguf"), Path("out"), "gguf", "q8_0"),
    ]
    assert run_phase == [(("the phase",), {})] * 2


def test_report_says_where_the_page_is(stand_in: StandIn):
    written = stand_in("tinyllama.report.run_report.write_report", Path("r/report.html"))
    assert result("report", "r") == {"report": "r/report.html"}
    assert tinyllama("report", "r").stdout == "report: r/report.html\n"
    assert written[0][0] == (Path("r"),)


# -- tokenizer ---------------------------------------------------------------------------------------------------------


def test_encode_and_decode_read_lines(prepared_run: Path):
    from tinyllama.tokenizer.bpe import Tokenizer

    folder = prepared_run / "tokenizer"
    opened = Tokenizer.load(folder)
    texts = ["The statement", "", " <s>é"]
    ids = [opened.encode(text) for text in texts]
    stdin = "".join(json.dumps(text) + "\n" for text in texts)
    assert result("tokenizer", "encode", folder, stdin=stdin) == {"ids": ids}
    assert tinyllama("tokenizer", "encode", folder, stdin=stdin).stdout == "".join(
        json.dumps(row) + "\n" for row in ids
    )
    rows = "".join(json.dumps(row) + "\n" for row in ids)
    assert result("tokenizer", "decode", folder, stdin=rows) == {"texts": texts}
    assert tinyllama("tokenizer", "decode", folder, stdin=rows).stdout == "".join(text + "\n" for text in texts)
    for wrong in ("[1]\n[2, 1.5]\n", '["1"]\n', "[null, 1]\n"):
        done = tinyllama("tokenizer", "decode", folder, stdin=wrong)
        assert str(done.exception) == "stdin: an id is not a whole number; write lists such as [1, 450]"


# -- content -----------------------------------------------------------------------------------------------------------


def test_train_safety_is_a_phase_of_its_labels_names_and_seed(stand_in: StandIn, text_file: Path):
    run = stand_in("tinyllama.commands.content_commands.run_phase", SUMMARY)
    trained = stand_in("tinyllama.cleaning.safety_train.train_safety", {"figures": 1})
    words = ("train-safety", text_file, "--out", "out", "--label", "2=none", "--label", "1=hate=x", "--label", "0=")
    assert result(*words, "--seed", 3) == SUMMARY
    phase: Phase = run[0][0][0]
    names = {"2": "none", "1": "hate=x", "0": ""}
    assert (phase.name, phase.config) == ("train-safety", {"labels": names, "seed": 3})
    assert (phase.inputs, phase.out) == ((text_file,), Path("out"))
    assert phase.run(Path("there")) == {"figures": 1}
    assert trained[0][0] == ([text_file], Path("there"), names, 3)
    result("train-safety", text_file, "--out", "out")
    assert run[1][0][0].config == {"labels": {}, "seed": 0}
    for wrong in ("none", "=none"):
        done = tinyllama("train-safety", text_file, "--out", "out", "--label", "1=hate", "--label", wrong)
        assert isinstance(done.exception, RecipeError)
    done = tinyllama("train-safety", text_file, "none.jsonl", "--out", "out")
    assert str(done.exception) == "none.jsonl: no such file or folder"


def test_score_safety_tells_hate_from_sexual(stand_in: StandIn):
    class Model:
        def text_probabilities(self, texts: list[str]) -> list[tuple[float, float]]:
            return [(0.25, 0.75), (0.5, 0.125)][: len(texts)]

    opened = stand_in("tinyllama.cleaning.safety_model.open_safety_model", Model())
    found = result("score-safety", "--model", "folder", stdin='"a"\n"b"\n')
    assert found == {"hate": [0.25, 0.5], "sexual": [0.75, 0.125]}
    out = tinyllama("score-safety", stdin='"a"\n"b"\n').stdout
    assert out == "hate 0.2500  sexual 0.7500\nhate 0.5000  sexual 0.1250\n"
    assert [call[0] for call in opened] == [(Path("folder"),), (None,)]


def test_explain_joins_fate_and_reads_or_lists_a_steps_documents(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch):
    steps = stand_in("tinyllama.train.data_read.documents_of_step", {"documents": ["d"]})
    reads = stand_in("tinyllama.train.data_read.document_reads", {"steps": [1]})
    fates = stand_in("tinyllama.cleaning.explain.explain_document", {"id": "d", "fate": "train"})
    assert result("explain", "r", "d") == {"id": "d", "fate": "train", "steps": [1]}
    assert reads[0][0] == fates[0][0] == (Path("r"), "d")
    assert result("explain", "r", "--step", 4) == {"documents": ["d"]}
    assert result("explain", "r", "--step", 0) == {"documents": ["d"]}
    assert [call[0] for call in steps] == [(Path("r"), 4), (Path("r"), 0)]
    for words in (("r",), ("r", "d", "--step", "1")):
        assert isinstance(tinyllama("explain", *words).exception, RecipeError)

    def unknown(*_: object) -> None:
        raise InputError("no document")

    replace(monkeypatch, "tinyllama.cleaning.explain.explain_document", unknown)
    assert result("explain", "r", "d") == {"id": "d", "steps": [1]}  # shards alone know it
    stand_in("tinyllama.train.data_read.document_reads", {})
    assert isinstance(tinyllama("explain", "r", "d").exception, InputError)


def test_a_recipes_own_type_reaches_the_phases(stand_in: StandIn, run_phase: list[Call]):
    phase = stand_in("tinyllama.phases.crawl_phase")
    result("crawl", "http://a.example/", "--out", "out")
    assert isinstance(phase[0][0][0], Recipe)
