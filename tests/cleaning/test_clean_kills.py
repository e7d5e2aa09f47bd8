"""Cleaning killed at moments that a seed draws, and run again until it ends: the same bytes as an undisturbed run.

A moment is an operation on files: the run is killed just before its n-th one, in whichever process does it. Between two of
them nothing changes on disk but what temporary files hold, so these are the moments that a resumed run can tell apart, and
a seed gives the same ones however fast the machine is (tasks of one step may come in another order). A failure shows its
seed and its kills; KILL_SEED=n draws them again.
"""

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cleaning.clean_inputs import folder_bytes
from tests.cleaning.test_clean_run import mixed_inputs

RUN = """
import sys
from pathlib import Path
from tinyllama.cleaning import extract_documents
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.clean_run import clean

extract_documents.FILE_RECORDS = 20
folder = Path(sys.argv[1])
config = CleanConfig(workers=1, site_line_documents=3, max_memory_bytes=20_000)
clean(config, [Path(sys.argv[2])], folder / "documents", folder / "clean")
"""

# Python imports a `sitecustomize` at the start of every process, so this counts the operations of the workers too. Of what
# `shutil.rmtree` removes, by relative paths, the folders are moments enough.
HOOK = """
import os, signal, sys

KILL_AT, EVERYONE, FOLDER, LOG = (os.environ[f"KILL_{name}"] for name in ("AT", "EVERYONE", "FOLDER", "LOG"))
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
log = os.open(LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND)

def before(event, args):
    if event not in EVENTS or not isinstance(args[0], str | os.PathLike):
        return
    if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
        return
    path = os.fspath(args[0])
    if not path.startswith(FOLDER) and (event != "os.rmdir" or os.path.isabs(path)):
        return
    os.write(log, f"{event} {path.removeprefix(FOLDER)}\\n".encode())
    if os.pread(log, os.lseek(log, 0, os.SEEK_CUR), 0).count(b"\\n") == int(KILL_AT):
        os.killpg(0, signal.SIGKILL) if EVERYONE == "yes" else os.kill(os.getsid(0), signal.SIGKILL)

sys.addaudithook(before)
"""


@dataclass(frozen=True)
class Kill:
    """A run killed before its operation `at`, which was to be `operation`: all its processes, or the first one alone."""

    at: int
    everyone: bool
    operation: str


@dataclass(frozen=True)
class Runs:
    """Starts cleanings of `inputs` under `HOOK`."""

    inputs: Path
    hook: Path

    def clean(self, folder: Path, at: int = 0, everyone: bool = False) -> tuple[bool, list[str]]:
        """Clean into `folder`, to the end or to the operation `at`: whether it ended, and its operations."""
        log = self.hook / "operations"
        log.unlink(missing_ok=True)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(self.hook), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "KILL_AT": str(at),
            "KILL_EVERYONE": "yes" if everyone else "no",
            "KILL_FOLDER": str(folder),
            "KILL_LOG": str(log),
        }
        command = [sys.executable, "-c", RUN, str(folder), str(self.inputs)]
        errors = self.hook / "errors"  # no pipe: that would wait for workers that outlive the first process
        with errors.open("wb") as file:
            done = subprocess.run(command, stderr=file, env=environment, start_new_session=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), errors.read_text()
        return done.returncode == 0, log.read_text().splitlines()


def kill_drill(tmp_path: Path, kills: int, seed: int) -> None:
    """Kill runs and run them again until so many were killed; each must end like an undisturbed one."""
    print(f"KILL_SEED={seed}")
    chance, made = random.Random(seed), []
    runs = Runs(tmp_path / "in", tmp_path / "hook")
    runs.hook.mkdir()
    (runs.hook / "sitecustomize.py").write_text(HOOK)
    mixed_inputs(runs.inputs)
    ended, operations = runs.clean(tmp_path / "whole")
    assert ended
    while len(made) < kills:
        folder, ended = tmp_path / f"killed-{len(made)}", False
        while not ended:
            at, everyone = chance.randint(1, len(operations)), chance.random() < 0.5
            ended, done = runs.clean(folder, at if len(made) < kills else 0, everyone)
            if not ended:
                made.append(Kill(at, everyone, done[at - 1]))
                print(made[-1])
        for part in ("documents", "clean"):
            assert folder_bytes(folder / part) == folder_bytes(tmp_path / "whole" / part)


def seed_of_kills() -> int:
    """KILL_SEED, else a new one."""
    return int(os.environ.get("KILL_SEED", random.randrange(1_000_000)))


def test_killed_at_five_moments(tmp_path: Path) -> None:
    kill_drill(tmp_path, 5, seed_of_kills())


@pytest.mark.full
def test_killed_at_fifty_moments(tmp_path: Path) -> None:
    kill_drill(tmp_path, 50, seed_of_kills())
