"""A disk without room for a checkpoint: never a broken one, the last good one stays, and the recipe says what then."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import overrides
from tests.train.run_processes import events, outcome, run_to_its_end, stopped
from tinyllama import api, files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint import save_load
from tinyllama.errors import RunStoppedError


@pytest.fixture
def full_at_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while the second checkpoint is written: its first file is cut short."""
    calls, write = [], save_load.write_tensors

    def write_tensors(path: Path, tensors: dict) -> str:
        if path.name == form.WEIGHTS:
            calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"some of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, tensors)

    monkeypatch.setattr(save_load, "write_tensors", write_tensors)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_stop(run_dir: Path, full_at_the_second: None):
    with pytest.raises(
        RunStoppedError, match=r"no space for the checkpoint of step 6 .*last good one: step_00000003"
    ) as e:
        api.pretrain("small-120m", run_dir, overrides())
    assert e.value.exit_code == 1
    assert left_in(run_dir / "checkpoints") == ["step_00000003"]
    assert [row["reason"] for row in events(run_dir, "stop")] == ["full disk"]
    assert api.pretrain("small-120m", run_dir, overrides()).step == 12
    assert events(run_dir, "resume")[0]["step"] == 3


def test_go_on(run_dir: Path, full_at_the_second: None, capfd: pytest.CaptureFixture[str]):
    api.pretrain("small-120m", run_dir, overrides(train__on_full_disk="go_on", train__keep_checkpoints=9))
    assert left_in(run_dir / "checkpoints") == ["step_00000003", "step_00000009", "step_00000012"]
    assert [row["step"] for row in events(run_dir, "full_disk")] == [6]
    assert "tries again at the next checkpoint" in " ".join(capfd.readouterr().err.split())


def test_rows_that_found_no_room_are_written_when_there_is_some(tmp_path: Path):
    from tinyllama.train.metrics import MetricsFile

    class Disk:
        """A file on a disk with room for so many bytes."""

        def __init__(self, file) -> None:
            self.file, self.room = file, 20

        def write(self, data: bytes) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            n = self.file.write(data[: self.room])
            self.room -= n
            return n

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    disk = Disk(metrics._file)
    metrics._file = disk  # pyright: ignore[reportAttributeAccessIssue]
    for step in (1, 2, 3):
        metrics.write({"step": step, "loss": float("nan")})
    assert [row["step"] for row in files.read_jsonl(tmp_path / "metrics.jsonl")] == []
    with pytest.raises(OSError, match="No space left"):
        metrics.sync()
    disk.room = 1000
    metrics.sync()
    metrics.close()
    assert files.read_jsonl(tmp_path / "metrics.jsonl") == [{"step": step, "loss": None} for step in (1, 2, 3)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Any, ...], int]:
    """Outcome of a run with room enough, and the bytes of one checkpoint."""
    run_dir = Path(shutil.copytree(prepared_run, tmp_path_factory.mktemp("undisturbed") / "run"))
    return outcome(run_dir, run_to_its_end(run_dir, overrides())), events(run_dir, "save")[0]["bytes"]


@pytest.mark.parametrize("answer", ["stop", "go_on"])
def test_a_real_small_disk(prepared_run: Path, small_disk: Path, undisturbed: tuple[tuple[Any, ...], int], answer: str):
    wanted, one_checkpoint_bytes = undisturbed
    run_dir = small_disk / "run"
    run_dir.mkdir()
    for name in ("shards", "tokenizer"):
        (run_dir / name).symlink_to(prepared_run / name)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (shutil.disk_usage(small_disk).free - int(1.6 * one_checkpoint_bytes)))

    words = overrides(train__on_full_disk=answer)
    exit_code, line = stopped(run_dir, words)
    assert exit_code == 1
    assert "no space for the checkpoint of step" in line
    assert "last good one: step_00000003" in line
    assert left_in(run_dir / "checkpoints") == ["step_00000003"]
    form.check(run_dir / "checkpoints" / "step_00000003")
    assert [row["step"] for row in events(run_dir, "full_disk")] == ([6, 9] if answer == "go_on" else [])

    ballast.unlink()
    assert outcome(run_dir, run_to_its_end(run_dir, words)) == wanted
    assert events(run_dir, "resume")[0]["step"] == 3
