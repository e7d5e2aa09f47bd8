"""Which functions each test calls, in its own process and in those that it starts.

A pytest plugin (`-p tests.instruments.reach`): with REACH_DIR set, every process appends `test TAB module:symbol` lines to a
file of its own there, and the tests' outcomes and seconds go to `outcomes-*.tsv`. Child processes begin to record through
the `sitecustomize.py` that `record` writes; they take the test's name from REACH_TEST.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import pytest

_open, _write = os.open, os.write  # a test may put its own in their place
_PACKAGE = f"{os.sep}src{os.sep}tinyllama{os.sep}"
SITECUSTOMIZE = "import os\nif 'REACH_DIR' in os.environ:\n    from tests.instruments import reach\n    reach.start()\n"


class _Recorder:
    """Writes each function once for every test that calls it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = 0
        self._file: int = -1
        self.test = os.environ.get("REACH_TEST", "")
        self._seen: set[CodeType] = set()
        self._foreign: set[CodeType] = set()

    def begin(self, test: str) -> None:
        self.test = os.environ["REACH_TEST"] = test
        self._seen = set()

    def trace(self, frame: FrameType, event: str, arg: object, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
        code = frame.f_code
        if is_over() or code in self._foreign or code in self._seen:
            return
        if _PACKAGE not in code.co_filename:
            self._foreign.add(code)
            return
        self._seen.add(code)
        module = code.co_filename.split(_PACKAGE)[1].removesuffix(".py").replace(os.sep, ".")
        symbol = code.co_qualname.replace(".<locals>", "").split(".<")[0]
        self._write(f"{self.test}\t{module}:{'' if symbol.startswith('<') else symbol}\n")

    def _write(self, line: str) -> None:
        if self._process != os.getpid():  # a fork has a file of its own
            self._process = os.getpid()
            self._file = _open(self._folder / f"calls-{self._process}.tsv", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        _write(self._file, line.encode())


_recorder: _Recorder | None = None


def start() -> None:
    """Record from here on, in this process and its threads."""
    global _recorder
    _recorder = _Recorder(Path(os.environ["REACH_DIR"]))
    threading.settrace(_recorder.trace)
    sys.settrace(_recorder.trace)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if "REACH_DIR" in os.environ and _recorder is None:
        start()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:
    if _recorder is not None:
        _recorder.begin(nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _recorder is None or "PYTEST_XDIST_WORKER" not in os.environ:
        return
    if report.when == "call" or report.outcome != "passed":
        line = f"{report.nodeid}\t{report.outcome}\t{report.duration:.3f}\n"
        file = _open(f"{os.environ['REACH_DIR']}/outcomes-{os.getpid()}.tsv", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        _write(file, line.encode())
        os.close(file)
