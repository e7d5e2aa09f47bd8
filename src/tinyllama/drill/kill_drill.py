"""Trains one run undisturbed and the same run with SIGKILLs and resumes, and compares the two."""

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
TIMED = ("tokens_per_second", "data_wait_seconds")  # keys of metrics.jsonl that differ between equal runs


@dataclass(frozen=True)
class Drill:
    """Settings of a drill. `words`: RECIPE and overrides for `pretrain`; `data`: a folder with shards/ and tokenizer/."""

    words: list[str]
    data: Path
    folder: Path
    kills: int
    world_sizes: list[int]
    seed: int
    schedule: RunSchedule
    timeout_seconds: float


def run_drill(drill: Drill) -> dict[str, Any]:
    """Run the drill in `drill.folder`, which is emptied first; returns the object that `--json` prints.

    Raises RunStoppedError after Ctrl-C or SIGTERM, when all processes are killed and the kills so far are reported, and
    InputError with a run's last line of stderr when the run fails by itself.
    """
    if drill.folder.exists():
        files.remove_folder(drill.folder)
    started = time.monotonic()
    with _sigterm_interrupts(), _no_process_left():
        return _Driller(drill).run(started)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that no rank is left running."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_process_left() -> Iterator[None]:
    """Kill the ranks that an interruption during their start left running."""
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
        # Seconds of each activity, the last few times; the shortest is used, so that few kills come too late.
        self.durations: dict[Activity, deque[float]] = defaultdict(lambda: deque([0.0], maxlen=5))
        # The last observation: rank, whether of its saving thread, and the activity.
        self._seen = (0, False, ActivityAt(0, Activity.START))
        self._seen_since = 0.0
        self.kills: list[Kill] = []
        self.runs = 0  # with kills
        self.undisturbed: dict[int, dict[str, Any]] = {}  # rows of metrics.jsonl by step

    def run(self, started: float) -> dict[str, Any]:
        drill, total = self.drill, self.drill.schedule.total_steps
        log.info(f"drill: the undisturbed run, {total} steps on {ranks_in_words(drill.world_sizes[0])}")
        run_dir = self._run_folder("undisturbed")
        try:
            summary = self._undisturbed(run_dir)
        except KeyboardInterrupt:
            raise RunStoppedError("drill: interrupted during the undisturbed run", INTERRUPTED) from None
        self.undisturbed = rows_by_step(run_dir)
        try:
            with log.progress("drill: kills", drill.kills) as line:
                for planned in plan_kills(drill.kills, drill.schedule, drill.world_sizes, drill.seed):
                    if len(self.kills) >= drill.kills:
                        break
                    self._next_run(planned[: drill.kills - len(self.kills)], summary, line)
        except KeyboardInterrupt:
            if self.kills:
                self._check(self.kills[-1], drill.folder / f"killed_{self.kills[-1].run}")
            self._report(summary, time.monotonic() - started, is_whole=False)
            so_far = f"{len(self.kills)} of {drill.kills} kills"
            said = f"drill: interrupted after {so_far}, reported in {drill.folder / 'drill.md'}"
            raise RunStoppedError(said, INTERRUPTED) from None
        return self._report(summary, time.monotonic() - started, is_whole=True)

    def _next_run(self, planned: list[PlannedKill], summary: dict[str, Any], line: ProgressLine) -> None:
        """Do a run with these kills, or with those that come before its end."""
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
        progress = ProgressFile(run_dir / "marks", ranks)
        words = ["pretrain", *self.drill.words, "--run-dir", str(run_dir), "--json", f"parallel.replicate={ranks}"]
        return RankProcesses(words, ranks, run_dir / "output", {VARIABLE: str(run_dir / "marks")}), progress

    def _undisturbed(self, run_dir: Path) -> dict[str, Any]:
        with log.progress("drill: undisturbed", self.drill.schedule.total_steps) as line:
            return self._to_its_end(run_dir, self.drill.world_sizes[0], line.update)

    def _to_its_end(self, run_dir: Path, ranks: int, tell: Callable[[int], None]) -> dict[str, Any]:
        """Start or resume a run and wait for its end; returns its summary. `tell` is called with the finished steps."""
        processes, progress = self._start(run_dir, ranks)
        try:
            while None in processes.exit_codes:
                self._look(progress, 0)
                tell(max(0, progress.of(0)[0].step - 1))
                time.sleep(POLL_SECONDS)
            return _summary(processes)
        finally:
            processes.end()

    def _killed_run(self, run: int, planned: list[PlannedKill], wanted: dict[str, Any], line: ProgressLine) -> str:
        """Do one run, killed as planned and resumed each time; returns how it differs from the undisturbed run, or ""."""
        run_dir = self._run_folder(f"killed_{run}")
        before: Kill | None = None
        for kill in planned:
            processes, progress = self._start(run_dir, kill.ranks)
            try:
                done = self._kill(run, kill, processes, progress, run_dir)
                if done is None:  # the run finished first
                    return self._compare(run_dir, _summary(processes), wanted)
            finally:
                processes.end()
            self._check(before, run_dir)
            self.kills.append(done)
            before = done
            line.update(len(self.kills))
        ranks = self.drill.world_sizes[run % len(self.drill.world_sizes)]
        total = self.drill.schedule.total_steps
        summary = self._to_its_end(
            run_dir, ranks, lambda step: line.update(len(self.kills), f"finishing run {run}: {step} of {total} steps")
        )
        self._check(before, run_dir)
        return self._compare(run_dir, summary, wanted)

    def _check(self, before: Kill | None, run_dir: Path) -> None:
        """Compare the rows of metrics.jsonl since the last kill with those of the undisturbed run."""
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
        self, run: int, kill: PlannedKill, processes: RankProcesses, progress: ProgressFile, run_dir: Path
    ) -> Kill | None:
        """Wait for the planned activity, kill, wait for the other ranks' exit; None when the run finished first."""
        delay, was_active = kill.fraction * min(self.durations[kill.aim]), False
        while True:
            if None not in processes.exit_codes:
                if any(processes.exit_codes):
                    raise InputError(f"{run_dir}: a run failed by itself: {_last_words(processes)}")
                return None
            current = self._look(progress, kill.rank, of_saver=kill.aim in SAVER_ACTIVITIES)
            is_active = current.activity == kill.aim and current.step >= kill.step
            if is_active and time.monotonic() - self._seen_since >= delay:
                break
            if was_active and not is_active:  # the activity was shorter than usual: wait less the next time
                delay /= 2
            was_active = is_active
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
            progress.of(kill.rank)[0],
            progress.of(0)[1],
            newest_step(run_dir),
            seconds,
            fault,
        )

    def _look(self, progress: ProgressFile, rank: int, *, of_saver: bool = False) -> ActivityAt:
        """What a rank is doing now; also records the durations of its activities."""
        activity, now = progress.of(rank)[of_saver], time.monotonic()
        seen = (rank, of_saver, activity)
        if seen != self._seen:
            if seen[:2] == self._seen[:2]:
                self.durations[self._seen[2].activity].append(now - self._seen_since)
            self._seen, self._seen_since = seen, now
        return activity

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
            "steps": drill.schedule.total_steps,
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
    """Rows of metrics.jsonl by step, without TIMED."""
    rows = files.read_jsonl(run_dir / "metrics.jsonl")
    return {row["step"]: {key: value for key, value in row.items() if key not in TIMED} for row in rows}


def first_difference(rows: dict[int, dict[str, Any]], wanted: dict[int, dict[str, Any]]) -> str:
    """The first step, key and values in which rows differ from the wanted ones of the same step; empty if none."""
    for step, row in sorted(rows.items()):
        other = wanted.get(step, {})
        for key in sorted(row.keys() | other.keys()):
            if row.get(key) != other.get(key):
                return f"step {step}: {key} is {row.get(key)}, the undisturbed run's {other.get(key)}"
    return ""


def newest_step(run_dir: Path) -> int:
    """The step of the newest complete checkpoint, from which the next start resumes; 0 without one."""
    names = [path.name for path in (run_dir / "checkpoints").glob("step_*")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def _summary(processes: RankProcesses) -> dict[str, Any]:
    if any(processes.exit_codes):
        raise InputError(f"{processes.folder.parent}: a run failed by itself: {_last_words(processes)}")
    return json.loads(processes.output())


def _last_words(processes: RankProcesses) -> str:
    for rank, code in enumerate(processes.exit_codes):
        lines = processes.errors(rank).strip().splitlines()
        if code and lines:
            return f"rank {rank}, exit code {code}: {lines[-1]}"
    return f"exit codes {processes.exit_codes}"


def _with_fault(kill: Kill, fault: str) -> Kill:
    return kill if kill.fault else replace(kill, fault=fault)
