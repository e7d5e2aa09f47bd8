"""Which steps read a document, and which documents a step read: as the batches themselves say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import overrides
from tinyllama import api
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.errors import InputError
from tinyllama.seeds import derive_seed
from tinyllama.shards.batches import Batches, TokenShards
from tinyllama.shards.quarantine import read_quarantine
from tinyllama.shards.shard_format import find_document, read_shard_documents
from tinyllama.shards.window_documents import windows_of_places
from tinyllama.train import data_read
from tinyllama.train.data_read import document_reads, documents_of_step

WORDS = overrides(train__tokens_per_step=2048, train__steps=120)  # more than one epoch


@pytest.fixture(scope="module")
def trained(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    run_dir = Path(shutil.copytree(prepared_run, tmp_path_factory.mktemp("read") / "run"))
    api.pretrain("small-120m", run_dir, WORDS)
    return run_dir


def test_both_ways_agree_with_the_batches(trained: Path):
    split = trained / "shards" / "train"
    batches = Batches(TokenShards(split), 32, 64, derive_seed(42, "window order"))
    rows = read_shard_documents(split, batches.shards.index.shards[0]).to_pylist()
    read_by: dict[str, set[int]] = {row["id"]: set() for row in rows}
    for step in range(1, 121):
        wanted = set()
        for window in batches.windows(step - 1, 0, 64):
            wanted |= {
                r["id"] for r in rows if r["offset"] < (window + 1) * 33 and window * 33 < r["offset"] + r["tokens"]
            }
        for document in wanted:
            read_by[document].add(step)
        if step in (1, 60, 120):
            found = documents_of_step(trained, step)
            assert found["windows"] == batches.windows(step - 1, 0, 64)
            assert set(found["documents"]) == wanted
    assert documents_of_step(trained, 1)["epoch"] == 0
    assert documents_of_step(trained, 120)["epoch"] == 120 * 64 // batches.sequences_per_epoch == 1
    for document in sorted(read_by)[::9]:
        found = document_reads(trained, document)
        (place,) = find_document(split, document)
        assert found["tokens"] == place.tokens
        assert found["places"] == [{"file": str(place.file), "offset": place.offset, "tokens": place.tokens}]
        assert found["steps"] == sorted(read_by[document])
        assert found["quarantined_windows"] == 0


def test_a_validation_document_is_read_by_no_step(trained: Path):
    found = document_reads(trained, "validation0001")
    assert found["tokens"] > 0
    assert "shards/validation/" in found["places"][0]["file"]
    assert "steps" not in found


def test_what_is_not_there(trained: Path, prepared_run: Path):
    assert document_reads(trained, "no such id") == {}
    assert document_reads(trained / "clean", "train0000") == {}
    assert "steps" not in document_reads(prepared_run, "train0000")
    with pytest.raises(InputError, match="no checkpoint yet"):
        documents_of_step(prepared_run, 1)
    with pytest.raises(InputError, match="counted from 1"):
        documents_of_step(trained, 0)


def test_the_command(trained: Path):
    def explain(*words: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import sys; from tinyllama.__main__ import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
        )
        return subprocess.run([sys.executable, "-c", code, "explain", *words], capture_output=True, text=True)

    done = explain(str(trained), "train0007", "--json")
    assert json.loads(done.stdout)["steps"] == document_reads(trained, "train0007")["steps"], done.stderr
    done = explain(str(trained), "--step", "7", "--json")
    assert json.loads(done.stdout) == documents_of_step(trained, 7)
    for words in ((), ("train0007", "--step", "7")):
        done = explain(str(trained), *words)
        assert done.returncode == 2
        assert "give a document's ID, or --step N" in done.stderr


def with_state(
    prepared_run: Path, run_dir: Path, step: int, quarantine: list[dict[str, Any]], seq_len: int = 32
) -> Batches:
    """A run folder with a checkpoint's state and nothing else of one; returns its batches, of four sequences."""
    (run_dir / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    (run_dir / "shards").symlink_to(prepared_run / "shards")
    train = {"seq_len": seq_len, "tokens_per_step": 4 * seq_len, "seed": 5}
    state = RunState(step, 0, {}, train, "t", "s", step, {}, quarantine=quarantine)
    form.write_state(run_dir / "checkpoints" / f"step_{step:08d}", state)
    listed = read_quarantine(quarantine, run_dir)
    return Batches(TokenShards(run_dir / "shards" / "train"), seq_len, 4, derive_seed(5, "window order"), listed)


def test_only_steps_that_were_made_count_and_quarantined_windows_are_told(prepared_run: Path, tmp_path: Path):
    steps = 30
    plain = with_state(prepared_run, tmp_path / "plain", steps, [])
    windows = plain.windows(9, 0, 4)  # of step 10
    document = documents_of_step(tmp_path / "plain", 10)["documents"][0]
    found = document_reads(tmp_path / "plain", document)
    assert 10 in found["steps"]
    assert max(found["steps"]) <= steps
    assert found["epochs"] == [0]
    with_state(prepared_run, tmp_path / "short", 9, [])
    assert 10 not in document_reads(tmp_path / "short", document)["steps"]
    batches = with_state(prepared_run, tmp_path / "other", steps, [{"after_step": 5, "windows": windows}])
    assert documents_of_step(tmp_path / "other", 10)["windows"] == batches.windows(9, 0, 4) != windows
    left_out = document_reads(tmp_path / "other", document)["quarantined_windows"]
    of_document = set(windows_of_places(prepared_run / "shards" / "train", find_document(
        prepared_run / "shards" / "train", document), 32))  # fmt: skip
    assert left_out == len(of_document & set(windows)) >= 1
    assert documents_of_step(tmp_path / "other", 1)["step"] == 1


def test_a_split_that_is_missing_is_passed_over(prepared_run: Path, tmp_path: Path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "validation").symlink_to(prepared_run / "shards" / "validation")
    found = document_reads(tmp_path, "validation0001")
    assert set(found) == {"tokens", "places"}
    assert found["tokens"] == sum(place["tokens"] for place in found["places"])


def test_at_most_a_thousand_steps_are_listed(prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert data_read.MAX_STEPS == 1000
    with_state(prepared_run, tmp_path, 3000, [])
    everything = document_reads(tmp_path, "train0007")["steps"]
    monkeypatch.setattr(data_read, "MAX_STEPS", 2)
    assert document_reads(tmp_path, "train0007")["steps"] == everything[:2]
    assert len(everything) > 2
