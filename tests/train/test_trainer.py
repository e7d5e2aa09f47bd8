"""A run that is stopped anywhere ends as one that was never stopped, byte for byte."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import overrides
from tinyllama import api, files
from tinyllama.errors import InputError, RecipeError

TIMING = {
    "tokens_per_second",
    "seconds",
    "mfu_causal",
    "mfu_palm",
    "peak_memory_bytes",
    "time",
    "cpu_seconds",
    "data_wait_seconds",
}


@pytest.fixture
def run_dir(prepared_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared_run, tmp_path / "run"))


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def outcome(run_dir: Path, summary: dict) -> tuple:
    return summary["weights_sha256"], summary["validation"], untimed(files.read_jsonl(run_dir / "metrics.jsonl"))


def start(run_dir: Path, words: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "tinyllama", "pretrain", "small-120m", "--run-dir", str(run_dir), "--json", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "changes",
    [{}, {"train__precision": "bf16", "model__dropout": 0.1, "model__attention_dropout": 0.1}],
    ids=["fp32", "bf16-dropout"],
)
def test_killed_run_ends_as_the_undisturbed_one(prepared_run: Path, tmp_path: Path, changes: dict):
    assert_kill_changes_nothing(prepared_run, tmp_path, overrides(train__steps=40, **changes))


def assert_kill_changes_nothing(prepared_run: Path, tmp_path: Path, words: list[str]) -> None:
    results = []
    for name, is_killed in (("undisturbed", False), ("killed", True)):
        run_dir = Path(shutil.copytree(prepared_run, tmp_path / name))
        if is_killed:
            process = start(run_dir, words)
            while len(files.read_jsonl(run_dir / "events.jsonl")) < 4:  # start, then three saves
                assert process.poll() is None, "the run ended before it could be killed"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (run_dir / "checkpoints" / "manifest.json").exists()
        out, errors = start(run_dir, words).communicate()
        assert out, errors
        results.append(outcome(run_dir, json.loads(out)))
    assert "resume" in {row["event"] for row in files.read_jsonl(tmp_path / "killed" / "events.jsonl")}
    assert results[0] == results[1]


def test_micro_batch_size_does_not_change_the_run(prepared_run: Path, tmp_path: Path):
    losses = []
    for size in (8, 2):
        run_dir = Path(shutil.copytree(prepared_run, tmp_path / str(size)))
        api.pretrain("small-120m", run_dir, overrides(train__micro_batch_size=size, model__dropout=0.2))
        losses.append([row["loss"] for row in files.read_jsonl(run_dir / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_finished_run_is_not_trained_again(run_dir: Path):
    first = api.pretrain("small-120m", run_dir, overrides())
    events = (run_dir / "events.jsonl").read_bytes()
    assert api.pretrain("small-120m", run_dir, overrides(train__save_every_steps=5)) == first
    assert (run_dir / "events.jsonl").read_bytes() == events


def test_changed_recipe_is_refused_with_what_changed(run_dir: Path):
    api.pretrain("small-120m", run_dir, overrides())
    with pytest.raises(InputError, match=r"train\.peak_lr: 0\.001 -> 0\.5"):
        api.pretrain("small-120m", run_dir, [*overrides(), "train.peak_lr=0.5"])


def test_damaged_newest_checkpoint_is_passed_over(run_dir: Path, capfd: pytest.CaptureFixture):
    first = api.pretrain("small-120m", run_dir, overrides())
    weights = run_dir / "checkpoints" / "step_00000012" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    manifest = run_dir / "checkpoints" / "manifest.json"
    stamp = files.read_json(manifest)
    manifest.unlink()
    files.write_json(run_dir / "checkpoints" / "unfinished.json", {key: stamp[key] for key in ("phase", "fingerprint")})
    again = api.pretrain("small-120m", run_dir, overrides())
    assert again["weights_sha256"] == first["weights_sha256"]
    assert "step_00000012/weights.safetensors: damaged" in capfd.readouterr().err.replace("\n", "")


def test_loss_falls_and_figures_agree(run_dir: Path):
    summary = api.pretrain("small-120m", run_dir, overrides(train__steps=60, train__peak_lr=0.01, train__min_lr=0.001))
    rows = files.read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[-1]["tokens"] == 60 * 256 == summary["tokens"]
    assert rows[-1]["validation"] == summary["validation"]
    assert summary["validation"]["perplexity"] < summary["unigram_perplexity"]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__seq_len": 10_000_000, "train__tokens_per_step": 40_000_000}, r"train\.seq_len"),
        ({"model__vocab_size": 300}, r"model\.vocab_size: 300 is below the tokenizer's 512"),
    ],
)
def test_impossible_recipes_are_refused(run_dir: Path, changes: dict, message: str):
    with pytest.raises(RecipeError, match=message):
        api.pretrain("small-120m", run_dir, overrides(**changes))


def test_shards_of_another_tokenizer_are_refused(run_dir: Path):
    index = run_dir / "shards" / "train" / "index.json"
    values = files.read_json(index)
    files.write_json(index, values | {"tokenizer_fingerprint": "0" * 64})
    with pytest.raises(InputError, match="made with another tokenizer"):
        api.pretrain("small-120m", run_dir, overrides())
