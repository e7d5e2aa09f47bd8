"""Training runs on several ranks, as processes that start in a moment."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import overrides
from tests.train.run_processes import events
from tinyllama.drill.rank_processes import RankProcesses


class RankRun:
    """One run folder, trained on one number of ranks after another. Keywords are changes of the tiny run's recipe."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.processes: RankProcesses

    def start(self, ranks: int, **changes: Any) -> None:
        words = overrides(**{"parallel__replicate": ranks} | changes)
        command = ["pretrain", "small-120m", "--run-dir", str(self.run_dir), "--json", *words]
        self.processes = RankProcesses(command, ranks, self.run_dir.with_name(f"{self.run_dir.name}-output"))

    def to_its_end(self, ranks: int, **changes: Any) -> dict[str, Any]:
        """The summary of a run that is not disturbed."""
        self.start(ranks, **changes)
        codes = self.processes.wait()
        assert codes == [0] * ranks, [self.processes.errors(rank) for rank in range(ranks)]
        return json.loads(self.processes.output())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the run must bring about before it ends."""
        while not condition():
            assert None in self.processes.exit_codes, self.processes.errors()
            time.sleep(0.002)

    def end(self) -> None:
        """Nothing of it goes on."""
        if hasattr(self, "processes"):
            self.processes.end()


def started(run_dir: Path) -> list[int]:
    """On how many ranks a run was started and taken up, in order."""
    return [row["ranks"] for kind in ("start", "resume") for row in events(run_dir, kind)]
