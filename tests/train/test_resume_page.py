"""The commands of docs/resume.md run, one after another, and do what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import overrides
from tests.train.run_processes import events
from tinyllama import files
from tinyllama.recipe import load_recipe, to_toml

PAGE = Path(__file__).parents[2] / "docs" / "resume.md"


def test_commands_of_the_page(run_dir: Path, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    run_dir = run_dir.rename(tmp_path / "runs" / "mine")
    (tmp_path / "mine.toml").write_text(to_toml(load_recipe("small-120m", overrides(train__steps=40))))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    first, loop = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
    done = subprocess.run(
        ["sh", "-e", "-c", first], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "exit code 75" in done.stdout
    assert [row["step"] for row in events(run_dir, "finish")] == [40, 50]
    assert [row["step"] for row in files.read_jsonl(run_dir / "metrics.jsonl")] == list(range(1, 51))
    done = subprocess.run(["sh", "-c", loop], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True)
    assert done.returncode == 0
