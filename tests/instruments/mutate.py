"""Plants faults one at a time, runs the tests that can reach them, and prints who was not noticed.

    make mutate                    every fault of the lists
    make mutate PART=train         one part's
    python -m tests.instruments.mutate table

Work is kept under build/mutations/: a copy of the tree for each worker, which tests call which functions (recorded again for
test files that changed), and `results.jsonl`. A second start resumes the first; `--again` repeats the survivors.
A fault is caught when a test fails, or hangs, with the fault in place.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.instruments.faults import Fault, MisfitError, plant, read_faults, source_path
from tests.instruments.reach_map import ReachMap, Test

ROOT = Path(__file__).parents[2]
FIRST_SECONDS = 12.0  # the nearest tests go first and catch most faults
MEMORY_BYTES = 12 * 10**9


@dataclass(frozen=True)
class Outcome:
    fault: str
    outcome: str  # caught | survived | unreached | misfit
    by: str  # the test that failed
    seconds: float


class Worker:
    """A copy of the tree in which one fault at a time is planted."""

    def __init__(self, work: Path, number: int) -> None:
        self.root = work / f"worker{number}" / "tree"
        shutil.rmtree(self.root, ignore_errors=True)
        listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
        for name in listed.splitlines():
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)
        shared = ROOT.parent / "shared"
        if shared.exists() and not (self.root.parent / "shared").exists():
            (self.root.parent / "shared").symlink_to(shared)

    def run(self, fault: Fault, reach: ReachMap, budget_seconds: float, tests: list[Test] | None = None) -> Outcome:
        """Plant the fault, run the tests given or those that reach it, take it out again."""
        started = time.monotonic()
        try:
            path = source_path(self.root / "src" / "tinyllama", fault.module, fault.symbol)
            whole = path.read_text()
            faulty = plant(whole, fault)
        except MisfitError as misfit:
            return Outcome(fault.name, "misfit", str(misfit), 0)
        tests = tests or reach.tests_of(path.relative_to(self.root / "src" / "tinyllama"), fault.symbol, budget_seconds)
        if not tests:
            return Outcome(fault.name, "unreached", "", 0)
        try:
            write_source(path, faulty)
            by = self._first_failure(tests)
        finally:
            write_source(path, whole)
        return Outcome(fault.name, "caught" if by else "survived", by, time.monotonic() - started)

    def _first_failure(self, tests: list[Test]) -> str:
        """The first test that fails, of the nearest ones and then of the rest; empty: none."""
        total, near = 0.0, 0
        while near < len(tests) and total <= FIRST_SECONDS:
            total += tests[near].seconds
            near += 1
        return self._pytest(tests[:near]) or (self._pytest(tests[near:]) if near < len(tests) else "")

    def _pytest(self, tests: list[Test]) -> str:
        report = self.root / "failed.txt"
        report.unlink(missing_ok=True)
        limit = 60 + 4 * sum(test.seconds for test in tests)
        process = os.fork()
        if process == 0:
            run_tests_here(self.root, [test.name for test in tests], report)
        ends_at = time.monotonic() + limit
        status = None
        while status is None and time.monotonic() < ends_at:
            done, code = os.waitpid(process, os.WNOHANG)
            status = code if done else None
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        if status is None:
            os.waitpid(process, 0)
            return f"no end after {limit:.0f} s"
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return ""
        return report.read_text() if report.exists() else f"pytest ended with {code}"


def write_source(path: Path, text: str) -> None:
    """Written so that no compiled file of the text before is taken for it: its time is never one seen before."""
    path.write_text(text)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def run_tests_here(root: Path, names: list[str], report: Path) -> None:
    """In a forked child with the heavy libraries already loaded: run tests of a tree; never returns."""
    os.setsid()
    os.chdir(root)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.environ["PYTHONPATH"] = f"{root / 'src'}{os.pathsep}{root}"
    for name in [name for name in sys.modules if name.split(".")[0] in ("tinyllama", "tests")]:
        del sys.modules[name]
    sys.path[:0] = [str(root / "src"), str(root)]
    code = 1
    try:
        import pytest

        class FirstFailure:
            def pytest_runtest_logreport(self, report: pytest.TestReport, file: Path = report) -> None:
                if report.failed:
                    file.write_text(report.nodeid)

        words = ["-x", "-q", "-n0", "-p", "no:cacheprovider", f"--basetemp={root / 'tmp'}", "-m", "full or not full"]
        code = pytest.main([*words, *names], plugins=[FirstFailure()])
    finally:
        os._exit(int(code))


def preload() -> None:
    """Import what every test run imports, once; forks begin with it. Nothing is computed here, so no thread is started."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    for name in (
        "torch",
        "numpy",
        "pydantic",
        "typer",
        "rich",
        "pytest",
        "hypothesis",
        "xdist",
        "safetensors",
        "scipy.sparse",
    ):
        __import__(name)


def results(work: Path) -> dict[str, Outcome]:
    """The last outcome of each fault."""
    file = work / "results.jsonl"
    rows = file.read_text().splitlines() if file.exists() else []
    return {outcome.fault: outcome for outcome in (Outcome(**json.loads(row)) for row in rows)}


def run(faults: list[Fault], work: Path, options: argparse.Namespace) -> None:
    """Each worker is a process of its own: forks of a process with threads would not be safe."""
    ends_at = time.monotonic() + 60 * options.time_limit_minutes
    reach = ReachMap.read(work / "reach")
    tests = [Test(name, 60) for name in options.tests or ()]
    workers = []
    for number in range(options.jobs):
        process = os.fork()
        if process == 0:
            worker = Worker(work, number)
            for fault in faults[number :: options.jobs]:
                if time.monotonic() > ends_at:
                    break
                outcome = worker.run(fault, reach, options.budget_seconds, tests)
                with (work / "results.jsonl").open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
                print(f"{outcome.outcome:<9} {outcome.seconds:6.1f} s  {fault.name}  {outcome.by[:100]}", flush=True)
            os._exit(0)
        workers.append(process)
    for process in workers:
        os.waitpid(process, 0)


def table(faults: list[Fault], known: dict[str, Outcome]) -> None:
    """Caught and not, by part; then those not caught."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for fault in faults:
        outcome = "equivalent" if fault.equivalent else known[fault.name].outcome if fault.name in known else "not run"
        for part in (fault.part, "all"):
            counts[part][outcome] += 1
    print(f"{'part':<12}{'faults':>7}{'caught':>8}{'survived':>10}{'unreached':>11}{'equivalent':>12}{'rate':>8}")
    for part in [*sorted(counts.keys() - {"all"}), "all"]:
        row = counts[part]
        judged = row["caught"] + row["survived"] + row["unreached"]
        rate = f"{row['caught'] / judged:.1%}" if judged else "-"
        print(
            f"{part:<12}{sum(row.values()):>7}{row['caught']:>8}{row['survived']:>10}{row['unreached']:>11}"
            f"{row['equivalent']:>12}{rate:>8}"
        )
    for fault in faults:
        if fault.name in known and known[fault.name].outcome not in ("caught",) and not fault.equivalent:
            edit = fault.edits[0]
            print(f"{known[fault.name].outcome}: {fault.name}\n    {edit.before}\n    -> {edit.after or '(left out)'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["reach", "run", "table"], nargs="?", default="run")
    parser.add_argument("--part", default="", help="one part: a folder of src/tinyllama, or core")
    parser.add_argument("--list", action="append", help="a list of fault_lists/, by name; default: every list")
    parser.add_argument("--name", default="", help="faults whose name holds this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--budget-seconds", type=float, default=120, help="tests of one fault, nearest first")
    parser.add_argument("--time-limit-minutes", type=float, default=600)
    parser.add_argument("--again", action="store_true", help="run those again that were not caught")
    parser.add_argument("--tests", nargs="+", help="run these tests instead of those that reach the fault")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutations", help="where the work is kept")
    options = parser.parse_args()
    options.work = options.work.resolve()  # workers change their folder
    options.work.mkdir(parents=True, exist_ok=True)
    faults = [f for f in read_faults(options.list) if options.part in ("", f.part) and options.name in f.name]
    if options.what != "table" and not options.tests:
        ReachMap.record(ROOT, options.work / "reach", options.jobs)
    if options.what == "run":
        known = results(options.work)
        done = {name for name, outcome in known.items() if outcome.outcome == "caught" or not options.again}
        todo = [fault for fault in faults if not fault.equivalent and fault.name not in done]
        print(f"{len(todo)} faults to plant, {len(faults) - len(todo)} known or equivalent", flush=True)
        preload()
        run(todo, options.work, options)
    if options.what != "reach":
        table(faults, results(options.work))


if __name__ == "__main__":
    main()
