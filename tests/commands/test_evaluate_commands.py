"""`evaluate`, `scorecard`, `drill` and `plan`: their options reach their parts, and what they print is by hand."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Call, StandIn, recorded, result, tinyllama
from tinyllama.drill.kill_drill import Drill
from tinyllama.drill.kill_plan import RunSchedule
from tinyllama.errors import InputError, RecipeError
from tinyllama.evaluation.evaluate_config import EvaluateConfig
from tinyllama.harness.run_tasks import TaskSettings
from tinyllama.recipe import load_recipe

FOUND = {
    "tasks": {
        "piqa": {
            "acc": 0.51234, "acc_stderr": 0.0123, "acc_norm": 0.5, "acc_norm_stderr": None, "n": 1838, "n_official": 1838,
        },
        "arc_easy": {"acc": 0.25, "acc_stderr": 0.1, "n": 200, "n_official": 2376, "note": "a note"},
    },
    "averages": {"zero_shot": {"value": 0.41236, "stderr": 0.00124}, "all": {"value": 0.5, "stderr": 0.25}},
    "left_out": {"boolq": "no data", "wic": "no file"},
    "results": "the/results",
}  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return partial(recorded, monkeypatch)


@pytest.fixture
def tasks(stand_in: StandIn) -> dict[str, list[Call]]:
    """The calls that measure a model on tasks."""
    stand_in("tinyllama.harness.task_list.need_lm_eval")
    return {
        "choose": stand_in("tinyllama.harness.task_list.choose_tasks"),
        "format": stand_in("tinyllama.generate.decode.number_format", "the format"),
        "open": stand_in("tinyllama.exchange.open_model.open_model", "the model"),
        "measure": stand_in("tinyllama.harness.run_tasks.evaluate_tasks", FOUND),
        "card": stand_in("tinyllama.harness.scorecard.write_run_card"),
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints" / "step_00000005").mkdir(parents=True)
    return tmp_path / "run"


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- evaluate ----------------------------------------------------------------------------------------------------------


def test_each_option_of_evaluate_reaches_the_tasks(tasks: dict[str, list[Call]], in_tmp: Path):
    (in_tmp / "data").mkdir()
    words = ("--data-dir", "data", "--limit", 7, "--num-fewshot", 3, "--tokens-per-batch", 512, "--max-tokens", 64)
    more = ("--no-compile", "--dtype", "bf16", "--device", "cpu", "--out", "here")
    assert result("evaluate", "m", "--tasks", "piqa,,arc_easy", *words, *more) == FOUND
    names = ["piqa", "arc_easy"]
    assert tasks["choose"][0][0] == (names,)
    assert tasks["format"][0][0] == ("bf16",)
    assert tasks["open"][0][0] == (Path("m"), "cpu", "the format")
    assert tasks["measure"][0][0] == (
        "the model",
        names,
        TaskSettings(Path("data"), 7, 3, 512, 64, False),
        Path("here"),
    )
    assert tasks["card"] == []  # no run folder
    result("evaluate", "m", "--tasks", "", "--compile")
    assert tasks["measure"][1][0][1:] == ([], TaskSettings(None, None, 0, None, None, True), Path("evaluations/m"))
    assert tasks["open"][1][0][1] == "auto"
    assert tasks["format"][1][0] == ("auto",)


def test_a_run_keeps_its_results_by_checkpoint_and_its_card(
    tasks: dict[str, list[Call]], stand_in: StandIn, run_dir: Path
):
    stand_in("tinyllama.exchange.open_model.model_folder", run_dir / "checkpoints" / "step_00000005")
    result("evaluate", run_dir, "--tasks", "piqa")
    assert tasks["measure"][0][0][3] == run_dir / "evaluation" / "step_00000005"
    assert tasks["measure"][0][0][2] == TaskSettings(None)
    assert tasks["card"] == [((run_dir, Path("the/results")), {})]


def test_people_read_a_line_for_each_task(tasks: dict[str, list[Call]]):
    assert tinyllama("evaluate", "m", "--tasks", "all").stdout.splitlines() == [
        "piqa            acc 0.5123 ± 0.012, acc_norm 0.5; 1,838 examples",
        "arc_easy        acc 0.25 ± 0.1; 200 of 2,376 examples (a note)",
        "zero_shot       average 0.4124 ± 0.0012",
        "all             average 0.5000 ± 0.2500",
        "boolq           skipped: no data",
        "wic             skipped: no file",
        "results: the/results",
    ]


def test_without_tasks_a_run_is_measured_as_its_own_recipe_says(stand_in: StandIn, tmp_path: Path):
    measured = stand_in("tinyllama.evaluation.run_evaluation.evaluate_run", {"loss": 2.5})
    assert result("evaluate", tmp_path) == {"loss": 2.5}
    (tmp_path / "recipe.toml").write_text("[evaluate]\nbatch_size = 3\n")
    assert tinyllama("evaluate", tmp_path).stdout == "loss: 2.5\n"
    assert [call[0] for call in measured] == [(tmp_path, EvaluateConfig()), (tmp_path, EvaluateConfig(batch_size=3))]


def write_scores(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "piqa.json").write_text(json.dumps({"task": "piqa", "metrics": {}}))
    return folder


def test_two_models_are_compared_in_their_order(tasks: dict[str, list[Call]], stand_in: StandIn, in_tmp: Path):
    compared = stand_in("tinyllama.harness.compare.compare", {"a": 1})
    stand_in("tinyllama.harness.compare.table", "the table")
    a, b = write_scores(in_tmp / "x" / "a"), write_scores(in_tmp / "evaluations" / "b")
    assert result("evaluate", "--compare", a, "b") == {"a": 1}  # a folder of results, and a MODEL that has some
    assert [tuple(map(Path.absolute, call[0])) for call in compared] == [(a, b)]
    assert tasks["measure"] == []
    assert tinyllama("evaluate", "--compare", b, a).stdout == "the table\n"
    assert compared[1][0] == (b, a)
    (in_tmp / "evaluations" / "c").mkdir()
    result("evaluate", "--compare", "b", "c", "--tasks", "piqa", "--out", "here", "--limit", 9, "--device", "cuda")
    assert [call[0][1:] for call in tasks["open"]] == [("cuda", "the format")] * 2
    assert [(call[0][1], call[0][2].limit, call[0][3]) for call in tasks["measure"]] == [
        (["piqa"], 9, Path("evaluations") / name) for name in "bc"
    ]
    assert tasks["card"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "MODEL: give a model to evaluate, or --compare A B"),
        (("m", "--compare", "a", "b"), "m: with --compare, give the two models only there"),
        (("m", "--tasks", "piqa", "--data-dir", "none"), "--data-dir none: no such folder"),
        (("--compare", "a", "b", "--tasks", "piqa", "--data-dir", "none"), "--data-dir none: no such folder"),
        (("--compare", "a", "b"), "a: it has no results; run: tinyllama evaluate a --tasks zero_shot --data-dir D"),
    ],
)
def test_what_evaluate_refuses(tasks: dict[str, list[Call]], in_tmp: Path, words: tuple[str, ...], message: str):
    done = tinyllama("evaluate", *words)
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == message
    assert tasks["measure"] == []


def test_a_scorecard_looks_for_each_models_results(
    stand_in: StandIn, run_dir: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
):
    card = stand_in("tinyllama.harness.scorecard.card", {"rows": []})
    stand_in("tinyllama.harness.scorecard.render", "the card")
    stand_in("tinyllama.exchange.open_model.model_folder", Path("step_00000005"))
    newest = write_scores(run_dir / "evaluation" / "step_00000005")
    (run_dir / "manifest.json").write_text("{}")  # a run folder is no folder of results, whatever lies in it
    loose = write_scores(in_tmp / "loose")
    (in_tmp / "hf").mkdir()
    (in_tmp / "hf" / "config.json").write_text("{}")
    (in_tmp / "x.gguf").write_text("")
    for name in ("hf", "x.gguf"):
        write_scores(in_tmp / "evaluations" / name)
    assert result("scorecard", run_dir, loose, "hf", "x.gguf") == {"rows": []}
    assert card[0][0] == (
        {
            str(run_dir): newest, str(loose): loose, "hf": Path("evaluations/hf"), "x.gguf": Path("evaluations/x.gguf"),
        },
    )  # fmt: skip
    assert tinyllama("scorecard", loose).stdout == "the card\n"
    (in_tmp / "bare").mkdir()
    assert isinstance(tinyllama("scorecard", "bare").exception, InputError)


# -- drill -------------------------------------------------------------------------------------------------------------

DRILLED = {
    "kills": 3, "agree": 3, "runs": 2, "fell_in": {"save": 1}, "weights_sha256": "ab", "seconds": 1234.5, "other": 1,
}  # fmt: skip
SETTINGS = (
    "model.preset=tiny-2m", "train.micro_batch_size=2", "train.seq_len=16", "train.tokens_per_step=128",
    "train.steps=40", "train.save_every_steps=5", "train.validate_every_steps=9", "parallel.timeout_seconds=7",
)  # fmt: skip
DETERMINISTIC = ("train.deterministic_reduction=true", "train.reduction_lanes=4")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("shards", "tokenizer"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def test_each_option_of_the_drill_reaches_it(stand_in: StandIn, data: Path):
    drilled = stand_in("tinyllama.drill.kill_drill.run_drill", DRILLED)
    words = ("drill", "small-120m", *SETTINGS, *DETERMINISTIC, "--run-dir", data)
    assert result(*words, "--kills", 3, "--world-sizes", "1,2,4", "--seed", 6) == DRILLED
    given = ["small-120m", *SETTINGS, *DETERMINISTIC]
    interval = RunSchedule(40, 5, 9)
    wanted = Drill([*given, "parallel.threads=1"], data, data / "drill", 3, [1, 2, 4], 6, interval, 7)
    assert drilled == [((wanted,), {})]
    result(*words)
    assert drilled[1][0][0] == Drill(given, data, data / "drill", 10, [1], 0, interval, 7)
    result(*words, "--world-sizes", "2", "parallel.threads=3")
    assert drilled[2][0][0].words == [*given, "parallel.threads=3"]
    assert tinyllama(*words).stdout.splitlines() == [
        "kills: 3", "agree: 3", "runs: 2", "fell_in: save = 1", "weights_sha256: ab", "seconds: 1,234",
        f"report: {data / 'drill' / 'drill.md'}",
    ]  # fmt: skip


def test_a_drill_with_a_difference_ends_with_code_1(stand_in: StandIn, data: Path):
    words = ("drill", "small-120m", *SETTINGS, "--run-dir", data, "--json")
    for agree, code in ((3, 0), (2, 1), (0, 1)):
        stand_in("tinyllama.drill.kill_drill.run_drill", DRILLED | {"agree": agree})
        done = tinyllama(*words)
        assert (done.exit_code, json.loads(done.stdout)["agree"]) == (code, agree)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--world-sizes", "1,0"), "--world-sizes 1,0: write numbers of ranks, such as 1,2,4"),
        (("--world-sizes", "0"), "--world-sizes 0: write numbers"),
        (("--world-sizes", "2,x"), "--world-sizes 2,x: write numbers"),
        (("--world-sizes", ""), "--world-sizes : write numbers"),
        (
            ("--world-sizes", "1,2"),
            "--world-sizes 1,2: results are bit-for-bit equal on all of them only with",
        ),
        (("--world-sizes", "1,3", *DETERMINISTIC), "command line: parallel.replicate: 3 ranks"),
        (("--world-sizes", "3"), "command line: parallel.replicate: 3 ranks"),
    ],
)
def test_ranks_that_a_drill_cannot_have(stand_in: StandIn, data: Path, words: tuple[str, ...], message: str):
    drilled = stand_in("tinyllama.drill.kill_drill.run_drill", DRILLED)
    done = tinyllama("drill", "small-120m", *SETTINGS, "--run-dir", data, *words)
    assert isinstance(done.exception, RecipeError)
    assert str(done.exception).replace("recipe small-120m:", "command line:").startswith(message)
    assert drilled == []


def test_a_drill_needs_shards_and_tokenizer(data: Path):
    for name in ("tokenizer", "shards"):
        (data / name).rmdir()
        done = tinyllama("drill", "small-120m", *SETTINGS, "--run-dir", data)
        assert str(done.exception) == f"{data / name}: no such folder; `tinyllama {name}` creates it"
    done = tinyllama("drill", "small-120m", *SETTINGS)
    assert "runs/small-120m/shards" in str(done.exception)


# -- plan --------------------------------------------------------------------------------------------------------------


def test_each_option_of_plan_reaches_it(stand_in: StandIn, tmp_path: Path):
    planned: dict[str, Any] = {"fits": True}
    made = stand_in("tinyllama.planning.cost.plan", planned)
    read = stand_in("tinyllama.planning.device_file.read_devices", {"Mine": "a kind"})
    words = ("plan", "small-120m", "train.seq_len=512", "train.tokens_per_step=524288", "parallel.shard=2")
    options = ("--tokens", "2B", "--price", 1.5, "--gpus-per-node", 4, "--devices", tmp_path / "d.toml")
    assert result(*words, "--gpus", "8xMine", *options) == planned
    recipe = load_recipe("small-120m", list(words[2:]))
    assert made[0] == (
        (recipe.llama_config(), recipe.train, "8xMine", 2 * 10**9, 1.5),
        {"gpus_per_node": 4, "devices": {"Mine": "a kind"}, "parallel": recipe.parallel},
    )
    assert read == [((tmp_path / "d.toml",), {})]
    result(*words, "--gpus", "H100")
    assert made[1][0][2:] == ("H100", None, None)
    assert made[1][1] == {"gpus_per_node": None, "devices": None, "parallel": recipe.parallel}


def test_people_read_the_plan_and_how_to_start_it(stand_in: StandIn):
    stand_in("tinyllama.planning.plan_table.render", "the table")
    launch = stand_in("tinyllama.planning.plan_table.launch_command", "start it")
    for fits, lines in ((True, "the table\nstart it\n"), (False, "the table\n")):
        stand_in("tinyllama.planning.cost.plan", {"fits": fits})
        assert tinyllama("plan", "small-120m", "train.seed=1", "--gpus", "H100").stdout == lines
    assert launch == [(({"fits": True}, ["small-120m", "train.seed=1"]), {})]
