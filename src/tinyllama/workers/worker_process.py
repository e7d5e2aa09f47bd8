"""The process in which the tasks of cleaning run: requests on stdin, answers on stdout, a JSON object a line.

A document may hang or crash the C code that looks at it, and Python can stop neither. So a step tells before each batch of
documents where it is (`Progress.at`), and the kernel ends the process when the batch takes too long; the supervisor
(`worker_pool.py`) learns from the last line which batch it was.
"""

import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

from tinyllama.errors import TinyllamaError

_WALL_FOR_CPU = 10  # a busy machine gives a process a small part of a core


class Progress:
    """Tells the supervisor where a step is, and sets the limits of time for what comes."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers

    def at(self, row: int, *, singly: bool, cpu_seconds: float) -> None:
        """The documents from `row` on are next; the process ends when they take more than so much processor time."""
        self.say({"at": row, "singly": singly})
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, cpu_seconds * _WALL_FOR_CPU)

    def past(self) -> None:
        """No limit from here on."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.say({})

    def say(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def serve() -> None:
    """A worker's life: until stdin ends, or the supervisor is gone."""
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # these end the process, even inside C code
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    progress = Progress(answers)
    for line in requests:
        request = json.loads(line)
        try:
            done = _function(request["function"])(request["task"], progress)
            progress.past()
            progress.say({"done": done})
        except TinyllamaError as error:
            progress.past()
            progress.say({"error": type(error).__name__, "message": str(error)})
        except BrokenPipeError:
            return
        except Exception:
            progress.past()
            traceback.print_exc()
            progress.say({"error": "TinyllamaError", "message": traceback.format_exc(limit=-1)[-500:]})


def _function(name: str) -> Callable[[dict[str, Any], Progress], dict[str, Any]]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"tinyllama.{module}"), function)


def _end_with(parent: int) -> None:
    """End this process as soon as its supervisor is gone: what it would write now, a resumed run writes again."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    serve()
