"""Starts command lines of this program as processes, one per rank, quickly.

They are forked from a process that has loaded the libraries (multiprocessing's forkserver), because loading takes seconds
and a drill starts hundreds. Otherwise they are like processes of a shell or torchrun: own memory, environment and exit code.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

LOADED = ["tinyllama.commands.app", "tinyllama.train.trainer", "torch.fx.experimental.symbolic_shapes"]


class RankProcesses:
    """Runs a command as `ranks` processes; their stdout and stderr go to `folder`/rank_N.out and .err."""

    def __init__(self, words: list[str], ranks: int, folder: Path, environment: dict[str, str] | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LOADED)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._words = folder, words
        port = free_port() if ranks > 1 else 0
        self.processes: list[BaseProcess] = []
        for rank in range(ranks):
            variables = dict(environment or {})
            if ranks > 1:
                variables |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            process = context.Process(target=_run_command, args=(words, variables, str(folder / f"rank_{rank}")))
            process.start()
            self.processes.append(process)

    @property
    def exit_codes(self) -> list[int | None]:
        """Exit code of each rank; -9 after SIGKILL, None while it runs."""
        return [process.exitcode for process in self.processes]

    def wait(self, timeout_seconds: float | None = None) -> list[int | None]:
        """Wait until all have exited or the time is over; returns the exit codes."""
        ends_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for process in self.processes:
            process.join(None if ends_at is None else max(0.0, ends_at - time.monotonic()))
        return self.exit_codes

    def send(self, number: int, ranks: list[int] | None = None) -> None:
        """Send a signal to the given ranks, or to all that are running."""
        for rank, process in enumerate(self.processes):
            if (ranks is None or rank in ranks) and process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def end(self) -> None:
        """Kill all running ranks and wait until they are gone."""
        self.send(signal.SIGKILL)
        self.wait()
        for process in self.processes:
            process.close()
        self.processes = []

    def output(self, rank: int = 0) -> str:
        """What a rank printed on stdout."""
        return self._read(rank, "out")

    def errors(self, rank: int = 0) -> str:
        """What a rank printed on stderr."""
        return self._read(rank, "err")

    def _read(self, rank: int, kind: str) -> str:
        path = self.folder / f"rank_{rank}.{kind}"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_command(words: list[str], variables: dict[str, str], output: str) -> None:
    """In the new process: run `tinyllama WORDS`."""
    os.environ.update(variables)
    for descriptor, kind in ((1, "out"), (2, "err")):
        file = os.open(f"{output}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = ["tinyllama", *words]
    runpy.run_module("tinyllama", run_name="__main__")
