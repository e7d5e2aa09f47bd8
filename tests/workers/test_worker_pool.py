"""Tasks and their workers: answers, deaths and what is learnt from them, limits of time, work that is there already."""

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyllama.errors import InputError, TinyllamaError
from tinyllama.workers import child_process, worker_pool, worker_process
from tinyllama.workers.child_process import ChildProcess, how_it_ended
from tinyllama.workers.worker_pool import _set_aside, results, run_missing, run_tasks
from tinyllama.workers.worker_process import Progress


class FakeWorker:
    """Gives the answers of `script`, one list a task carried out; an empty rest is a death with the last status."""

    script: list[list[dict[str, Any]]]
    statuses: list[int]
    made: int
    asked: list[Any]

    def __init__(self) -> None:
        FakeWorker.made += 1

    def last_answer(self, function: str, task: dict[str, Any]) -> dict[str, Any]:
        FakeWorker.asked.append((function, json.loads(json.dumps(task))))
        return (FakeWorker.script.pop(0) or [{}])[-1]

    def close(self) -> int:
        return FakeWorker.statuses.pop(0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    monkeypatch.setattr(worker_pool, "_new_worker", FakeWorker)
    monkeypatch.setattr(worker_pool, "_pool", worker_pool._Pool())
    monkeypatch.setattr(worker_pool, "_stopped", set())
    FakeWorker.script, FakeWorker.statuses, FakeWorker.made, FakeWorker.asked = [], [], 0, []
    return FakeWorker


def supervised(task: dict[str, Any], run: str = "r") -> dict[str, Any]:
    return json.loads(worker_pool._supervised(json.dumps([run, "m:f", task, 1])))


def test_a_worker_that_answers_is_used_again(fake: type[FakeWorker]) -> None:
    fake.script = [[{"at": 0, "singly": False}, {"done": 1}], [{"error": "InputError", "message": "x"}], [{"done": 3}]]
    assert [supervised({"n": n}) for n in range(3)] == [
        {"done": 1},
        {"error": "InputError", "message": "x"},
        {"done": 3},
    ]
    assert (fake.made, worker_pool._pool._busy, len(worker_pool._pool._idle)) == (1, 0, 1)
    assert fake.asked == [("m:f", {"n": n}) for n in range(3)]


def test_documents_that_kill_a_worker_are_set_aside_one_after_another(fake: type[FakeWorker]) -> None:
    batch, single = {"at": 64, "singly": False}, {"at": 70, "singly": True}
    fake.script = [[{"at": 0, "singly": False}, batch], [batch, single], [single, {"at": 71, "singly": True}],
                   [{"at": 72, "singly": True}], [{"done": 9}]]  # fmt: skip
    fake.statuses = [-9, -11, -signal.SIGPROF, -signal.SIGALRM]
    assert supervised({}) == {"done": 9}
    assert [task for _, task in fake.asked] == [
        {}, {"singly": [64]}, {"singly": [64], "broken": {"70": "step_crashed"}},
        {"singly": [64], "broken": {"70": "step_crashed", "71": "step_too_slow"}},
        {"singly": [64], "broken": {"70": "step_crashed", "71": "step_too_slow", "72": "step_too_slow"}},
    ]  # fmt: skip
    assert (fake.made, worker_pool._pool._busy, len(worker_pool._pool._idle)) == (5, 0, 1)


def test_a_task_that_says_nothing_is_tried_three_times(fake: type[FakeWorker]) -> None:
    fake.script, fake.statuses = [[], [{}], [{}], [{"done": 1}]], [1, 1, 1, 1]
    answer = supervised({"n": 1})
    assert answer["error"] == "TinyllamaError"
    assert answer["message"].startswith("a worker died in m:f ({'n': 1, 'deaths': 3})")
    assert (len(fake.asked), worker_pool._pool._busy, worker_pool._pool._idle) == (3, 0, [])
    fake.script, fake.statuses = [[], [], [{"done": 1}]], [1, 1]
    assert supervised({}) == {"done": 1}


def test_a_task_does_not_kill_workers_for_ever(fake: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_MOST_DEATHS", 4)
    fake.script, fake.statuses = [[{"at": n, "singly": True}] for n in range(9)], [-6] * 9
    assert "a worker died" in supervised({"long": "x" * 999})["message"]
    assert len(fake.asked) == 4
    assert len(supervised({"long": "x" * 999})["message"]) == 500


@pytest.mark.parametrize("status", [-14, -27, -11, -6, 1, 14])
def test_only_the_signals_of_the_clock_mean_too_slow(status: int) -> None:
    task: dict[str, Any] = {}
    assert _set_aside(task, {"at": 3, "singly": True}, status) is True
    assert task == {"broken": {"3": "step_too_slow" if status in (-14, -27) else "step_crashed"}}


def test_a_run_with_a_failed_task_begins_no_other(fake: type[FakeWorker]) -> None:
    worker_pool._stopped.add("bad")
    assert supervised({}, "bad")["message"] == "not started: another task has failed"
    fake.script = [[{"done": 1}]]
    assert supervised({}, "good") == {"done": 1}


def test_a_pool_lets_no_more_work_at_once(fake: type[FakeWorker]) -> None:
    import threading

    pool = worker_pool._Pool()
    first, second = pool.take(2), pool.take(2)
    taken = threading.Event()
    waiting = threading.Thread(target=lambda: (pool.take(2), taken.set()), daemon=True)
    waiting.start()
    assert not taken.wait(0.05)
    pool.give_back(first)
    assert taken.wait(5)
    waiting.join()
    pool.give_back(second)
    assert (pool._busy, pool._idle, fake.made) == (1, [second], 2)
    fake.statuses = [0]
    pool.close()
    assert (pool._idle, fake.statuses) == ([], [])


# -- runs of tasks


def answers(monkeypatch: pytest.MonkeyPatch, made: Any) -> list[Any]:
    """`_supervised` replaced; what it was asked for."""
    import daft

    asked: list[Any] = []

    def answer(request: str) -> str:
        asked.append(json.loads(request))
        return json.dumps(made(asked[-1][2]))

    monkeypatch.setattr(
        worker_pool, "_answer_of", daft.func(answer, return_dtype=daft.DataType.string(), use_process=False)
    )
    return asked


def test_every_task_is_asked_once_with_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, lambda task: {"done": {"n": task["n"] * 2}})
    assert sorted(a["n"] for a in run_tasks("m:f", [{"n": n} for n in range(5)], 3)) == [0, 2, 4, 6, 8]
    assert {(function, most) for _, function, _, most in asked} == {("m:f", 3)}
    assert len({run for run, *_ in asked}) == 1
    assert list(run_tasks("m:f", [], 3)) == []
    assert results("m:f", iter([{"n": n} for n in (5, 1, 3)]), 1) == [{"n": 10}, {"n": 2}, {"n": 6}]


@pytest.mark.parametrize(("kind", "error"), [("InputError", InputError), ("KeyError", TinyllamaError)])
def test_the_first_fault_is_told_and_nothing_after_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception]
) -> None:
    def made(task: dict[str, Any]) -> dict[str, Any]:
        return {"error": kind, "message": f"bad {task['n']}"} if task["n"] else {"done": {}}

    asked = answers(monkeypatch, made)
    with pytest.raises(error, match="bad 1") as raised:
        list(run_tasks("m:f", [{"n": 0}, {"n": 1}], 1))
    assert type(raised.value) is error
    assert asked[0][0] in worker_pool._stopped


def test_only_tasks_whose_file_is_missing_are_carried_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    tasks = [{"out": str(tmp_path / name), "tally": str(tmp_path / "b")} for name in "abc"]
    asked = answers(monkeypatch, lambda task: {"done": {}})
    shown: list[Any] = []

    class Line:
        def __init__(self, what: str, total: int) -> None:
            shown.append((what, total))

        def __enter__(self) -> "Line":
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, done: int) -> None:
            shown.append(done)

    monkeypatch.setattr(worker_pool.log, "progress", Line)
    run_missing("m:f", tasks, 1, "look")
    assert sorted(task["out"][-1] for _, _, task, _ in asked) == ["a", "c"]
    assert shown == [("look", 3), 2, 3]
    run_missing("m:f", tasks, 1, "look", sign="tally")
    assert len(asked) == 2


# -- the process


def test_limits_of_time_are_set_for_each_batch_and_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Any] = []
    monkeypatch.setattr(worker_process.signal, "setitimer", lambda which, seconds: timers.append((which, seconds)))
    out = io.StringIO()
    progress = Progress(out)
    progress.at(64, singly=True, cpu_seconds=2.5)
    progress.past()
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [{"at": 64, "singly": True}, {}]
    assert timers == [
        (signal.ITIMER_PROF, 2.5), (signal.ITIMER_REAL, 25.0), (signal.ITIMER_PROF, 0), (signal.ITIMER_REAL, 0),
    ]  # fmt: skip


def test_requests_are_answered_until_they_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def function(name: str) -> Any:
        def call(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
            if task["n"] == 1:
                raise InputError("bad input")
            if task["n"] == 2:
                raise ValueError("ours" + "y" * 600)
            return {"n": task["n"], "name": name}

        return call

    limits: list[Any] = []
    timers: list[Any] = []
    for target, name, value in (
        (worker_process, "_function", function), (worker_process, "_end_with", lambda parent: None),
        (worker_process.os, "dup2", lambda *pair: limits.append(("dup2", *pair))),
        (worker_process.signal, "signal", lambda *pair: limits.append(pair)),
        (worker_process.signal, "setitimer", lambda *pair: timers.append(pair)),
        (worker_process.resource, "setrlimit", lambda *pair: limits.append(pair)),
        (worker_process.sys, "stdin", io.StringIO("".join(
            json.dumps({"function": "m:f", "task": {"n": n}}) + "\n" for n in range(4)))),
    ):  # fmt: skip
        monkeypatch.setattr(target, name, value)
    worker_process.serve(5, 1 << 30)
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert timers[:2] == [(signal.ITIMER_PROF, 0), (signal.ITIMER_REAL, 0)]
    assert len(timers) == 8
    assert (worker_process.resource.RLIMIT_AS, (1 << 30, 1 << 30)) in limits
    assert said[0] == {"done": {"n": 0, "name": "m:f"}}
    assert said[1] == {"error": "InputError", "message": "bad input"}
    assert said[2]["error"] == "TinyllamaError"
    assert len(said[2]["message"]) == 500
    assert said[3] == {"done": {"n": 3, "name": "m:f"}}
    assert ("dup2", 2, 1) in limits
    assert (worker_process.resource.RLIMIT_CORE, (0, 0)) in limits
    assert (signal.SIGPROF, signal.SIG_DFL) in limits
    assert (signal.SIGALRM, signal.SIG_DFL) in limits
    assert (signal.SIGINT, signal.SIG_IGN) in limits


def test_a_function_is_named_by_module_and_name() -> None:
    assert worker_process._function("hashing:is_validation").__module__ == "tinyllama.hashing"


def test_a_worker_ends_when_its_parent_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([5, 5, 1])
    ended: list[int] = []
    monkeypatch.setattr(worker_process.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(worker_process.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(worker_process.os, "_exit", ended.append)
    worker_process._end_with(5)
    assert ended == [1]


class OneLine:
    """A pipe that gives lines and notes what is written."""

    def __init__(self, lines: list[str], broken: bool = False) -> None:
        self.lines, self.broken, self.written, self.closed = lines, broken, "", 0

    def write(self, text: str) -> None:
        if self.broken:
            raise BrokenPipeError
        self.written += text

    def flush(self) -> None: ...

    def __iter__(self) -> Iterator[str]:
        yield from self.lines

    def close(self) -> None:
        self.closed += 1
        if self.broken:
            raise OSError


@pytest.mark.parametrize("broken", [False, True])
def test_a_child_s_words_are_read_up_to_its_answer(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin, stdout = OneLine([], broken), OneLine(['{"at": 1}\n', '{"error": "x"}\n', '{"done": 2}\n'])
    started: list[Any] = []

    class Process:
        waits = 0

        def __init__(self, command: list[str], **options: Any) -> None:
            started.append((command, options))
            self.stdin, self.stdout = stdin, stdout

        def wait(self, timeout: float | None = None) -> int:
            Process.waits += 1
            if timeout is not None:
                raise child_process.subprocess.TimeoutExpired("x", timeout)
            return -9

        def kill(self) -> None:
            Process.waits += 10

    monkeypatch.setattr(child_process.subprocess, "Popen", Process)
    monkeypatch.setenv("KEPT", "1")
    with ChildProcess(memory_bytes=7, environment={"NEW": "2"}, stderr=3) as child:
        assert list(child.ask("m:f", {"a": 1})) == ([] if broken else [{"at": 1}, {"error": "x"}])
        assert stdin.written == ("" if broken else '{"function": "m:f", "task": {"a": 1}}\n')
        assert child.last_answer("m:f", 1) == ({} if broken else {"error": "x"})
        assert child.close() == -9
        assert (stdin.closed, stdout.closed, Process.waits) == (1, 1, 12)
    assert Process.waits == 24
    ((command, options),) = started
    assert command[1:] == ["-m", "tinyllama.workers.worker_process", str(child_process.os.getpid()), "7"]
    assert (options["env"]["KEPT"], options["env"]["NEW"], options["stderr"]) == ("1", "2", 3)


def test_a_real_child_answers_and_its_death_is_told() -> None:
    with ChildProcess() as child:
        assert child.last_answer("seeds:nothing_of_this_name", {})["error"] == "TinyllamaError"
        assert child.last_answer("log:human_name_that_is_none", {})["message"].startswith("Traceback")
        assert child.close() == 0
    assert how_it_ended(-11) == "was killed by SIGSEGV"
    assert how_it_ended(3) == "ended with exit status 3"
