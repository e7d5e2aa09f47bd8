"""Training runs as processes of their own, to be stopped and started again; and what of a run must be the same."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyllama import files

TIMING = {
    "tokens_per_second", "seconds", "mfu_causal", "mfu_palm", "peak_memory_bytes", "time", "cpu_seconds",
    "data_wait_seconds",
}  # fmt: skip


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what two runs of the same cannot share."""
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def outcome(run_dir: Path, summary: dict[str, Any]) -> tuple[Any, ...]:
    """What a disturbed run must share with an undisturbed one: weights, validation figures, every row of metrics."""
    return summary["weights_sha256"], summary["validation"], untimed(files.read_jsonl(run_dir / "metrics.jsonl"))


def start(run_dir: Path, words: list[str], *options: str) -> subprocess.Popen[str]:
    """`tinyllama pretrain` as a process."""
    command = [sys.executable, "-m", "tinyllama", "pretrain", "small-120m", "--run-dir", str(run_dir), "--json"]
    command += [*options, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_to_its_end(run_dir: Path, words: list[str], *options: str) -> dict[str, Any]:
    """The summary of a run that is not disturbed."""
    out, errors = start(run_dir, words, *options).communicate()
    assert out, errors
    return json.loads(out)


def stopped(run_dir: Path, words: list[str], *options: str) -> tuple[int, str]:
    """Exit code and last words of a run that stops by itself."""
    process = start(run_dir, words, *options)
    out, errors = process.communicate()
    assert out == ""
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("tinyllama: ")]
    assert len(lines) == 1, errors
    return process.returncode, lines[0]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process must bring about before it ends."""
    while not condition():
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.002)


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's story."""
    return [row for row in files.read_jsonl(run_dir / "events.jsonl") if row["event"] == kind]


def steps_done(run_dir: Path) -> int:
    """How many steps metrics.jsonl tells of."""
    return len(files.read_jsonl(run_dir / "metrics.jsonl"))


def is_writing_a_checkpoint(run_dir: Path) -> bool:
    """Whether a checkpoint after the first one is half on the disk."""
    return bool(events(run_dir, "save")) and any((run_dir / "checkpoints").glob(".step_*"))


def has_saved_three_times(run_dir: Path) -> bool:
    return len(events(run_dir, "save")) >= 3


def assert_kill_changes_nothing(
    prepared_run: Path, tmp_path: Path, words: list[str], when: Callable[[Path], bool] = has_saved_three_times
) -> None:
    """A run that is killed at some moment and started again is the undisturbed one, bit for bit."""
    undisturbed, killed = (Path(shutil.copytree(prepared_run, tmp_path / name)) for name in ("undisturbed", "killed"))
    process = start(killed, words)
    wait_until(lambda: when(killed), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "checkpoints" / "manifest.json").exists()
    results = [outcome(run_dir, run_to_its_end(run_dir, words)) for run_dir in (undisturbed, killed)]
    assert events(killed, "resume")
    assert not list((killed / "checkpoints").glob(".*"))
    assert results[0] == results[1]
