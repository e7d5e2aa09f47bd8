"""Cleaning killed at random moments, and documents that hang, crash or fill memory: the same result in the end."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clean.clean_inputs import folder_bytes
from tests.clean.test_clean_run import mixed_inputs

RUN = """
import sys
from pathlib import Path
from tinyllama.clean import extract_documents
from tinyllama.clean.clean_config import CleanConfig
from tinyllama.clean.clean_run import clean

extract_documents.PART_RECORDS = 20
folder = Path(sys.argv[1])
config = CleanConfig(workers=1, site_line_documents=3, max_memory_bytes=20_000)
clean(config, [Path(sys.argv[2])], folder / "documents", folder / "clean")
"""


def start(folder: Path, inputs: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder), str(inputs)], stderr=subprocess.DEVNULL)


def kill_drill(tmp_path: Path, kills: int, seed: int) -> None:
    """Kill runs at random moments and run them again until so many were killed; each must end like an undisturbed one."""
    inputs, random_ = tmp_path / "in", random.Random(seed)
    mixed_inputs(inputs)
    begun = time.monotonic()
    assert start(tmp_path / "whole", inputs).wait() == 0
    seconds = time.monotonic() - begun
    number = 0
    while kills > 0:
        folder, number = tmp_path / f"killed-{number}", number + 1
        finished = False
        while not finished:
            process = start(folder, inputs)
            try:
                process.wait(timeout=random_.uniform(0.1, 1.1) * seconds if kills > 0 else None)
            except subprocess.TimeoutExpired:
                process.kill()  # which may come too late
            finished = process.wait() == 0
            if not finished:
                assert process.returncode == -signal.SIGKILL
                kills -= 1
        for part in ("documents", "clean"):
            assert folder_bytes(folder / part) == folder_bytes(tmp_path / "whole" / part)


def test_killed_at_five_random_moments(tmp_path: Path) -> None:
    kill_drill(tmp_path, 5, seed=os.getpid())


@pytest.mark.full
def test_killed_at_fifty_random_moments(tmp_path: Path) -> None:
    kill_drill(tmp_path, 50, seed=os.getpid())
