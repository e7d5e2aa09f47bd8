"""A run that is stopped anywhere ends as one that was never stopped, byte for byte."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import overrides
from tests.train.run_processes import assert_kill_changes_nothing, events, is_writing_a_checkpoint, steps_done
from tinyllama import api, files
from tinyllama.errors import InputError, RecipeError
from tinyllama.train.metrics import MetricsFile


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__precision": "bf16", "model__dropout": 0.1, "model__attention_dropout": 0.1},
        {"train__micro_batch_size": 2, "train__optimizer_state": "bf16"},
        {"train__precision": "fp16"},
    ],
    ids=["fp32", "bf16-dropout", "accumulation-bf16-moments", "fp16-loss-scale"],
)
def test_killed_run_ends_as_the_undisturbed_one(prepared_run: Path, tmp_path: Path, changes: dict):
    assert_kill_changes_nothing(prepared_run, tmp_path, overrides(train__steps=40, **changes))


def test_killed_while_a_checkpoint_is_written(prepared_run: Path, tmp_path: Path):
    words = overrides(train__steps=40, train__save_every_steps=1)
    assert_kill_changes_nothing(prepared_run, tmp_path, words, when=is_writing_a_checkpoint)


def test_rows_are_on_the_disk_before_their_checkpoint_counts(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    seen, sync = [], MetricsFile.sync

    def watched(metrics: MetricsFile) -> None:
        sync(metrics)
        seen.append((steps_done(run_dir), {path.name for path in (run_dir / "checkpoints").glob("step_*")}))

    monkeypatch.setattr(MetricsFile, "sync", watched)
    api.pretrain("small-120m", run_dir, overrides())
    assert len(seen) == 4
    for step, (rows, names) in zip((3, 6, 9, 12), seen, strict=True):
        assert rows >= step
        assert f"step_{step:08d}" not in names


def test_what_a_save_costs_is_in_the_events(run_dir: Path):
    api.pretrain("small-120m", run_dir, overrides(train__keep_every_steps=6, train__keep_checkpoints=1))
    saves = events(run_dir, "save")
    assert [row["step"] for row in saves] == [3, 6, 9, 12]
    assert all(row["stall_seconds"] >= 0 and row["write_seconds"] > 0 for row in saves)
    newest = run_dir / "checkpoints" / saves[-1]["checkpoint"]
    assert saves[-1]["bytes"] == sum(file.stat().st_size for file in newest.iterdir())
    kept = ["step_00000006", "step_00000009", "step_00000012"]  # step 9's grows old enough for a spike seen later
    assert sorted(path.name for path in newest.parent.glob("step_*")) == kept


def test_micro_batch_size_does_not_change_the_run(prepared_run: Path, tmp_path: Path):
    losses = []
    for size in (8, 2):
        run_dir = Path(shutil.copytree(prepared_run, tmp_path / str(size)))
        api.pretrain("small-120m", run_dir, overrides(train__micro_batch_size=size, model__dropout=0.2))
        losses.append([row["loss"] for row in files.read_jsonl(run_dir / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_finished_run_is_not_trained_again(run_dir: Path):
    first = api.pretrain("small-120m", run_dir, overrides()).to_dict()
    events = (run_dir / "events.jsonl").read_bytes()
    assert api.pretrain("small-120m", run_dir, overrides(train__save_every_steps=5)).to_dict() == first
    assert (run_dir / "events.jsonl").read_bytes() == events


def test_changed_recipe_is_refused_with_what_changed(run_dir: Path):
    api.pretrain("small-120m", run_dir, overrides())
    with pytest.raises(InputError, match=r"train\.peak_lr: 0\.001 -> 0\.5"):
        api.pretrain("small-120m", run_dir, [*overrides(), "train.peak_lr=0.5"])


def test_damaged_newest_checkpoint_is_passed_over(run_dir: Path, capfd: pytest.CaptureFixture):
    first = api.pretrain("small-120m", run_dir, overrides()).to_dict()
    weights = run_dir / "checkpoints" / "step_00000012" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    manifest = run_dir / "checkpoints" / "manifest.json"
    stamp = files.read_json(manifest)
    manifest.unlink()
    files.write_json(run_dir / "checkpoints" / "unfinished.json", {key: stamp[key] for key in ("phase", "fingerprint")})
    again = api.pretrain("small-120m", run_dir, overrides()).to_dict()
    assert again["weights_sha256"] == first["weights_sha256"]
    assert "step_00000012/weights.safetensors: damaged" in capfd.readouterr().err.replace("\n", "")
    assert (run_dir / "checkpoints" / "damaged_step_00000012").is_dir()


def test_loss_falls_and_figures_agree(run_dir: Path):
    words = overrides(train__steps=60, train__peak_lr=0.01, train__min_lr=0.001)
    summary = api.pretrain("small-120m", run_dir, words).to_dict()
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
