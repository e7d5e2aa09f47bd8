"""Runs a step of cleaning: a list of tasks, each of which reads files and writes files of its own.

A task is a function named `module:function` with JSON in and JSON out. Daft distributes the tasks over threads on one
machine or over a Ray cluster (`DAFT_RUNNER=ray`); each runs in a child process. So memory is that of the running tasks, a
killed run resumes with the tasks whose files are missing, and a document that hangs or crashes its worker is found and
dropped with a reason; the others are processed. All machines of a cluster must see the same folders.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import daft
from daft import DataType, col

from tinyllama import log
from tinyllama.errors import InputError, TinyllamaError
from tinyllama.workers.child_process import Answer, ChildProcess

Task = dict[str, Any]
_MOST_DEATHS = 1000  # of workers in one task: that many documents may break it


def _new_worker() -> ChildProcess:
    return ChildProcess(environment={"DAFT_RUNNER": "native"})  # a task of a cluster runs on one machine


class _Pool:
    """Idle workers, and how many are busy in this process."""

    def __init__(self) -> None:
        self._idle: list[ChildProcess] = []
        self._lock = threading.Condition()
        self._busy = 0

    def take(self, most: int) -> ChildProcess:
        with self._lock:
            self._lock.wait_for(lambda: self._busy < most)
            self._busy += 1
            return self._idle.pop() if self._idle else _new_worker()

    def give_back(self, worker: ChildProcess | None) -> None:
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
    """End the idle worker processes; a later step starts new ones."""
    _pool.close()


def run_tasks(function: str, tasks: list[Task], workers: int) -> Iterator[Answer]:
    """Call `function` ("module:function", below `tinyllama`) on each task; yields the results in the order of completion.

    `workers`: tasks that run at the same time on one machine; 0: one per core. Raises what a task raised: InputError, or
    TinyllamaError for every other class.
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
                _stopped.add(run)  # running tasks are waited for: they must not write after the error is raised
            elif not fault:
                yield answer["done"]
    if fault:
        raise _error_of(fault)


def _supervised(request: str) -> str:
    """Run one task in a worker; JSON in and out."""
    run, function, task, most = json.loads(request)
    if run in _stopped:
        return json.dumps({"error": "TinyllamaError", "message": "not started: another task has failed"})
    worker = _pool.take(most)
    alive: ChildProcess | None = None
    try:
        for _ in range(_MOST_DEATHS):
            answer = worker.last_answer(function, task)
            if "done" in answer or "error" in answer:
                alive = worker
                return json.dumps(answer)
            status = worker.close()
            if not _set_aside(task, answer, status):
                break
            worker = _new_worker()
        return json.dumps({"error": "TinyllamaError", "message": f"a worker died in {function} ({task})"[:500]})
    finally:
        _pool.give_back(alive)


_answer_of = daft.func(_supervised, return_dtype=DataType.string(), use_process=False)


def _set_aside(task: Task, last: Answer, status: int) -> bool:
    """Note in `task` what its worker died of, so that the next worker avoids it; False when the cause stays unknown.

    A step that processes documents in batches says before each batch `at` (the first row) and `singly`. A batch that
    killed a worker is repeated one document at a time; the document that kills a worker again gets a reason.
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
    """All results of `run_tasks`, sorted by their JSON so that their order does not depend on timing."""
    return sorted(run_tasks(function, list(tasks), workers), key=lambda answer: json.dumps(answer, sort_keys=True))


def run_missing(function: str, tasks: list[Task], workers: int, what: str, sign: str = "out") -> None:
    """Run the tasks whose output file, under the key `sign`, is missing; `what` is the label of the progress line."""
    missing = [task for task in tasks if not Path(task[sign]).exists()]
    with log.progress(what, len(tasks)) as line:
        for done, _ in enumerate(run_tasks(function, missing, workers), len(tasks) - len(missing) + 1):
            line.update(done)


def worker_count(asked: int) -> int:
    """`asked`, or for 0 the number of cores that this process may use (a container or `taskset` may restrict it)."""
    return asked or len(os.sched_getaffinity(0))
