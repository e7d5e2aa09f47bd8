"""Processes of ranks: how they are started, signalled, waited for and read."""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tinyllama.drill import rank_processes
from tinyllama.drill.rank_processes import RankProcesses, free_port


class Acted:
    """A process that is acted; the pid is no process's."""

    def __init__(self, target: Any = None, args: tuple[Any, ...] = (), *, pid: int | None = None) -> None:
        self.target, self.args, self.pid, self.exitcode, self.asked = target, args, pid, None, []

    def start(self) -> None:
        self.asked.append("start")

    def is_alive(self) -> bool:
        return self.exitcode is None

    def join(self, timeout: float | None) -> None:
        self.asked.append(timeout)

    def close(self) -> None:
        self.asked.append("close")


class Context:
    preloaded: list[str]

    def set_forkserver_preload(self, names: list[str]) -> None:
        self.preloaded = names

    Process = Acted


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Context:
    made = Context()
    monkeypatch.setattr(rank_processes.multiprocessing, "get_context", lambda kind: {"forkserver": made}[kind])
    monkeypatch.setattr(rank_processes, "free_port", lambda: 4242)
    return made


def acted(processes: RankProcesses) -> list[Any]:
    return list(processes.processes)


def test_each_rank_gets_the_environment_of_a_launcher(context: Context, tmp_path: Path):
    given = {"A": "b"}
    made = RankProcesses(["pretrain", "x"], 2, tmp_path / "out" / "put", given)
    assert "tinyllama.commands.app" in context.preloaded
    assert made.folder.is_dir()
    assert given == {"A": "b"}
    for rank, process in enumerate(acted(made)):
        assert process.asked == ["start"]
        assert process.target is rank_processes._run_command
        words, variables, output = process.args
        assert (words, output) == (["pretrain", "x"], str(made.folder / f"rank_{rank}"))
        assert variables == {
            "A": "b", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "4242",
        }  # fmt: skip


def test_one_rank_is_a_process_without_a_launcher(context: Context, tmp_path: Path):
    (process,) = acted(RankProcesses(["pretrain"], 1, tmp_path))
    assert process.args[1] == {}


def test_a_signal_goes_to_the_ranks_named_that_live(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    made = RankProcesses([], 4, tmp_path)
    for rank, process in enumerate(acted(made)):
        process.pid = None if rank == 3 else 100 + rank
    acted(made)[1].exitcode = -9
    made.send(signal.SIGTERM)
    assert sent == [(100, signal.SIGTERM), (102, signal.SIGTERM)]
    made.send(signal.SIGKILL, [1, 2, 3])
    assert sent[2:] == [(102, signal.SIGKILL)]
    assert made.exit_codes == [None, -9, None, None]


def test_all_are_waited_for_within_one_limit(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 101.0, 112.0])
    monkeypatch.setattr(rank_processes.time, "monotonic", lambda: next(clock))
    made = RankProcesses([], 2, tmp_path)
    acted(made)[0].exitcode = 3
    assert made.wait(10) == [3, None]
    assert [process.asked[1:] for process in acted(made)] == [[9.0], [0.0]]
    assert made.wait() == [3, None]
    assert [process.asked[2:] for process in acted(made)] == [[None], [None]]


def test_the_end_kills_waits_and_closes(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    made = RankProcesses([], 2, tmp_path)
    all_of_them = acted(made)
    for rank, process in enumerate(all_of_them):
        process.pid = 100 + rank
    made.end()
    assert sent == [(100, signal.SIGKILL), (101, signal.SIGKILL)]
    assert [process.asked for process in all_of_them] == [["start", None, "close"]] * 2
    assert made.processes == []


def test_what_a_rank_said_is_read_from_its_files(context: Context, tmp_path: Path):
    made = RankProcesses([], 2, tmp_path)
    (tmp_path / "rank_0.out").write_bytes(b"first \xff")
    (tmp_path / "rank_1.out").write_text("second")
    (tmp_path / "rank_1.err").write_text("an error")
    assert [made.output(), made.output(1), made.errors(), made.errors(1)] == ["first \ufffd", "second", "", "an error"]


def test_the_new_process_run_commands_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any):
    ran: list[Any] = []

    def run(name: str, run_name: str) -> None:
        ran.append((name, run_name, sys.argv, os.environ["SOME_VARIABLE"]))
        os.write(1, b"said")
        os.write(2, b"wrong")

    monkeypatch.setattr(runpy, "run_module", run)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setenv("SOME_VARIABLE", "before")
    (tmp_path / "rank_0.out").write_text("of a start before this one")
    kept = [os.dup(1), os.dup(2)]
    try:
        rank_processes._run_command(["pretrain", "x"], {"SOME_VARIABLE": "new"}, str(tmp_path / "rank_0"))
    finally:
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    assert ran == [("tinyllama", "__main__", ["tinyllama", "pretrain", "x"], "new")]
    assert [(tmp_path / f"rank_0.{kind}").read_text() for kind in ("out", "err")] == ["said", "wrong"]


def test_a_free_port_can_be_bound():
    import socket

    port = free_port()
    assert 1024 <= port < 65536
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
