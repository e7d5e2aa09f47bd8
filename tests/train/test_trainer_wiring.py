"""What one small run tells, marks, times and asks on its way, value by value."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.run_processes import events
from tinyllama import api, files
from tinyllama.errors import RunStoppedError
from tinyllama.parallel.rank_progress import Activity, RankProgress
from tinyllama.parallel.ranks import Ranks
from tinyllama.recipe import load_recipe
from tinyllama.train import metrics, step_clock, trainer
from tinyllama.train.stop_requests import StopRequest, StopRequests
from tinyllama.train.trainer import Trainer

VALUES: dict[str, Any] = {
    "tokenizer.vocab_size": 512, "model.preset": "tiny-2m", "model.dim": 16, "model.n_layers": 1, "model.ffn_dim": 24,
    "train.steps": 3, "train.seq_len": 16, "train.micro_batch_size": 2, "train.tokens_per_step": 96,
    "train.precision": "fp32", "train.device": "cpu", "train.save_every_steps": 2, "train.keep_checkpoints": 9,
    "train.validation_tokens": 40, "train.validate_every_steps": 2, "parallel.threads": 1,
}  # fmt: skip


def words(**changes: Any) -> list[str]:
    values = VALUES | {f"train.{key}": value for key, value in changes.items()}
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def trainer_of(run_dir: Path, **changes: Any) -> Trainer:
    recipe = load_recipe("small-120m", words(**changes))
    return Trainer(recipe.llama_config(), recipe.train, run_dir, threads=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "peak_flops", lambda *_: 1e12)


class Ticks:
    """Each look at this clock is a second later."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def perf_counter(self) -> float:
        return float(next(self._seconds))


def test_rows_have_the_step_s_own_time_and_all_its_waits(
    small_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trainer, "time", Ticks())
    monkeypatch.setattr(step_clock, "time", Ticks())
    run_dir = small_run("run")
    summary = api.pretrain("small-120m", run_dir, words()).to_dict()
    rows = files.read_jsonl(run_dir / "metrics.jsonl")
    keys = ["step", "tokens", "loss", "accuracy", "grad_norm", "lr", "tokens_per_second", "data_wait_seconds"]
    assert [list(row) for row in rows] == [keys, [*keys, "validation"], [*keys, "validation"]]
    assert [row["data_wait_seconds"] for row in rows] == [3.0] * 3, "a second for each of three micro-batches"
    assert [row["tokens_per_second"] for row in rows] == [96.0] * 3
    assert summary["tokens_per_second"] == 96.0
    assert summary["validation"] == {key: value for key, value in rows[-1]["validation"].items() if key != "by_kind"}
    state = files.read_json(run_dir / "checkpoints" / "step_00000002" / "state.json")
    assert state["validation"] == {key: value for key, value in rows[1]["validation"].items() if key != "by_kind"}
    (start,) = events(run_dir, "start")
    assert {key: start[key] for key in start if key != "time"} == {
        "event": "start", "step": 0, "reason": "no checkpoint", "ranks": 1, "threads": 1, "layout": "one process",
    }  # fmt: skip


def test_the_loop_marks_where_it_is(small_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    marks: list[tuple[Activity, int]] = []
    monkeypatch.setattr(RankProgress, "enter", lambda self, place, step: marks.append((place, step)))
    api.pretrain("small-120m", small_run("run"), words(micro_batch_size=6))
    wanted = []
    for step in (1, 2, 3):
        places = (
            Activity.DATA,
            Activity.FORWARD,
            Activity.BACKWARD,
            Activity.DATA,
            Activity.REDUCTION,
            Activity.UPDATE,
        )
        wanted += [(place, step) for place in places]
        wanted += [(Activity.RECORD, 2)] if step == 2 else []  # of step 1, when step 2 is under way
        if step > 1:
            wanted += [(Activity.RECORD, step), (Activity.VALIDATION, step), (Activity.SAVE, step)]
    assert [mark for mark in marks if mark[0] != Activity.END] == wanted
    assert marks[-1][0] == Activity.END


class Stops(StopRequests):
    """Asks to stop from the look of that number on; `late`: a signal that only comes during the last save."""

    def __init__(self, from_look: int, late: StopRequest | None = None) -> None:
        super().__init__()
        self.looks, self.from_look, self.late = 0, from_look, late

    def now(self) -> StopRequest | None:
        self.looks += 1
        return StopRequest("why", 75) if self.looks >= self.from_look else None

    def by_signal(self) -> StopRequest | None:
        return self.late


def test_a_request_stops_after_its_step_but_not_after_the_last(small_run: Callable[[str], Path]):
    stopped, finished = small_run("stopped"), small_run("finished")
    it = trainer_of(stopped, save_every_steps=9, validate_every_steps=9)
    with pytest.raises(
        RunStoppedError, match=r"stopped after step 2 \(why\), saved; run the same command to resume"
    ) as error:
        it.train_to_the_end(Stops(2))
    assert error.value.exit_code == 75
    assert [row["step"] for row in files.read_jsonl(stopped / "metrics.jsonl")] == [1, 2]
    assert [(row["step"], row["reason"], row["exit_code"]) for row in events(stopped, "stop")] == [(2, "why", 75)]
    assert [row["step"] for row in events(stopped, "save")] == [2]
    it = trainer_of(finished)
    it.train_to_the_end(Stops(3))
    assert not events(finished, "stop")
    assert it.step == 3
    again = trainer_of(stopped, save_every_steps=9, validate_every_steps=9)
    again.resume()
    again.train_to_the_end(Stops(9))
    assert again.state.weights_sha256() == it.state.weights_sha256()
    assert events(stopped, "resume")[0]["checkpoint"] == "step_00000002"


def test_a_signal_during_the_last_save_is_answered(small_run: Callable[[str], Path]):
    run_dir = small_run("run")
    with pytest.raises(RunStoppedError, match=r"stopped after step 3 \(SIGTERM\)") as error:
        trainer_of(run_dir).train_to_the_end(Stops(9, StopRequest("SIGTERM", 143)))
    assert error.value.exit_code == 143
    assert [(row["step"], row["reason"], row["exit_code"]) for row in events(run_dir, "stop")] == [(3, "SIGTERM", 143)]
    assert [row["step"] for row in events(run_dir, "save")] == [2, 3]


@pytest.mark.parametrize("fails", [False, True])
def test_the_last_save_is_waited_for_even_on_the_way_out_with_an_error(
    small_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, fails: bool
):
    it, asked = trainer_of(small_run("run")), []
    monkeypatch.setattr(it.checkpoints, "finish", lambda: asked.append("finish"))
    monkeypatch.setattr(it.checkpoints, "let_finish", lambda: asked.append("let finish"))
    if fails:
        monkeypatch.setattr(it, "_record", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            it.train_to_the_end(Stops(9))
    else:
        it.train_to_the_end(Stops(9))
    assert asked == (["let finish"] if fails else ["finish"])
    assert it.metrics._file.closed


def test_a_cut_warmup_is_told(small_run: Callable[[str], Path], capfd: pytest.CaptureFixture[str]):
    run_dir = small_run("run")
    for warmup, is_cut in ((3, False), (4, True)):
        trainer_of(run_dir, warmup_steps=warmup)
        said = " ".join(capfd.readouterr().err.split())
        assert ("train.warmup_steps: 4 shortened to 1, the run has 3 steps" in said) == is_cut
        assert ("shortened to" in said) == is_cut


def test_what_all_ranks_must_have_alike(small_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    facts: list[Any] = []
    monkeypatch.setattr(Ranks, "on_all_ranks", lambda self, name, begin: facts.append((name, begin())))
    run_dir = small_run("run")
    trainer_of(run_dir)
    trainer_of(run_dir)
    trainer_of(run_dir, z_loss=0.1)
    (name, first), (_, second), (_, third) = facts
    assert name == "begin"
    assert first == second
    assert {key for key in first if first[key] != third[key]} == {"recipe"}
    assert {key: first[key] for key in ("layout", "device", "threads")} == {
        "layout": "one process", "device": "cpu", "threads": 1,
    }  # fmt: skip
    assert first["shards_fingerprint"] == files.sha256_file(run_dir / "shards" / "train" / "index.json")
    assert first.keys() >= {"tokenizer_fingerprint", "validation_fingerprint", "torch"}


@pytest.mark.parametrize("local_rank", [0, 1])
def test_one_process_of_a_machine_verifies_the_shards(
    small_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, local_rank: int
):
    asked: list[Any] = []
    monkeypatch.setattr(trainer, "verify_run_data", lambda run_dir, how: asked.append((run_dir, how)))
    run_dir, recipe = small_run("run"), load_recipe("small-120m", words())
    trainer.pretrain(recipe.llama_config(), recipe.train, run_dir, ranks=Ranks(0, 1, local_rank))
    assert asked == ([(run_dir, recipe.train.verify_shards)] if local_rank == 0 else [])


def test_a_watch_that_ends_the_process_writes_why_and_lets_the_save_finish(
    small_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    from tinyllama.parallel.heartbeat import Failure

    run_dir, asked = small_run("run"), []
    it = trainer_of(run_dir)
    it.step = 2
    monkeypatch.setattr(it.checkpoints, "let_finish", lambda: asked.append("finish"))
    monkeypatch.setenv("RANK", "1")
    for is_first in (False, True):
        it._before_exit(Failure("rank 0 is lost", 69, is_first))
    assert [(row["step"], row["reason"], row["exit_code"]) for row in events(run_dir, "stop")] == [
        (2, "rank 0 is lost", 69)
    ]
    assert asked == ["finish"] * 2


def test_weights_of_another_run_are_where_it_starts(small_run: Callable[[str], Path]):
    model, run_dir = small_run("model"), small_run("run")
    api.pretrain("small-120m", model, words())
    it = trainer_of(run_dir, init_from=str(model), precision="bf16")
    before = it.state.weights_sha256()
    it.resume()
    assert before != it.state.weights_sha256()
    theirs = api.open_model(model, "cpu").network.state_dict()
    assert all((value == theirs[name]).all() for name, value in it.state.weights())
    assert all((p.copy == p.master.to(p.copy.dtype)).all() for p in it.state.network.packed if p.copy is not None)
