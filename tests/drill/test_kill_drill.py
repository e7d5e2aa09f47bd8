"""The drill kills where it says, finds a run that is the same, and does not overlook one that is not."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tinyllama import files
from tinyllama.commands.app import app
from tinyllama.drill import kill_drill
from tinyllama.drill.drill_report import Kill, fallen
from tinyllama.drill.kill_drill import first_difference
from tinyllama.drill.rank_processes import RankProcesses
from tinyllama.errors import RunStoppedError
from tinyllama.parallel.rank_progress import Activity, ActivityAt

PAGE = (Path(__file__).parents[2] / "docs" / "ranks.md").read_text()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe of docs/ranks.md."""
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    (tmp_path / "drill.toml").write_text(next(block for block in blocks if "deterministic_reduction" in block))
    return tmp_path / "drill.toml"


def drilled(run_dir: Path, recipe: Path, *words: str) -> tuple[int, dict]:
    done = CliRunner().invoke(app, ["drill", str(recipe), "--run-dir", str(run_dir), "--json", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


def test_a_short_drill(prepared_run: Path, tmp_path: Path, recipe: Path):
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    words = ("--kills", "3", "--world-sizes", "1,2", "--seed", "5", "train.steps=20")
    exit_code, result = drilled(run_dir, recipe, *words)
    assert (exit_code, result["kills"], result["agree"]) == (0, 3, 3), result["each"]
    assert {kill["ranks"] for kill in result["each"]} == {1, 2}
    assert all(kill["step"] > kill["back_to_step"] for kill in result["each"])
    assert sum(result["fell_in"].values()) == 3
    assert files.read_json(run_dir / "drill" / "drill.json") == result
    assert "3 of 3 kills agree" in (run_dir / "drill" / "drill.md").read_text()
    killed = run_dir / "drill" / "killed_1"
    assert sum(row["event"] == "resume" for row in files.read_jsonl(killed / "events.jsonl")) >= 1
    assert files.read_jsonl(run_dir / "drill" / "undisturbed" / "events.jsonl")[0]["event"] == "start"
    assert not (run_dir / "checkpoints").exists(), "the run folder itself is only read"


@pytest.mark.full
def test_a_hundred_kills(prepared_run: Path, tmp_path: Path, recipe: Path):
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    exit_code, result = drilled(run_dir, recipe, "--kills", "100", "--world-sizes", "1,2,4")
    assert (exit_code, result["kills"], result["agree"]) == (0, 100, 100), result["each"]
    aims = {kill["aimed_at"] for kill in result["each"]}
    assert aims == {"forward", "reduction", "write", "commit", "validation"} <= result["fell_in"].keys() | {"backward"}
    assert {kill["ranks"] for kill in result["each"]} == {1, 2, 4}


def test_another_result_is_not_overlooked(
    prepared_run: Path, tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    """Runs that are taken up get another learning rate than the undisturbed one."""
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    started: list[RankProcesses] = []

    def spoiled(words: list[str], ranks: int, folder: Path, environment: dict[str, str]) -> RankProcesses:
        if started:
            words = [*words, "train.peak_lr=5e-4"]
        started.append(RankProcesses(words, ranks, folder, environment))
        return started[-1]

    monkeypatch.setattr(kill_drill, "RankProcesses", spoiled)
    exit_code, result = drilled(run_dir, recipe, "--kills", "1", "train.steps=12")
    assert (exit_code, result["agree"]) == (1, 0)
    assert "the undisturbed run's" in result["each"][0]["fault"]
    assert "0 of 1 kills agree; 1 do not" in (run_dir / "drill" / "drill.md").read_text()


@pytest.mark.parametrize("kills", [None, 0, 2])
def test_an_interrupted_drill_reports_its_kills_and_leaves_no_rank(
    prepared_run: Path, tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch, kills: int | None
):
    """SIGTERM comes while the run is started that follows so many of three kills; None: the undisturbed one."""
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    starts = iter(range(-1, 3))

    def interrupted(*given: Any) -> RankProcesses:
        processes, before = RankProcesses(*given), next(starts)
        if before == (-1 if kills is None else kills):
            os.kill(os.getpid(), signal.SIGTERM)
        return processes

    monkeypatch.setattr(kill_drill, "RankProcesses", interrupted)
    handler = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(app, ["drill", str(recipe), "--run-dir", str(run_dir), "--kills", "3", "train.steps=40"])
    assert isinstance(done.exception, RunStoppedError)
    assert done.exception.exit_code == 130
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is handler
    if kills is None:
        assert str(done.exception) == "drill: interrupted during the undisturbed run"
        return
    assert f"interrupted after {kills} of 3 kills" in str(done.exception)
    result = files.read_json(run_dir / "drill" / "drill.json")
    assert (result["is_whole"], result["kills"], result["agree"]) == (False, kills, kills)
    assert f"Stopped early: {kills} of {kills} kills agree" in (run_dir / "drill" / "drill.md").read_text()


def test_first_difference_by_hand():
    wanted = {1: {"loss": 1.0, "lr": 0.1}, 2: {"loss": 0.5, "lr": 0.1, "validation": {"loss": 2.0}}}
    assert first_difference({1: wanted[1]}, wanted) == ""
    other = wanted[2] | {"loss": 0.6}
    assert first_difference({2: other, 1: wanted[1]}, wanted) == "step 2: loss is 0.6, the undisturbed run's 0.5"
    missing = {"loss": 0.5, "lr": 0.1}
    assert first_difference({2: missing}, wanted).startswith("step 2: validation is None")


def test_where_kills_fell_by_hand():
    def kill(loop: Activity, saver: Activity) -> Kill:
        return Kill(1, 1, [0], Activity.FORWARD, ActivityAt(3, loop), ActivityAt(2, saver), 1, 0.0)

    kills = [
        kill(Activity.FORWARD, Activity.START), kill(Activity.FORWARD, Activity.END), kill(Activity.DATA, Activity.COMMIT)
    ]  # fmt: skip
    assert fallen(kills) == {"forward": 2, "commit": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--world-sizes", "1,x"], "--world-sizes 1,x: write numbers of ranks"),
        (["--world-sizes", "1,3"], "parallel.replicate: 3 ranks cannot share train.reduction_lanes = 8 evenly"),
        (
            ["--world-sizes", "1,2", "train.deterministic_reduction=false"],
            "--world-sizes 1,2: results are bit-for-bit equal",
        ),
        (["--run-dir", "nowhere"], "nowhere/shards: no such folder"),
    ],
)
def test_impossible_drills_are_refused(prepared_run: Path, recipe: Path, words: list[str], message: str):
    done = CliRunner().invoke(app, ["drill", str(recipe), "--run-dir", str(prepared_run), *words])
    assert message in str(done.exception)


def test_a_run_that_ends_by_itself_is_told(prepared_run: Path, tmp_path: Path, recipe: Path):
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    index = run_dir / "shards" / "train" / "index.json"
    files.write_json(index, files.read_json(index) | {"tokenizer_fingerprint": "0" * 64})
    done = CliRunner().invoke(app, ["drill", str(recipe), "--run-dir", str(run_dir), "--kills", "1"])
    assert "made with another tokenizer" in str(done.exception)
