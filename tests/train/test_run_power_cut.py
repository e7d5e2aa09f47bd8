"""A power cut at any moment of a run: what is left is whole, and the run that goes on from it ends with the same weights."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import overrides
from tests.power_cut import Cut, Disk, Recorder
from tests.train.run_processes import events, outcome
from tinyllama import api, files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.train.metrics import write_event

WORDS = overrides(
    train__steps=6, train__save_every_steps=2, train__validate_every_steps=4, train__keep_checkpoints=1,
    train__validation_tokens=128, train__micro_batch_size=8, train__keep_best=False,
)  # fmt: skip
RESUMES = 5


def give_data(run_dir: Path, prepared_run: Path) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in ("shards", "tokenizer"):
        (run_dir / name).symlink_to(prepared_run / name)
    return run_dir


def check_state(run_dir: Path, cut: Cut) -> int:
    """What a start would read; returns the step of the newest checkpoint, 0 for none."""
    folder = run_dir / "checkpoints"
    newest, damaged = form.find_newest(folder)
    assert damaged == [], cut.how
    step = form.read_state(newest).step if newest else 0
    promised = max((row for kind, row in cut.marks if kind == "saved"), default=0)
    assert step >= promised, cut.how
    if step:
        rows = files.read_jsonl(run_dir / "metrics.jsonl")
        assert [row["step"] for row in rows][:step] == list(range(1, step + 1)), cut.how
    if (folder / "manifest.json").exists():
        assert files.read_json(folder / "manifest.json")["summary"]["step"] == step == 6, cut.how
    elif step:
        assert files.read_json(folder / "unfinished.json")["phase"] == "pretrain"
    if ("done",) in [mark[:1] for mark in cut.marks]:
        assert (folder / "manifest.json").exists(), cut.how
    if (run_dir / "recipe.toml").exists():
        assert (run_dir / "recipe.toml").read_text().startswith("# Every value of this run")
    return step


def test_a_run_goes_on_from_whatever_is_left(prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = tmp_path / "disk"
    run_dir = disk / "run"
    give_data(run_dir, prepared_run)
    with Recorder(disk, monkeypatch) as recorder:
        from tinyllama.train import run_checkpoints

        def event(folder: Path, name: str, **details: Any) -> None:
            if name == "save":
                recorder.mark(("saved", details["step"]))
            write_event(folder, name, **details)

        monkeypatch.setattr(run_checkpoints, "write_event", event)
        summary = api.pretrain("small-120m", run_dir, WORDS).to_dict()
        recorder.mark(("done", 6))
    wanted = outcome(run_dir, summary)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # from here on only states are looked at

    cuts = list(recorder.cuts(seeds=1))
    assert len(cuts) > 100
    looks = Disk(tmp_path / "looks")
    steps = [check_state(looks.show(cut) / "run", cut) for cut in cuts]
    assert set(steps) == {0, 2, 4, 6}
    chosen = [len(cuts) * (2 * number + 1) // (2 * RESUMES) for number in range(RESUMES)]
    for number in chosen:
        again = give_data(cuts[number].write(tmp_path / "cut") / "run", prepared_run)
        assert outcome(again, api.pretrain("small-120m", again, WORDS).to_dict()) == wanted, (number, cuts[number].how)
        resumes = [row["step"] for row in events(again, "resume")]
        done = (again / "checkpoints" / "manifest.json").exists() and not resumes
        assert resumes == ([steps[number]] if steps[number] else []) or done, (number, cuts[number].how)
        assert not list((again / "checkpoints").glob(".*"))


def test_an_event_cut_off_hides_none_that_follows(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    write_event(tmp_path, "start", step=0)
    write_event(tmp_path, "save", step=3)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        write_event(tmp_path, "resume", step=3)
        rows = [json.loads(line)["event"] for line in path.read_text().splitlines()]
        n_whole = whole[:length].count(b"\n")
        assert rows == [*("start", "save")[:n_whole], "resume"]
