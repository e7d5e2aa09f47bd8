"""Which tests call a function, from the records of `reach.py`; recorded anew for the test files that changed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.instruments.reach import SITECUSTOMIZE


@dataclass(frozen=True)
class Test:
    __test__ = False
    name: str  # pytest's node id
    seconds: float


@dataclass(frozen=True)
class ReachMap:
    tests: dict[str, Test]
    by_symbol: dict[str, set[str]]  # `symbol` or `Class.method`, and `module:` for a module's own statements

    @classmethod
    def read(cls, folder: Path) -> "ReachMap":
        tests: dict[str, Test] = {}
        by_symbol: dict[str, set[str]] = defaultdict(set)
        for path in sorted(folder.glob("*.json")):
            record = json.loads(path.read_text())
            for name, (seconds, symbols) in record["tests"].items():
                tests[name] = Test(name, seconds)
                for symbol in symbols:
                    by_symbol[symbol].add(name)
                    by_symbol[symbol.split(":")[0] + ":"].add(name)
        return cls(tests, by_symbol)

    def tests_of(self, path: Path, symbol: str, budget_seconds: float) -> list[Test]:
        """The tests that call the symbol (a class: any of its methods), those of its own folder first, then the fastest.

        Where none calls it, as of a module's or a class's own statements, all that call something of the module.
        """
        module = ".".join(path.with_suffix("").parts)
        found = {
            name
            for key, names in self.by_symbol.items()
            if symbol and (key == f"{module}:{symbol}" or key.startswith(f"{module}:{symbol}."))
            for name in names
        }
        found = found or self.by_symbol.get(f"{module}:", set())
        near = f"tests/{path.parts[0]}/" if len(path.parts) > 1 else "tests/whole/"
        ordered = sorted(
            (self.tests[name] for name in found), key=lambda test: (not test.name.startswith(near), test.seconds)
        )
        chosen, total = [], 0.0
        for test in ordered:
            if chosen and total + test.seconds > budget_seconds:
                continue
            chosen.append(test)
            total += test.seconds
        return chosen

    @staticmethod
    def record(root: Path, folder: Path, jobs: int) -> None:
        """Run each test file of the default tier that changed since its record, and keep what its tests call."""
        folder.mkdir(parents=True, exist_ok=True)
        stale = {}
        for path in sorted((root / "tests").rglob("test_*.py")):
            name = str(path.relative_to(root))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            kept = folder / (name.replace("/", "__") + ".json")
            if not kept.exists() or json.loads(kept.read_text())["sha256"] != digest:
                stale[name] = (kept, digest)
        stale = {name: value for name, value in stale.items() if not name.startswith("tests/structure")}
        if not stale:
            return
        print(f"recording what the tests of {len(stale)} files call", flush=True)
        raw = folder / "raw"
        shutil.rmtree(raw, ignore_errors=True)
        raw.mkdir()
        (raw / "sitecustomize.py").write_text(SITECUSTOMIZE)
        paths = os.pathsep.join([str(raw), str(root), str(root / "src")])
        environment = os.environ | {"REACH_DIR": str(raw), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        words = ["-p", "tests.instruments.reach", "-q", f"-n{jobs}", "-p", "no:cacheprovider"]
        subprocess.run([sys.executable, "-m", "pytest", *words, *stale], cwd=root, env=environment, check=False)
        keep(raw, stale)
        shutil.rmtree(raw)


def keep(raw: Path, stale: dict[str, tuple[Path, str]]) -> None:
    """Raw records to one JSON file for each test file; only tests that passed count."""
    symbols: dict[str, set[str]] = defaultdict(set)
    for path in raw.glob("calls-*.tsv"):
        for line in path.read_text().splitlines():
            test, _, symbol = line.partition("\t")
            symbols[test].add(symbol)
    seconds: dict[str, float] = {}
    failed = set()
    for path in raw.glob("outcomes-*.tsv"):
        for line in path.read_text().splitlines():
            test, outcome, duration = line.split("\t")
            seconds[test] = float(duration)
            if outcome != "passed":
                failed.add(test)
    for name, (path, digest) in stale.items():
        own = {
            test: (seconds[test], sorted(symbols[test]))
            for test in seconds
            if test.split("::")[0] == name and test not in failed
        }
        path.write_text(json.dumps({"sha256": digest, "tests": own}))
