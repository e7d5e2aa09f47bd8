"""A child process that carries out functions of this package, so that what hangs or crashes ends only the child.

The other end is `worker_process.py`: requests and answers are JSON objects, one per line, on the child's stdin and stdout.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, Self

Answer = dict[str, Any]


class ChildProcess:
    """Runs one function at a time. A context manager: the process is killed at its end, and ends with its parent anyway.

    `memory_bytes` limits its address space (0: no limit); `environment` adds variables; `stderr` is as for `Popen`.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = 0,
        environment: dict[str, str] | None = None,
        stderr: IO[bytes] | int | None = None,
    ) -> None:
        command = [sys.executable, "-m", "tinyllama.workers.worker_process", str(os.getpid()), str(memory_bytes)]
        variables = {**os.environ, **(environment or {})}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=variables
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(patience_seconds=0)

    def ask(self, function: str, task: Any) -> Iterator[Answer]:
        """What the child says while `function` ("module:function", below `tinyllama`) works on `task`, a JSON value.

        The last answer has `done` (the result), or `error` (a class name) and `message`, unless the child dies.
        """
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

    def last_answer(self, function: str, task: Any) -> Answer:
        """The last answer of `ask`; empty when the child died and had said nothing."""
        return next(iter(deque(self.ask(function, task), maxlen=1)), {})

    def close(self, patience_seconds: float = 5) -> int:
        """End the process, by force when it takes longer; its exit status (negative: the signal that ended it)."""
        for pipe in self._pipes():
            with suppress(OSError):
                pipe.close()
        try:
            return self._process.wait(timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def how_it_ended(status: int) -> str:
    """An exit status in words: `was killed by SIGKILL`, `ended with exit status 1`."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
