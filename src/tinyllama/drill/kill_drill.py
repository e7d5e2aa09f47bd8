"""Trains one run undisturbed, and the same again under SIGKILLs, each time taken up from its files; compares the two."""

import json
import multiprocessing
import shlex
import signal
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinyllama import files, log
from tinyllama.drill.drill_report import Kill, fallen, headline, markdown, ranks_in_words, table
from tinyllama.drill.kill_plan import SAVER_ACTIVITIES, PlannedKill, RunSchedule, plan_kills
from tinyllama.drill.rank_processes import RankProcesses
from tinyllama.errors import LOST_RANK_EXIT_CODE, InputError, RunStoppedError
from tinyllama.log import ProgressLine
from tinyllama.parallel.rank_progress import VARIABLE, Activity, ActivityAt, ProgressFile

POLL_SECONDS = 0.0003
INTERRUPTED = 128 + signal.SIGINT  # exit code
TIMED = ("tokens_per_second", "data_wait_seconds")  # of metrics.jsonl: what two runs of the same cannot share


@dataclass(frozen=True)
class Drill:
    """What is asked for. `words`: RECIPE and overrides, as `pretrain` takes them; `data`: holds shards/ and tokenizer/."""

    words: list[str]
    data: Path
    folder: Path
    kills: int
    world_sizes: list[int]
    seed: int
    interval: RunSchedule
    timeout_seconds: float


def run_drill(drill: Drill) -> dict[str, Any]:
    """Make the drill in `drill.folder`, which is emptied first; returns what `--json` prints.

    Raises RunStoppedError after Ctrl-C or SIGTERM: its processes are ended, and the kills so far are reported. Raises
    InputError when a run ends by itself before its end: with what it said.
    """
    if drill.folder.exists():
        files.remove_folder(drill.folder)
    started = time.monotonic()
    with _sigterm_interrupts(), _no_process_left():
        return _Driller(drill).run(started)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C, so that it leaves no rank behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_process_left() -> Iterator[None]:
    """Ends what an interruption left: it may come while ranks are being started."""
    before = multiprocessing.active_children()
    try:
        yield
    finally:
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()
                process.join()


class _Driller:
    def __init__(self, drill: Drill) -> None:
        self.drill = drill
        # Seconds that a rank stayed in a place, the last few times; the shortest counts, so that few moments are missed.
        self.stays: dict[Activity, deque[float]] = defaultdict(lambda: deque([0.0], maxlen=5))
        # rank, whether its saving thread, what it was doing: at the last look
        self._seen = (0, False, ActivityAt(0, Activity.START))
        self._seen_since = 0.0
        self.kills: list[Kill] = []
        self.runs = 0  # killed ones
        self.undisturbed: dict[int, dict[str, Any]] = {}  # rows of metrics.jsonl by step

    def run(self, started: float) -> dict[str, Any]:
        drill, total = self.drill, self.drill.interval.total_steps
        log.info(f"drill: the undisturbed run, {total} steps on {ranks_in_words(drill.world_sizes[0])}")
        run_dir = self._run_folder("undisturbed")
        try:
            summary = self._undisturbed(run_dir)
        except KeyboardInterrupt:
            raise RunStoppedError("drill: interrupted in its undisturbed run", INTERRUPTED) from None
        self.undisturbed = rows_by_step(run_dir)
        try:
            with log.progress("drill: kills", drill.kills) as line:
                for planned in plan_kills(drill.kills, drill.interval, drill.world_sizes, drill.seed):
                    if len(self.kills) >= drill.kills:
                        break
                    self._next_run(planned[: drill.kills - len(self.kills)], summary, line)
        except KeyboardInterrupt:
            if self.kills:
                self._judge(self.kills[-1], drill.folder / f"killed_{self.kills[-1].run}")
            self._report(summary, time.monotonic() - started, is_whole=False)
            said = f"drill: interrupted after {len(self.kills)} of {drill.kills} kills, {drill.folder / 'drill.md'} has them"
            raise RunStoppedError(said, INTERRUPTED) from None
        return self._report(summary, time.monotonic() - started, is_whole=True)

    def _next_run(self, planned: list[PlannedKill], summary: dict[str, Any], line: ProgressLine) -> None:
        """A run with these kills, or those of them for which it is long enough."""
        self.runs += 1
        first = len(self.kills)
        fault = self._killed_run(self.runs, planned, summary, line)
        if fault:
            self.kills[first:] = [_with_fault(kill, fault) for kill in self.kills[first:]]
        log.info(f"drill: run {self.runs}, {len(self.kills) - first} kills: {fault or 'agrees'}")

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run_folder(self, name: str) -> Path:
        run_dir = self.drill.folder / name
        run_dir.mkdir(parents=True)
        for part in ("shards", "tokenizer"):
            (run_dir / part).symlink_to((self.drill.data / part).resolve(), target_is_directory=True)
        return run_dir

    def _start(self, run_dir: Path, ranks: int) -> tuple[RankProcesses, ProgressFile]:
        marks = ProgressFile(run_dir / "marks", ranks)
        words = ["pretrain", *self.drill.words, "--run-dir", str(run_dir), "--json", f"parallel.replicate={ranks}"]
        return RankProcesses(words, ranks, run_dir / "output", {VARIABLE: str(run_dir / "marks")}), marks

    def _undisturbed(self, run_dir: Path) -> dict[str, Any]:
        with log.progress("drill: undisturbed", self.drill.interval.total_steps) as line:
            return self._to_its_end(run_dir, self.drill.world_sizes[0], line.update)

    def _to_its_end(self, run_dir: Path, ranks: int, tell: Callable[[int], None]) -> dict[str, Any]:
        """Start a run, or take it up; returns what it printed. `tell` gets the steps that are done."""
        processes, marks = self._start(run_dir, ranks)
        try:
            while None in processes.exit_codes:
                self._look(marks, 0)
                tell(max(0, marks.of(0)[0].step - 1))
                time.sleep(POLL_SECONDS)
            return _summary(processes)
        finally:
            processes.end()

    def _killed_run(self, run: int, planned: list[PlannedKill], wanted: dict[str, Any], line: ProgressLine) -> str:
        """One run, killed as planned and taken up each time, to its end; returns in what it differs."""
        run_dir = self._run_folder(f"killed_{run}")
        before: Kill | None = None
        for kill in planned:
            processes, marks = self._start(run_dir, kill.ranks)
            try:
                done = self._kill(run, kill, processes, marks, run_dir)
                if done is None:  # the run came to its end first
                    return self._compare(run_dir, _summary(processes), wanted)
            finally:
                processes.end()
            self._judge(before, run_dir)
            self.kills.append(done)
            before = done
            line.update(len(self.kills))
        ranks = self.drill.world_sizes[run % len(self.drill.world_sizes)]
        total = self.drill.interval.total_steps
        summary = self._to_its_end(
            run_dir, ranks, lambda step: line.update(len(self.kills), f"run {run} to its end: {step} of {total} steps")
        )
        self._judge(before, run_dir)
        return self._compare(run_dir, summary, wanted)

    def _judge(self, before: Kill | None, run_dir: Path) -> None:
        """Hold the rows that were written since the kill before against the undisturbed run's."""
        if before is None or before.fault:
            return
        fault = first_difference(rows_by_step(run_dir), self.undisturbed)
        if fault:
            self.kills[-1] = _with_fault(before, fault)

    def _compare(self, run_dir: Path, summary: dict[str, Any], wanted: dict[str, Any]) -> str:
        rows = rows_by_step(run_dir)
        if rows.keys() != self.undisturbed.keys():
            return f"metrics.jsonl has {len(rows)} steps, the undisturbed run's {len(self.undisturbed)}"
        for key in ("weights_sha256", "validation", "loss", "skipped_steps"):
            if summary[key] != wanted[key]:
                return f"{key} is {summary[key]}, the undisturbed run's {wanted[key]}"
        return first_difference(rows, self.undisturbed)

    # -- one kill ------------------------------------------------------------------------------------------------------

    def _kill(
        self, run: int, kill: PlannedKill, processes: RankProcesses, marks: ProgressFile, run_dir: Path
    ) -> Kill | None:
        """Wait for the moment, kill, see the others end; None when the run came to its end before."""
        delay, was_there = kill.fraction * min(self.stays[kill.aim]), False
        while True:
            if None not in processes.exit_codes:
                if any(processes.exit_codes):
                    raise InputError(f"{run_dir}: a run ended by itself: {_last_words(processes)}")
                return None
            mark = self._look(marks, kill.rank, of_saver=kill.aim in SAVER_ACTIVITIES)
            is_there = mark.activity == kill.aim and mark.step >= kill.step
            if is_there and time.monotonic() - self._seen_since >= delay:
                break
            if was_there and not is_there:  # it went on earlier than usual: sooner, the next time
                delay /= 2
            was_there = is_there
            time.sleep(POLL_SECONDS)
        victims = list(range(kill.ranks)) if kill.everyone else [kill.rank]
        processes.send(signal.SIGKILL, victims)
        started = time.monotonic()
        codes = processes.wait(2 * self.drill.timeout_seconds + 30)
        seconds = time.monotonic() - started
        if all(codes[victim] == 0 for victim in victims):
            return None
        others = {rank: code for rank, code in enumerate(codes) if rank not in victims}
        wrong = {rank: code for rank, code in others.items() if code not in (LOST_RANK_EXIT_CODE, 0)}
        fault = "".join(
            f"rank {rank} " + ("hung" if code is None else f"exited with {code}") for rank, code in wrong.items()
        )
        return Kill(
            run,
            kill.ranks,
            victims,
            kill.aim,
            marks.of(kill.rank)[0],
            marks.of(0)[1],
            newest_step(run_dir),
            seconds,
            fault,
        )

    def _look(self, marks: ProgressFile, rank: int, *, of_saver: bool = False) -> ActivityAt:
        """Where a rank is now; notes how long it stays where."""
        mark, now = marks.of(rank)[of_saver], time.monotonic()
        seen = (rank, of_saver, mark)
        if seen != self._seen:
            if seen[:2] == self._seen[:2]:
                self.stays[self._seen[2].activity].append(now - self._seen_since)
            self._seen, self._seen_since = seen, now
        return mark

    # -- the report ----------------------------------------------------------------------------------------------------

    def _report(self, summary: dict[str, Any], seconds: float, *, is_whole: bool) -> dict[str, Any]:
        drill, kills = self.drill, self.kills
        sizes = ",".join(map(str, drill.world_sizes))
        result = {
            "is_whole": is_whole,
            "kills": len(kills),
            "agree": sum(not kill.fault for kill in kills),
            "runs": self.runs,
            "fell_in": fallen(kills),
            "steps": drill.interval.total_steps,
            "world_sizes": drill.world_sizes,
            "undisturbed_ranks": drill.world_sizes[0],
            "seed": drill.seed,
            "weights_sha256": summary["weights_sha256"],
            "seconds": round(seconds, 1),
            "command": f"tinyllama drill {shlex.join(drill.words)} --kills {drill.kills} "
            f"--world-sizes {sizes} --seed {drill.seed}",
            "each": [kill.to_dict() for kill in kills],
        }
        files.write_json(drill.folder / "drill.json", result)
        with files.atomic_file(drill.folder / "drill.md", "w") as file:
            file.write(markdown(result, kills))
        if log.is_speaker():
            log.console.print(table(kills, headline(result)))
        return result


def rows_by_step(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Rows of metrics.jsonl without their times."""
    rows = files.read_jsonl(run_dir / "metrics.jsonl")
    return {row["step"]: {key: value for key, value in row.items() if key not in TIMED} for row in rows}


def first_difference(rows: dict[int, dict[str, Any]], wanted: dict[int, dict[str, Any]]) -> str:
    """The first step, key and both values in which rows differ from those of the same step; empty when in none."""
    for step, row in sorted(rows.items()):
        other = wanted.get(step, {})
        for key in sorted(row.keys() | other.keys()):
            if row.get(key) != other.get(key):
                return f"step {step}: {key} is {row.get(key)}, the undisturbed run's {other.get(key)}"
    return ""


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint that has its name, 0 without one: where the next start goes on."""
    names = [path.name for path in (run_dir / "checkpoints").glob("step_*")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def _summary(processes: RankProcesses) -> dict[str, Any]:
    if any(processes.exit_codes):
        raise InputError(f"{processes.folder.parent}: a run ended by itself: {_last_words(processes)}")
    return json.loads(processes.output())


def _last_words(processes: RankProcesses) -> str:
    for rank, code in enumerate(processes.exit_codes):
        lines = processes.errors(rank).strip().splitlines()
        if code and lines:
            return f"rank {rank}, exit code {code}: {lines[-1]}"
    return f"exit codes {processes.exit_codes}"


def _with_fault(kill: Kill, fault: str) -> Kill:
    return kill if kill.fault else replace(kill, fault=fault)
