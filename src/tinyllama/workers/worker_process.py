"""The child's end of `child_process.py`: reads requests from stdin, calls the functions and writes their answers to stdout.

A document may hang or crash the C code that processes it, and Python can stop neither. So a function sets a time limit
before each batch of documents, and the kernel ends the process when the batch takes longer. Before that the function says
which batch it is (`Progress.at`), so that the parent knows what the process died of.
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

_WALL_FOR_CPU = 10  # on a busy machine a process gets only a fraction of a core


class Progress:
    """Reports to the parent process how far a function is, and sets time limits."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers

    def at(self, row: int, *, singly: bool, cpu_seconds: float) -> None:
        """The documents from `row` on are next; the process ends when they take more than this much processor time."""
        self.say({"at": row, "singly": singly})
        self.limit(cpu_seconds, cpu_seconds * _WALL_FOR_CPU)

    def past(self) -> None:
        """The batch is finished: no time limit applies."""
        self.limit(0)
        self.say({})

    def limit(self, cpu_seconds: float, wall_seconds: float = 0) -> None:
        """The process ends once it has used this much more time; 0: no limit."""
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, wall_seconds)

    def say(self, answer: dict[str, Any]) -> None:
        """Send a JSON object to the parent."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def serve(parent: int, memory_bytes: int) -> None:
    """Answer requests until stdin ends, or the process `parent` is gone. `memory_bytes` of address space; 0: no limit."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps what a library prints out of the answers
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # these end the process, even inside C code
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    progress = Progress(answers)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"done": _function(request["function"])(request["task"], progress)}
        except TinyllamaError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except BrokenPipeError:
            return
        except Exception:
            traceback.print_exc()
            answer = {"error": "TinyllamaError", "message": traceback.format_exc(limit=-1)[-500:]}
        progress.limit(0)
        progress.say(answer)


def _function(name: str) -> Callable[[Any, Progress], Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"tinyllama.{module}"), function)


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone: what it would write now, a resumed run writes again."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
