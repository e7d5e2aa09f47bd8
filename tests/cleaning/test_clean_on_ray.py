"""The same plan on a Ray cluster of this machine, with two workers: the same files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cleaning.clean_inputs import folder_bytes
from tests.cleaning.test_clean_run import mixed_inputs, run

RUN = """
import os, sys
from pathlib import Path
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.clean_run import clean
import ray

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
folder = Path(sys.argv[1])
clean(CleanConfig(workers=2), [Path(sys.argv[2])], folder / "documents", folder / "clean")
import daft
print("runner", daft.get_or_create_runner().name)
"""


def test_ray_gives_what_one_machine_gives(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    mixed_inputs(tmp_path / "in")
    run(tmp_path / "one", [tmp_path / "in"])
    command = [sys.executable, "-c", RUN, str(tmp_path / "ray"), str(tmp_path / "in")]
    environment = {**os.environ, "DAFT_RUNNER": "ray", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "runner ray" in done.stdout
    assert folder_bytes(tmp_path / "ray") == folder_bytes(tmp_path / "one")
