"""Runs a step of cleaning: a list of tasks, each of which reads files and writes files of its own.

A task is a function named `module:function` with JSON in and JSON out. Daft hands the tasks out, to threads on one machine
or over a Ray cluster (`DAFT_RUNNER=ray`); each runs in a supervised worker process (`worker_process.py`). So memory is
that of the tasks under way, a killed run goes on with the tasks whose files are missing, and a document that hangs or
crashes its worker is found, set aside with a reason and stops nothing. All machines of a cluster must see the same folders.
"""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import daft
from daft import DataType, col

from tinyllama import log
from tinyllama.errors import InputError, TinyllamaError

Task = dict[str, Any]
Answer = dict[str, Any]
_MOST_DEATHS = 1000  # of workers in one task: so many documents may break it


class _Worker:
    """One subprocess that carries out tasks, one after another."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tinyllama.workers.worker_process"]
        environment = {**os.environ, "DAFT_RUNNER": "native"}  # a task of a cluster is no cluster
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def carry_out(self, function: str, task: Task) -> Iterator[Answer]:
        """What the worker says about the task, as it says it; the last is `done` or `error`, unless it dies."""
        stdin, stdout = self._pipes()
        try:
            stdin.write(json.dumps({"function": function, "task": task}) + "\n")
            stdin.flush()
        except OSError:
            return
        for line in stdout:
            answer = json.loads(line)
            yield answer
            if "done" in answer or "error" in answer:
                return

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def close(self) -> int:
        """End the process; returns its exit status (negative: the signal that had ended it)."""
        for pipe in self._pipes():
            try:
                pipe.close()
            except OSError:
                continue
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class _Pool:
    """Workers that wait for a task, and how many may work at the same time in this process."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = threading.Condition()
        self._busy = 0

    def take(self, most: int) -> _Worker:
        with self._lock:
            self._lock.wait_for(lambda: self._busy < most)
            self._busy += 1
            return self._idle.pop() if self._idle else _Worker()

    def give_back(self, worker: _Worker | None) -> None:
        with self._lock:
            self._busy -= 1
            if worker is not None:
                self._idle.append(worker)
            self._lock.notify()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()


_pool = _Pool()
_stopped: set[str] = set()  # runs of this process in which a task has failed


def close_workers() -> None:
    """End the worker processes that wait for more; a later step starts new ones."""
    _pool.close()


def run_tasks(function: str, tasks: list[Task], workers: int) -> Iterator[Answer]:
    """Carry out `function` ("module:function", below `tinyllama`) on each task; their results as they come, in no order.

    `workers`: how many tasks a machine has under way; 0: one a core. Raises InputError and others of ours as the tasks do.
    """
    if not tasks:
        return
    run = uuid4().hex
    requests = [json.dumps([run, function, task, worker_count(workers)]) for task in tasks]
    frame = daft.from_pydict({"request": requests})
    frame = frame.into_partitions(len(tasks)) if os.environ.get("DAFT_RUNNER") == "ray" else frame.into_batches(1)
    answers = frame.select(_answer_of(col("request")).alias("answer"))
    fault: Answer = {}
    for batch in answers.to_arrow_iter(results_buffer_size=64):
        for text in batch.column(0).to_pylist():
            answer = json.loads(text)
            if "error" in answer:
                fault = fault or answer
                _stopped.add(run)  # tasks under way are waited for: what they write must not come after the error
            elif not fault:
                yield answer["done"]
    if fault:
        raise _error_of(fault)


def _supervised(request: str) -> str:
    """Carry out one task in a worker; JSON in and out."""
    run, function, task, most = json.loads(request)
    if run in _stopped:
        return json.dumps({"error": "TinyllamaError", "message": "not begun: another task has failed"})
    worker = _pool.take(most)
    alive: _Worker | None = None
    try:
        for _ in range(_MOST_DEATHS):
            answer = next(iter(deque(worker.carry_out(function, task), maxlen=1)), {})
            if "done" in answer or "error" in answer:
                alive = worker
                return json.dumps(answer)
            status = worker.close()
            if not _set_aside(task, answer, status):
                break
            worker = _Worker()
        return json.dumps({"error": "TinyllamaError", "message": f"a worker died in {function} ({task})"[:500]})
    finally:
        _pool.give_back(alive)


_answer_of = daft.func(_supervised, return_dtype=DataType.string(), use_process=False)


def _set_aside(task: Task, last: Answer, status: int) -> bool:
    """Note in `task` what its worker died of, so that the next one gets past it; False when nothing can be learnt.

    A step that judges many documents together says before each batch `at` (the first one) and `singly`. The batch that
    killed a worker is taken one by one; the one document that does it again gets a reason.
    """
    if "at" not in last:
        tries = task.setdefault("deaths", 0)
        task["deaths"] = tries + 1
        return tries < 2
    if last["singly"]:
        reason = "step_too_slow" if -status in (14, 27) else "step_crashed"  # SIGALRM, SIGPROF
        task.setdefault("broken", {})[str(last["at"])] = reason
    else:
        task.setdefault("singly", []).append(last["at"])
    return True


def _error_of(answer: Answer) -> Exception:
    kinds: dict[str, type[Exception]] = {"InputError": InputError}
    return kinds.get(answer["error"], TinyllamaError)(answer["message"])


def results(function: str, tasks: Iterable[Task], workers: int) -> list[Answer]:
    """All results of `run_tasks`, sorted by their JSON so that they do not depend on who was first."""
    return sorted(run_tasks(function, list(tasks), workers), key=lambda answer: json.dumps(answer, sort_keys=True))


def run_missing(function: str, tasks: list[Task], workers: int, what: str, sign: str = "out") -> None:
    """Carry out the tasks whose file, under the key `sign`, is missing; `what` is for the person who waits."""
    missing = [task for task in tasks if not Path(task[sign]).exists()]
    with log.progress(what, len(tasks)) as line:
        for done, _ in enumerate(run_tasks(function, missing, workers), len(tasks) - len(missing) + 1):
            line.update(done)


# How many processes may work at the same time.


def worker_count(asked: int) -> int:
    """`asked`, or for 0 the cores that this process may use (a container or `taskset` may leave it fewer than there are)."""
    return asked or len(os.sched_getaffinity(0))
