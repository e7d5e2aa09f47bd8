"""A power cut at any moment of saving, replacing and removing leaves whole checkpoints, the newest saved one among them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.power_cut import Disk, Recorder
from tests.tiny_model import run_state, tiny_llama
from tinyllama import files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.async_save import AsyncSaver, Saved
from tinyllama.checkpoint.retention import Retention
from tinyllama.checkpoint.save_load import load_tensors, write_checkpoint
from tinyllama.train.metrics import MetricsFile
from tinyllama.train.run_checkpoints import RunCheckpoints

NETWORK = tiny_llama()


def save(saver: AsyncSaver, step: int, value: float, tokenizer: Path) -> None:
    """A checkpoint whose tensors hold one value."""
    weights, moments = {"w": torch.full((40,), value)}, {"exp_avg.w": torch.full((40,), -value)}
    saver.save(weights.items(), moments.items(), run_state(NETWORK, "t", step), [tokenizer])
    saver.wait()


def values_of(path: Path) -> tuple[float, float]:
    """What a checkpoint's tensors hold."""
    weights, moments = load_tensors(path / form.WEIGHTS), load_tensors(path / form.OPTIMIZER)
    return weights["w"][0].item(), moments["exp_avg.w"][0].item()


def test_the_newest_saved_checkpoint_is_whole_whenever_the_power_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Four saves of which two stay; the last one is then saved again with other tensors, as after going back."""
    run_dir, tokenizer = tmp_path / "runs" / "run", tmp_path / "tokenizer.model"
    tokenizer.write_bytes(b"pieces")
    (tmp_path / "runs").mkdir()
    promised: dict[int, tuple[float, ...]] = {}
    with Recorder(tmp_path / "runs", monkeypatch) as recorder:
        metrics = MetricsFile(run_dir / "metrics.jsonl", 0)

        def before_commit() -> None:
            recorder.mark(("metrics", at))
            metrics.sync()

        def on_saved(saved: Saved) -> None:
            recorder.mark(("saved", len(promised)))

        saver = AsyncSaver(run_dir / "checkpoints", Retention(2, best=False), before_commit, on_saved)
        for at, value in ((1, 1.5), (2, 2.5), (3, 3.5), (4, 4.5), (4, 4.75)):
            metrics.write({"step": at, "loss": value})
            promised[len(promised) + 1] = at, value
            save(saver, at, value, tokenizer)
        metrics.close()

    n_cuts, disk = 0, Disk(tmp_path / "cut")
    for cut in recorder.cuts(seeds=1):
        n_cuts += 1
        folder = disk.show(cut) / "run" / "checkpoints"
        done = max((number for kind, number in cut.marks if kind == "saved"), default=0)
        newest, damaged = form.find_newest(folder)
        assert damaged == [], (n_cuts, cut.how)
        assert done == 0 or newest is not None, (n_cuts, cut.how)
        for path in form.checkpoints(folder):
            form.check(path)
        if newest is None:
            continue
        step = form.read_state(newest).step
        allowed = {
            number: kept for number, kept in promised.items() if number in (done, done + 1, 3 if done == 4 else 0)
        }
        value = values_of(newest)
        assert (step, value[0]) in allowed.values(), (n_cuts, cut.how, done)
        assert value[1] == -value[0]
        if done == 4 and step == 3:  # between two renames: the old one is whole, under another name
            hidden = [path for path in folder.glob(".step_00000004.*") if (path / form.OPTIMIZER).exists()]
            assert 4.5 in [values_of(path)[0] for path in hidden], (n_cuts, cut.how)
        assert (newest / "tokenizer.model").read_bytes() == b"pieces"
        rows = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()[:step]]
        assert [row["step"] for row in rows] == list(range(1, step + 1)), "a checkpoint counts before its metrics"
    assert n_cuts > 100
    assert [path.name for path in form.checkpoints(run_dir / "checkpoints")] == ["step_00000004", "step_00000003"]
    assert not list((run_dir / "checkpoints").glob(".*")), "what was replaced is gone"


def test_retention_removes_after_the_new_one_is_saved_and_never_leaves_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes(b"pieces")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    saver = AsyncSaver(folder, Retention(1, best=False))
    save(saver, 1, 1.0, tokenizer)
    with Recorder(folder, monkeypatch) as recorder:
        save(saver, 2, 2.0, tokenizer)
    found, disk = set(), Disk(tmp_path / "cut")
    for cut in recorder.cuts():
        left = form.checkpoints(disk.show(cut))
        for path in left:
            form.check(path)
        found.add(tuple(path.name for path in left))
    assert found == {("step_00000001",), ("step_00000002", "step_00000001"), ("step_00000002",)}


def test_going_back_removes_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "checkpoints"
    for step in (10, 20, 30, 40):
        write_checkpoint(folder, {form.WEIGHTS: {"w": torch.ones(3)}}, run_state(NETWORK, "t", step), [])
    with Recorder(folder, monkeypatch) as recorder:
        assert RunCheckpoints._remove_after(cast("Any", SimpleNamespace(folder=folder)), 19)
    found, disk = {}, Disk(tmp_path / "cut")
    for cut in recorder.cuts():
        left = form.checkpoints(disk.show(cut))
        for path in left:
            form.check(path)
        found[tuple(form.step_of(path) for path in left)] = None
    assert list(found) == [(40, 30, 20, 10), (30, 20, 10), (20, 10), (10,)]


def test_files_are_written_then_synced_then_renamed_then_the_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The order for one checkpoint, as the system sees it; the manifest is the last file that is written."""
    with Recorder(tmp_path, monkeypatch) as recorder:
        tensors: dict[str, dict[str, torch.Tensor]] = {
            form.WEIGHTS: {"w": torch.ones(3)},
            form.OPTIMIZER: {"m": torch.ones(3)},
        }
        path = write_checkpoint(tmp_path, tensors, run_state(NETWORK, "t", 1), [], lambda: recorder.mark("commit"))
    numbers = {name: number for (_, name), number in recorder._names.items()}
    order: list[str] = []
    for event in recorder.events:
        names = [name for name, number in numbers.items() if event.thing == number]
        if event.kind == "mark":
            order.append("commit")
        elif event.kind == "names" and any(change[1] == path.name and change[3] for change in event.changes):
            order.append("named")
        elif event.kind == "sync":
            order.append(f"sync {names[0] if names else 'around'}")
        elif event.kind == "data" and names:
            order.append(f"write {names[0]}")
    at = {what: len(order) - 1 - order[::-1].index(what) for what in order}
    first = {what: order.index(what) for what in order}
    contents = (form.WEIGHTS, form.OPTIMIZER, form.STATE, form.MANIFEST)
    assert max(first[f"write {name}"] for name in contents[:3]) < first[f"write {form.MANIFEST}"]
    for name in contents:
        assert at[f"write {name}"] < at[f"sync {name}"] < at[f"sync {path.name}"] < at["named"] < at["sync around"]
    assert at[f"write {form.MANIFEST}"] < at["commit"] < at["named"]


@pytest.mark.parametrize("is_new", [True, False])
def test_an_atomic_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool):
    disk = tmp_path / "disk"
    path = disk / "above" / "inside" / "value.json"
    disk.mkdir()
    old = None if is_new else "old" * 10
    if old is not None:
        files.write_json(path, old)
    with Recorder(disk, monkeypatch) as recorder:
        files.write_json(path, "new" * 20)
        recorder.mark("done")
    seen, disk = [], Disk(tmp_path / "cut")
    for cut in recorder.cuts():
        place = disk.show(cut) / "above" / "inside" / "value.json"
        value = files.read_json(place) if place.exists() else None
        assert value == "new" * 20 if cut.marks else value in (old, "new" * 20), cut.how
        seen.append(value)
    assert set(seen) == {old, "new" * 20}
