"""The drill's own decisions, with processes and marks that are acted: when it kills, what it compares, whom it blames."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tinyllama import files
from tinyllama.drill import kill_drill
from tinyllama.drill.drill_report import Kill
from tinyllama.drill.kill_drill import Drill, _Driller, newest_step
from tinyllama.drill.kill_plan import PlannedKill, RunSchedule
from tinyllama.drill.rank_processes import RankProcesses
from tinyllama.errors import InputError, RunStoppedError
from tinyllama.log import ProgressLine
from tinyllama.parallel.rank_progress import Activity, ActivityAt, ProgressFile

LINE = cast("ProgressLine", type("Line", (), {"update": lambda *_: None})())
PLANNED = PlannedKill(Activity.FORWARD, step=4, fraction=0.5, ranks=3, rank=1, everyone=False)
ROWS = {step: {"step": step, "loss": 1.0 / step, "lr": 0.1} for step in (1, 2, 3)}
SUMMARY = {"weights_sha256": "ab", "validation": {"loss": 2.0}, "loss": 1.5, "skipped_steps": 1}


class Acted:
    """Processes of three ranks that live until they are killed; then `codes` are theirs."""

    def __init__(
        self, folder: Path, codes: list[int | None], alive: bool = True, said: dict[str, str] | None = None
    ) -> None:
        self.folder, self.codes, self.said = folder, codes, said or {}
        self.exit_codes: list[int | None] = [None] * len(codes) if alive else codes
        self.asked: list[Any] = []

    def send(self, number: int, ranks: list[int]) -> None:
        self.asked.append((number, ranks))

    def wait(self, seconds: float) -> list[int | None]:
        self.asked.append(seconds)
        return self.codes

    def output(self) -> str:
        return self.said.get("out", json.dumps(SUMMARY))

    def errors(self, rank: int) -> str:
        return self.said.get(str(rank), "")

    def end(self) -> None:
        self.asked.append("end")

    def as_real(self) -> RankProcesses:
        return cast("RankProcesses", self)


class Clock:
    """Every look takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += 1.0


class Seen:
    """Places of the ranks, look after look; of rank 0's saving thread the second one."""

    def __init__(self, looks: list[tuple[ActivityAt, ActivityAt]], clock: Clock) -> None:
        self.looks, self.clock, self.asked = looks, clock, []

    def of(self, rank: int) -> tuple[ActivityAt, ActivityAt]:
        self.asked.append(rank)
        return self.looks[min(int(self.clock.now), len(self.looks) - 1)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(kill_drill, "time", made)
    return made


def driller(tmp_path: Path) -> _Driller:
    return _Driller(Drill(["r.toml", "a b=1"], tmp_path / "data", tmp_path, 5, [1, 3], 9, RunSchedule(12, 3, 6), 20.0))


def at(place: Activity, step: int, saver: Activity = Activity.START) -> tuple[ActivityAt, ActivityAt]:
    return ActivityAt(step, place), ActivityAt(step - 1, saver)


def killed(
    tmp_path: Path, clock: Clock, looks: Any, codes: Any, planned: PlannedKill = PLANNED, stays: Any = (2.0,)
) -> Any:
    it, processes, seen = driller(tmp_path), Acted(tmp_path / "out", codes), Seen(looks, clock)
    it.durations[planned.aim].extend(stays)
    it.durations[planned.aim].popleft()
    return it._kill(7, planned, processes.as_real(), cast("ProgressFile", seen), tmp_path), processes, seen


# -- one kill ----------------------------------------------------------------------------------------------------------

LOOKS = [at(Activity.FORWARD, 3), at(Activity.DATA, 4), *[at(Activity.FORWARD, 4)] * 9]


def test_it_kills_at_the_place_and_step_after_a_part_of_the_usual_stay(tmp_path: Path, clock: Clock):
    (tmp_path / "checkpoints" / "step_00000003").mkdir(parents=True)
    done, processes, seen = killed(tmp_path, clock, LOOKS, [69, -9, 0])
    assert processes.asked == [(signal.SIGKILL, [1]), 2 * 20.0 + 30]
    assert clock.now == 3, "one second of the usual two after it came there"
    assert done == Kill(
        7, 3, [1], Activity.FORWARD, ActivityAt(4, Activity.FORWARD), ActivityAt(3, Activity.START), 3, 0.0
    )
    assert set(seen.asked[:-2]) == {1}
    assert seen.asked[-2:] == [1, 0]


def test_without_a_known_stay_it_kills_at_once_and_the_shortest_one_counts(tmp_path: Path, clock: Clock):
    killed(tmp_path, clock, LOOKS, [69, -9, 0], stays=(9.0, 0.0, 4.0))
    assert clock.now == 2
    clock.now = 0
    killed(tmp_path, clock, LOOKS, [69, -9, 0], stays=(9.0, 8.0))
    assert clock.now == 2 + 4


def test_a_later_step_counts_too_and_where_it_went_on_earlier_the_delay_is_halved(tmp_path: Path, clock: Clock):
    looks = [at(Activity.FORWARD, 4), at(Activity.DATA, 5), *[at(Activity.FORWARD, 6)] * 9]
    done, *_ = killed(tmp_path, clock, looks, [0, -9, 0], stays=(8.0,))
    assert clock.now == 2 + 2, "four seconds, halved"
    assert (done.loop.step, done.back_to_step) == (6, 0)


def test_the_saving_thread_is_looked_at_where_it_is_aimed_at(tmp_path: Path, clock: Clock):
    planned = replace(PLANNED, aim=Activity.COMMIT, rank=0, step=3, fraction=0.0, everyone=True)
    looks = [at(Activity.COMMIT, 9), at(Activity.DATA, 3, Activity.COMMIT), at(Activity.DATA, 4, Activity.COMMIT)]
    done, processes, _ = killed(tmp_path, clock, looks, [-9, -9, -9], planned)
    assert clock.now == 2, "the thread's own step counts"
    assert processes.asked[0] == (signal.SIGKILL, [0, 1, 2])
    assert (done.victims, done.loop, done.saver) == (
        [0, 1, 2],
        ActivityAt(4, Activity.DATA),
        ActivityAt(3, Activity.COMMIT),
    )


@pytest.mark.parametrize(
    ("codes", "fault"),
    [
        ([69, -9, 69], ""), ([0, -9, 69], ""), ([1, -9, 69], "rank 0 exited with 1"), ([69, -9, None], "rank 2 hung"),
        ([-11, -9, 0], "rank 0 exited with -11"), ([None, -9, 2], "rank 0 hungrank 2 exited with 2"), ([69, 75, 69], ""),
    ],
)  # fmt: skip
def test_the_other_ranks_leave_as_from_a_lost_one(tmp_path: Path, clock: Clock, codes: list[int | None], fault: str):
    done, *_ = killed(tmp_path, clock, LOOKS, codes)
    assert done.fault == fault


def test_a_victim_that_had_ended_was_not_killed(tmp_path: Path, clock: Clock):
    assert killed(tmp_path, clock, LOOKS, [0, 0, 0])[0] is None
    everyone = replace(PLANNED, everyone=True)
    assert killed(tmp_path, clock, LOOKS, [0, 0, 0], everyone)[0] is None
    assert killed(tmp_path, clock, LOOKS, [0, -9, 0], everyone)[0] is not None


def test_a_run_that_ends_by_itself(tmp_path: Path, clock: Clock):
    it, seen = driller(tmp_path), cast("ProgressFile", Seen(LOOKS, clock))
    ended = Acted(tmp_path / "run" / "out", [0, 0, 0], alive=False)
    assert it._kill(1, PLANNED, ended.as_real(), seen, tmp_path / "run") is None
    assert ended.asked == []
    said = {"0": "warning\n", "1": "first\nTraceback\nlast words\n", "2": "others\n"}
    for codes, words in (
        ([0, 2, 3], "rank 1, exit code 2: last words"),
        ([2, 2, 0], "rank 0, exit code 2: warning"),
    ):
        failed = Acted(tmp_path / "run" / "out", [*codes], alive=False, said=said)
        for call in (
            lambda failed=failed: it._kill(1, PLANNED, failed.as_real(), seen, tmp_path / "run"),
            lambda failed=failed: kill_drill._summary(failed.as_real()),
        ):
            with pytest.raises(InputError) as error:
                call()
            assert str(error.value) == f"{tmp_path / 'run'}: a run failed by itself: {words}"
    silent = Acted(tmp_path, [0, 2, 3], alive=False)
    assert kill_drill._last_words(silent.as_real()) == "exit codes [0, 2, 3]"
    assert kill_drill._summary(ended.as_real()) == SUMMARY


def test_how_long_a_rank_stays_is_noted_when_the_same_one_moves_on(tmp_path: Path, clock: Clock):
    it, looks = (
        driller(tmp_path),
        [at(Activity.DATA, 1), at(Activity.DATA, 1), at(Activity.FORWARD, 1), at(Activity.BACKWARD, 1)],
    )
    marks = cast("ProgressFile", Seen(looks, clock))
    for _ in range(4):
        it._look(marks, 2)
        clock.sleep(0)
    assert (list(it.durations[Activity.DATA]), list(it.durations[Activity.FORWARD])) == ([0.0, 2.0], [0.0, 1.0])
    it._look(marks, 1)  # another rank: how long the first one stays is not known
    it._look(marks, 1, of_saver=True)
    assert list(it.durations[Activity.BACKWARD]) == [0.0]
    for _ in range(9):
        it.durations[Activity.DATA].append(3.0)
    assert list(it.durations[Activity.DATA]) == [3.0] * 5


# -- what is compared --------------------------------------------------------------------------------------------------


def write_rows(run_dir: Path, rows: dict[int, dict[str, Any]]) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    timed = [row | {"tokens_per_second": 5.0 * step, "data_wait_seconds": 0.1} for step, row in rows.items()]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timed))
    return run_dir


@pytest.mark.parametrize(
    ("summary", "rows", "words"),
    [
        ({}, {}, ""),
        ({}, {3: None}, "metrics.jsonl has 2 steps, the undisturbed run's 3"),
        ({}, {4: {"step": 4}}, "metrics.jsonl has 4 steps, the undisturbed run's 3"),
        ({"weights_sha256": "cd"}, {}, "weights_sha256 is cd, the undisturbed run's ab"),
        ({"validation": None}, {}, "validation is None, the undisturbed run's {'loss': 2.0}"),
        ({"loss": 1.6}, {}, "loss is 1.6, the undisturbed run's 1.5"),
        ({"skipped_steps": 0}, {}, "skipped_steps is 0, the undisturbed run's 1"),
        ({}, {2: {"step": 2, "loss": 0.5, "lr": 0.2}}, "step 2: lr is 0.2, the undisturbed run's 0.1"),
        ({}, {3: {"step": 3, "loss": 0.0, "lr": 0.1}}, f"step 3: loss is 0.0, the undisturbed run's {1 / 3}"),
    ],
)
def test_a_killed_run_must_have_the_undisturbed_one_s_end(
    tmp_path: Path, summary: dict[str, Any], rows: dict[int, Any], words: str
):
    it = driller(tmp_path)
    it.undisturbed = ROWS
    found = {step: row for step, row in (ROWS | rows).items() if row is not None}
    assert it._compare(write_rows(tmp_path / "run", found), SUMMARY | summary, SUMMARY) == words


def kill_of(run: int, fault: str = "") -> Kill:
    return Kill(
        run, 1, [0], Activity.FORWARD, ActivityAt(4, Activity.FORWARD), ActivityAt(3, Activity.START), 3, 0.5, fault
    )


def test_rows_since_a_kill_are_that_kill_s(tmp_path: Path):
    it = driller(tmp_path)
    it.undisturbed = ROWS
    run_dir = write_rows(tmp_path / "run", {1: ROWS[1], 2: ROWS[2] | {"loss": 9.0}})
    it._check(None, run_dir)
    it.kills = [kill_of(1), kill_of(1, "rank 2 hung")]
    it._check(it.kills[-1], run_dir)
    assert [kill.fault for kill in it.kills] == ["", "rank 2 hung"]
    it.kills = [kill_of(1), kill_of(1)]
    it._check(it.kills[-1], run_dir)
    assert [kill.fault for kill in it.kills] == ["", "step 2: loss is 9.0, the undisturbed run's 0.5"]
    it.kills = [kill_of(1)]
    it._check(it.kills[-1], write_rows(tmp_path / "good", {1: ROWS[1]}))  # it has not come further yet
    assert it.kills == [kill_of(1)]


@pytest.mark.parametrize("fault", ["", "weights differ"])
def test_a_run_s_fault_is_that_of_its_own_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str):
    it = driller(tmp_path)
    it.kills = [kill_of(1), kill_of(1)]
    it.runs = 1
    asked: list[Any] = []

    def act(run: int, planned: list[PlannedKill], wanted: dict[str, Any], line: ProgressLine) -> str:
        asked.append((run, planned, wanted))
        it.kills += [kill_of(2), kill_of(2, "rank 2 hung")]
        return fault

    monkeypatch.setattr(it, "_killed_run", act)
    it._next_run([PLANNED], SUMMARY, LINE)
    assert asked == [(2, [PLANNED], SUMMARY)]
    assert [kill.fault for kill in it.kills] == ["", "", fault, "rank 2 hung"]


def test_a_killed_run_is_judged_after_every_kill_and_goes_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    it, told = driller(tmp_path), []
    dones = iter([kill_of(2), kill_of(2), None])
    processes = Acted(tmp_path, [0])
    monkeypatch.setattr(
        it, "_start", lambda run_dir, ranks: told.append(("start", run_dir.name, ranks)) or (processes, None)
    )
    monkeypatch.setattr(it, "_kill", lambda run, kill, *_: next(dones))
    monkeypatch.setattr(it, "_check", lambda before, _: told.append(("judge", before)))
    monkeypatch.setattr(it, "_to_its_end", lambda run_dir, ranks, _: told.append(("end", ranks)) or SUMMARY)
    monkeypatch.setattr(it, "_compare", lambda run_dir, found, wanted: f"{run_dir.name} {found is SUMMARY}")
    assert it._killed_run(2, [PLANNED, replace(PLANNED, ranks=1)], SUMMARY, LINE) == "killed_2 True"
    assert told == [
        ("start", "killed_2", 3), ("judge", None), ("start", "killed_2", 1), ("judge", kill_of(2)), ("end", 1),
        ("judge", kill_of(2)),
    ]  # fmt: skip
    assert it.kills == [kill_of(2)] * 2
    assert processes.asked == ["end"] * 2
    told.clear()
    assert it._killed_run(3, [PLANNED], SUMMARY, LINE) == "killed_3 False", "it came to its end first: its own summary"
    assert told == [("start", "killed_3", 3)]
    assert len(it.kills) == 2


def test_a_run_is_started_on_links_to_the_data_with_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for part in ("shards", "tokenizer"):
        (tmp_path / "data" / part).mkdir(parents=True)
    started: list[Any] = []
    monkeypatch.setattr(kill_drill, "RankProcesses", lambda *given: started.append(given))
    it = driller(tmp_path)
    it.drill = replace(it.drill, folder=tmp_path / "new" / "drill")
    run_dir = it._run_folder("killed_1")
    it._start(run_dir, 3)
    for part in ("shards", "tokenizer"):
        assert (run_dir / part).is_symlink()
        assert (run_dir / part).resolve() == (tmp_path / "data" / part).resolve()
    words = ["pretrain", "r.toml", "a b=1", "--run-dir", str(run_dir), "--json", "parallel.replicate=3"]
    assert started == [(words, 3, run_dir / "output", {"TINYLLAMA_MARKS": str(run_dir / "marks")})]


def test_the_newest_checkpoint_is_where_the_next_start_goes_on(tmp_path: Path):
    assert newest_step(tmp_path) == 0
    for name in ("step_00000003", "step_00000012", "step_00000006", ".step_00000099", "damaged_step_00000015"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(tmp_path) == 12


@pytest.mark.parametrize("cut_at", [None, 0, 2])
def test_a_drill_makes_as_many_kills_as_asked_for_or_reports_those_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, cut_at: int | None
):
    it, given, judged = driller(tmp_path), [], []
    write_rows(tmp_path / "undisturbed", ROWS)
    monkeypatch.setattr(it, "_run_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(it, "_undisturbed", lambda run_dir: clock.sleep(0) or SUMMARY)
    monkeypatch.setattr(it, "_check", lambda kill, run_dir: judged.append((kill, run_dir)))

    def make(planned: list[PlannedKill], summary: dict[str, Any], line: ProgressLine) -> None:
        given.append(len(planned))
        if cut_at is not None and len(it.kills) >= cut_at:
            raise KeyboardInterrupt
        it.runs += 1
        made = [replace(kill_of(it.runs), back_to_step=step) for step in (3, 6)]  # the run is too short for more
        it.kills += made[: len(planned)]

    monkeypatch.setattr(it, "_next_run", make)
    if cut_at is None:
        result = it.run(started=-4.0)
        assert (result["is_whole"], result["kills"], result["seconds"]) == (True, 5, 5.0)
        assert given == [4, 3, 1], "of twelve steps four kills, and never more than are left"
        assert judged == []
        assert it.undisturbed == ROWS
    else:
        with pytest.raises(
            RunStoppedError, match=f"interrupted after {cut_at} of 5 kills, reported in .*drill.md"
        ) as error:
            it.run(started=-4.0)
        assert error.value.exit_code == 130
        result = files.read_json(tmp_path / "drill.json")
        assert (result["is_whole"], result["kills"], result["seconds"]) == (False, cut_at, 5.0)
        assert judged == ([(it.kills[-1], tmp_path / "killed_1")] if cut_at else [])


def test_what_is_done_is_told_while_a_run_goes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
):
    it, told, processes = driller(tmp_path), [], Acted(tmp_path, [0, 0, 0])
    marks = Seen([at(Activity.START, 0), at(Activity.DATA, 1), at(Activity.DATA, 3)], clock)

    def sleep(_: float) -> None:
        clock.now += 1
        if clock.now == 3:
            processes.exit_codes = [0, 0, 0]

    monkeypatch.setattr(clock, "sleep", sleep)
    monkeypatch.setattr(it, "_start", lambda run_dir, ranks: (processes, marks))
    assert it._to_its_end(tmp_path, 3, told.append) == SUMMARY
    assert told == [0, 0, 2]
    assert processes.asked == ["end"]
    processes.exit_codes = [0, 1, 0]
    with pytest.raises(InputError, match="failed by itself"):
        it._to_its_end(tmp_path, 3, told.append)
    assert processes.asked == ["end"] * 2, "nothing of it is left"


def test_the_table_is_printed_by_the_one_that_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any):
    for speaks in (True, False):
        monkeypatch.setattr(kill_drill.log, "is_speaker", lambda speaks=speaks: speaks)
        it = driller(tmp_path)
        it.kills = [kill_of(1)]
        it._report(SUMMARY, 1.0, is_whole=True)
        out, errors = capfd.readouterr()
        assert ("1 of 1 kills agree" in errors) == speaks
        assert out == ""


def test_the_report_counts_what_agrees(tmp_path: Path):
    it = driller(tmp_path)
    it.kills, it.runs = [kill_of(1), kill_of(1, "rank 2 hung"), kill_of(2)], 2
    result = it._report(SUMMARY, 12.3456, is_whole=True)
    assert {key: value for key, value in result.items() if key != "each"} == {
        "is_whole": True, "kills": 3, "agree": 2, "runs": 2, "fell_in": {"forward": 3}, "steps": 12,
        "world_sizes": [1, 3], "undisturbed_ranks": 1, "seed": 9, "weights_sha256": "ab", "seconds": 12.3,
        "command": "tinyllama drill r.toml 'a b=1' --kills 5 --world-sizes 1,3 --seed 9",
    }  # fmt: skip
    assert result["each"] == [kill.to_dict() for kill in it.kills]
    assert files.read_json(tmp_path / "drill.json") == result
    assert "2 of 3 kills agree; 1 do not" in (tmp_path / "drill.md").read_text()
