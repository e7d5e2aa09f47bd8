"""torchrun on two hosts that share no disk and no loopback: one run, the same bits as one process."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import overrides
from tests.train.rank_runs import RankRun
from tests.train.run_processes import events, outcome
from tests.train.test_ranks import ONE_ORDER
from tests.train.two_hosts import HOSTS, on_two_hosts, why_not
from tinyllama.drill.rank_processes import free_port
from tinyllama.recipe import load_recipe, to_toml

pytestmark = pytest.mark.full
PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()


def commands_of_the_page(folders: list[Path], processes: int, **changes: object) -> tuple[list[str], list[str]]:
    """The commands for two hosts, with this test's address, run folders and recipe in place of the page's."""
    (block,) = (block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) if "# on host1" in block)
    lines = block.replace("\\\n", " ").splitlines()
    found: list[list[str]] = []
    for words, folder in zip(
        (shlex.split(line) for line in lines if line.startswith("torchrun")), folders, strict=True
    ):
        ours = {
            "torchrun": f"{sys.executable} -m torch.distributed.run", "host0": HOSTS[0], "8": str(processes),
            "tinyllama-1b": "small-120m", "runs/mine": str(folder), "parallel.replicate=16": "--json",
        }  # fmt: skip
        command = [part for word in words for part in ours.get(word, word).split()]
        found.append([*command, *overrides(**changes, parallel__replicate=2 * processes)])
    return found[0], found[1]


def elastic(command: list[str], host: int) -> list[str]:
    """The same by c10d's rendezvous, as the page says below; these hosts have one name, so each is told which it is."""
    (options,) = re.findall(r"`(--rdzv-backend .*?)`", PAGE)
    start, end = command.index("--node-rank"), command.index("--nproc-per-node")
    here = ["--rdzv-conf", f"is_host={host == 0}", "--local-addr", HOSTS[host]]
    return [*command[:start], *options.replace("host0", HOSTS[0]).split(), *here, *command[end:]]


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skips, with the reason, where this machine cannot have two hosts."""
    if why_not():
        pytest.skip(why_not())


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("is_elastic", "processes"), [(False, 1), (True, 2)])
def test_two_hosts_train_one_network(prepared_run: Path, tmp_path: Path, is_elastic: bool, processes: int):
    folders = [Path(shutil.copytree(prepared_run, tmp_path / f"host{host}" / "run")) for host in range(2)]
    first, second = commands_of_the_page(folders, processes, **ONE_ORDER)
    if is_elastic:
        first, second = elastic(first, 0), elastic(second, 1)
    codes, outs, errors = zip(*on_two_hosts((first, second), tmp_path, timeout_seconds=300), strict=True)
    assert codes == (0, 0), errors
    assert outs[1] == ""  # only rank 0 prints, and writes
    assert not (folders[1] / "checkpoints").exists()
    assert [row["ranks"] for row in events(folders[0], "start")] == [2 * processes]

    alone = RankRun(Path(shutil.copytree(prepared_run, tmp_path / "alone")))
    expected = outcome(alone.run_dir, alone.to_its_end(1, **ONE_ORDER))
    assert outcome(folders[0], json.loads(outs[0])) == expected


@pytest.mark.usefixtures("namespaces")
def test_a_host_with_other_shards_is_refused(prepared_run: Path, tmp_path: Path):
    folders = [Path(shutil.copytree(prepared_run, tmp_path / f"host{host}" / "run")) for host in range(2)]
    (shard,) = (folders[1] / "shards" / "train").glob("*.bin")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    first, second = commands_of_the_page(folders, 1)
    results = on_two_hosts((first, second), tmp_path, timeout_seconds=300)
    assert all(code != 0 for code, _, _ in results)
    assert any("shards" in line for _, _, errors in results for line in errors.splitlines() if "tinyllama: " in line)


SLURM = """#!/bin/sh
case $(basename "$0") in
    scontrol) echo localhost ;;
    srun) while [ "$1" != torchrun ]; do shift; done; exec "$@" ;;
esac
"""


def test_the_slurm_script_of_the_page(run_dir: Path, tmp_path: Path):
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    (tmp_path / "train.sbatch").write_text(script.replace("29500", str(free_port())))
    (tmp_path / "mine.toml").write_text(to_toml(load_recipe("small-120m", overrides(train__steps=6))))
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("srun", "scontrol"):
        (commands / name).write_text(SLURM)
        (commands / name).chmod(0o755)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "7",
        "RECIPE": str(tmp_path / "mine.toml"), "RUN": str(run_dir), "LAYOUT": "parallel.replicate=2",
    }  # fmt: skip
    for _ in range(2):  # the second job of the array finds the run finished
        done = subprocess.run(
            ["bash", "train.sbatch"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert [row["ranks"] for row in events(run_dir, "start")] == [2]
    assert events(run_dir, "save")[-1]["step"] == 6
