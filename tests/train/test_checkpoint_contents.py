"""A checkpoint holds what resume needs, each thing by name, and nothing else."""

import random
import re
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import overrides
from tests.train.run_processes import events, outcome
from tinyllama import api, files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.save_load import load_tensors
from tinyllama.errors import InputError, RunStoppedError
from tinyllama.model.llama import Llama
from tinyllama.recipe import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "resume.md").read_text()
WORDS = overrides(train__precision="fp16", train__spike_window=8, model__dropout=0.1)


def test_each_thing_is_there_and_nothing_else(run_dir: Path):
    api.pretrain("small-120m", run_dir, WORDS)
    folder = run_dir / "checkpoints" / "step_00000009"
    recipe = load_recipe("small-120m", WORDS)
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors", "optimizer.safetensors", "state.json", "tokenizer.model", "tokenizer.json", "manifest.json",
    }  # fmt: skip
    with torch.device("meta"):
        names = {name for name, _ in Llama(recipe.llama_config()).named_parameters()}
    assert set(load_tensors(folder / form.WEIGHTS)) == names
    assert set(load_tensors(folder / form.OPTIMIZER)) == {f"{m}.{n}" for m in ("exp_avg", "exp_avg_sq") for n in names}

    state = files.read_json(folder / form.STATE)
    assert set(state) == {one.name for one in fields(form.RunState)}
    losses = [[row["step"], row["loss"]] for row in files.read_jsonl(run_dir / "metrics.jsonl") if "skipped" not in row]
    assert state == {
        "step": 9,
        "tokens": 9 * 256,
        "model": recipe.llama_config().to_dict(),
        "train": recipe.train.result_values(),
        "updates": sum(step <= 9 for step, _ in losses),
        "loss_scale": state["loss_scale"],
        "validation": files.read_jsonl(run_dir / "metrics.jsonl")[5]["validation"],
        "guards": {
            "skipped_in_a_row": 0,
            "spikes": {"losses": [pair for pair in losses if pair[0] <= 9][-8:], "in_a_row": 0},
        },
        "quarantine": [],
        "tokenizer_fingerprint": files.sha256_file(run_dir / "tokenizer" / "tokenizer.model"),
        "shards_fingerprint": files.sha256_file(run_dir / "shards" / "train" / "index.json"),
        "validation_fingerprint": files.sha256_file(run_dir / "shards" / "validation" / "index.json"),
    }
    assert set(state["loss_scale"]) == {"factor", "good_updates"}
    assert set(files.read_json(folder / form.MANIFEST)["files"]) == {p.name for p in folder.iterdir()} - {form.MANIFEST}


def test_no_generator_has_a_state_that_could_be_lost(run_dir: Path):
    """Weights, data order and dropout take nothing from the generators of Python, NumPy and PyTorch."""
    hashes = set()
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        copy = Path(shutil.copytree(run_dir, run_dir.with_name(str(seed))))
        hashes.add(api.pretrain("small-120m", copy, WORDS).weights_sha256)
    assert len(hashes) == 1


def test_the_page_has_every_name():
    table = PAGE[PAGE.index("## What is saved") : PAGE.index("## Which checkpoints stay")]
    named = set(re.findall(r"`(\w+)`", table))
    assert {one.name for one in fields(form.RunState)} <= named


def as_version(folder: Path, version: int, without: set[str]) -> None:
    """Rewrite a checkpoint as another version wrote it."""
    state = {key: value for key, value in files.read_json(folder / form.STATE).items() if key not in without}
    state["train"] = {key: value for key, value in state["train"].items() if key not in without}
    files.write_json(folder / form.STATE, state)
    manifest = files.read_json(folder / form.MANIFEST)
    path = folder / form.STATE
    manifest["files"][form.STATE] = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    files.write_json(folder / form.MANIFEST, manifest | {"format_version": version})


def test_a_checkpoint_of_version_2_is_taken_up(run_dir: Path, tmp_path: Path, prepared_run: Path):
    other = Path(shutil.copytree(prepared_run, tmp_path / "other"))
    wanted = outcome(other, api.pretrain("small-120m", other, overrides()).to_dict())
    with pytest.raises(RunStoppedError, match="time limit"):
        api.pretrain("small-120m", run_dir, [*overrides(), "train.time_limit_minutes=1e-6"])
    for path in form.checkpoints(run_dir / "checkpoints"):
        as_version(path, 2, {*form.NEW_IN_3, "deterministic_reduction", "reduction_lanes"})
    assert outcome(run_dir, api.pretrain("small-120m", run_dir, overrides()).to_dict()) == wanted
    assert events(run_dir, "resume")


def test_a_checkpoint_of_a_later_version_is_refused_and_stays(run_dir: Path):
    with pytest.raises(RunStoppedError, match="time limit"):
        api.pretrain("small-120m", run_dir, [*overrides(), "train.time_limit_minutes=1e-6"])
    (path,) = form.checkpoints(run_dir / "checkpoints")
    as_version(path, 4, set())
    with pytest.raises(InputError, match="format_version 4, this program reads 2 and 3; use the version that wrote it"):
        api.pretrain("small-120m", run_dir, overrides())
    assert path.is_dir()
