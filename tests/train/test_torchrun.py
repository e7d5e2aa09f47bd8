"""torchrun starts the ranks, and brings a run back whose rank was killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import overrides
from tests.train.rank_runs import RankRun, started
from tests.train.run_processes import events, outcome, stopped, wait_until
from tests.train.test_ranks import ONE_ORDER
from tinyllama import files
from tinyllama.recipe import load_recipe, to_toml

PAGE = (Path(__file__).parents[2] / "docs" / "ranks.md").read_text()
pytestmark = pytest.mark.full


def torchrun(run_dir: Path, ranks: int, *options: str, **changes: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone", *options]
    command += ["-m", "tinyllama", "pretrain", "small-120m", "--run-dir", str(run_dir), "--json"]
    command += overrides(**changes | {"parallel__replicate": ranks})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ranks_of(agent: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks that torchrun started, in the order of ranks."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        rank = [value for value in environment if value.startswith(b"RANK=")]
        if rank:
            found[int(rank[0].removeprefix(b"RANK="))] = pid
    return [found[rank] for rank in sorted(found)]


@pytest.fixture
def alone(prepared_run: Path, tmp_path: Path) -> tuple:
    run = RankRun(Path(shutil.copytree(prepared_run, tmp_path / "alone")))
    return outcome(run.run_dir, run.to_its_end(1, **ONE_ORDER))


def test_torchrun_brings_a_killed_rank_back(run_dir: Path, alone: tuple):
    agent = torchrun(run_dir, 4, "--max-restarts=2", **ONE_ORDER)
    wait_until(lambda: len(events(run_dir, "save")) >= 2, agent)
    os.kill(ranks_of(agent)[2], signal.SIGKILL)
    out, errors = agent.communicate(timeout=180)
    assert agent.returncode == 0, errors
    assert started(run_dir) == [4, 4]
    summary = json.loads(out)
    assert outcome(run_dir, summary) == alone


def test_torchrun_hands_on_a_signal(run_dir: Path, alone: tuple):
    agent = torchrun(run_dir, 2, **ONE_ORDER)
    wait_until(lambda: len(events(run_dir, "save")) >= 2, agent)
    agent.send_signal(signal.SIGTERM)
    _, errors = agent.communicate(timeout=120)
    (stop,) = events(run_dir, "stop")
    assert (stop["reason"], stop["exit_code"]) == ("SIGTERM", 143), errors
    assert events(run_dir, "save")[-1]["step"] == stop["step"]
    run = RankRun(run_dir)
    assert outcome(run_dir, run.to_its_end(1, **ONE_ORDER)) == alone


def test_another_number_of_processes_than_the_recipe_has(run_dir: Path):
    exit_code, line = stopped(run_dir, overrides(parallel__replicate=2, train__micro_batch_size=1))
    assert exit_code == 2
    assert "the layout has 2 ranks, but 1 process was started" in line


def test_commands_of_the_page(run_dir: Path, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    run_dir = run_dir.rename(tmp_path / "runs" / "mine")
    (tmp_path / "mine.toml").write_text(to_toml(load_recipe("small-120m", overrides())))
    (tmp_path / "drill.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.S)[0])
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S):
        done = subprocess.run(
            ["sh", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
    assert [row["ranks"] for row in events(run_dir, "start")] == [2]
    assert files.read_json(run_dir / "drill" / "drill.json")["agree"] == 3
