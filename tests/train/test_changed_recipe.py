"""A run is taken up with another recipe only as far as that is allowed by name."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import overrides
from tests.train.run_processes import events
from tinyllama import api, files
from tinyllama.errors import InputError, RecipeError, RunStoppedError

PEAK = "train.peak_lr"


def train_for_a_moment(run_dir: Path, *more: str, allow: Sequence[str] = ()) -> None:
    """Train until the time limit: one step."""
    words = [*overrides(train__steps=400), "train.time_limit_minutes=1e-6", *more]
    with pytest.raises(RunStoppedError, match="time limit"):
        api.pretrain("small-120m", run_dir, words, allow_changes=allow)


def test_fields_that_only_say_how_may_change(run_dir: Path):
    train_for_a_moment(run_dir)
    train_for_a_moment(run_dir, "train.save_every_steps=7", "train.keep_best=false", "train.on_full_disk=go_on")
    assert events(run_dir, "resume")
    assert not events(run_dir, "allow_change")


def test_every_difference_is_listed_and_the_recorded_recipe_stays(run_dir: Path):
    train_for_a_moment(run_dir)
    before = (run_dir / "recipe.toml").read_bytes()
    changes = ["train.peak_lr=0.5", "train.weight_decay=0.2", "model.dropout=0.1"]
    words = overrides(train__steps=400)
    with pytest.raises(InputError) as refusal:
        api.pretrain("small-120m", run_dir, [*words, *changes])
    for line in ("model.dropout: 0.0 -> 0.1", "train.peak_lr: 0.001 -> 0.5", "train.weight_decay: 0.1 -> 0.2"):
        assert line in str(refusal.value)
    assert "--allow-change" in str(refusal.value)
    with pytest.raises(InputError) as refusal:  # only what is not allowed is left in the list
        api.pretrain("small-120m", run_dir, [*words, *changes], allow_changes=[PEAK, "model.dropout"])
    assert "weight_decay: 0.1 -> 0.2" in str(refusal.value)
    assert "peak_lr" not in str(refusal.value)
    assert (run_dir / "recipe.toml").read_bytes() == before


def test_an_allowed_change_is_recorded_and_stays_allowed(run_dir: Path):
    train_for_a_moment(run_dir)
    train_for_a_moment(run_dir, "train.peak_lr=0.5", allow=[PEAK])
    (change,) = events(run_dir, "allow_change")
    assert change["changes"] == {PEAK: "0.001 -> 0.5"}
    assert change["step"] == events(run_dir, "resume")[0]["step"]
    train_for_a_moment(run_dir, "train.peak_lr=0.5")  # now it is this run's
    assert len(events(run_dir, "allow_change")) == 1
    with pytest.raises(InputError, match=r"train\.peak_lr: 0\.5 -> 0\.001"):
        api.pretrain("small-120m", run_dir, overrides(train__steps=400))


def test_killed_before_its_first_save_a_changed_run_is_still_allowed(run_dir: Path):
    train_for_a_moment(run_dir)
    marker = run_dir / "checkpoints" / "unfinished.json"
    old_checkpoints = {path.name for path in marker.parent.glob("step_*")}
    train_for_a_moment(run_dir, "train.peak_lr=0.5", allow=[PEAK])
    for path in marker.parent.glob("step_*"):  # as if it had been killed before it saved
        if path.name not in old_checkpoints:
            (path / "manifest.json").unlink()
    train_for_a_moment(run_dir, "train.peak_lr=0.5")
    assert len(events(run_dir, "allow_change")) == 2


def test_a_finished_run_can_be_lengthened(run_dir: Path):
    api.pretrain("small-120m", run_dir, overrides())
    with pytest.raises(InputError, match=r"train\.steps: 12 -> 18"):
        api.pretrain("small-120m", run_dir, overrides(train__steps=18))
    assert (run_dir / "checkpoints" / "manifest.json").exists()
    summary = api.pretrain("small-120m", run_dir, overrides(train__steps=18), allow_changes=["train.steps"]).to_dict()
    assert summary["step"] == 18
    assert events(run_dir, "resume")[0]["step"] == 12
    assert [row["step"] for row in files.read_jsonl(run_dir / "metrics.jsonl")] == list(range(1, 19))


def test_a_change_that_cannot_be_leaves_the_finished_run_to_its_recipe(run_dir: Path):
    first = api.pretrain("small-120m", run_dir, overrides()).to_dict()
    with pytest.raises(InputError, match="shape"):
        api.pretrain("small-120m", run_dir, overrides(model__ffn_dim=96), allow_changes=["model.ffn_dim"])
    again = api.pretrain("small-120m", run_dir, overrides()).to_dict()
    assert again["weights_sha256"] == first["weights_sha256"]


def test_other_shards_are_refused_whatever_is_allowed(run_dir: Path):
    train_for_a_moment(run_dir)
    manifest = run_dir / "shards" / "manifest.json"
    files.write_json(manifest, files.read_json(manifest) | {"fingerprint": "another"})
    with pytest.raises(InputError, match="its inputs changed"):
        api.pretrain("small-120m", run_dir, [*overrides(train__steps=400), "train.peak_lr=0.5"], allow_changes=[PEAK])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.peek_lr", "did you mean train.peak_lr"),
        ("lr", "write section.key"),
        ("train.device", "not a key that changes"),
        ("train.tokens_per_step", "position in the data"),
        ("train.seq_len", "position in the data"),
    ],
)
def test_keys_that_cannot_be_allowed(run_dir: Path, key: str, message: str):
    with pytest.raises(RecipeError, match=message):
        api.pretrain("small-120m", run_dir, overrides(), allow_changes=[key])
