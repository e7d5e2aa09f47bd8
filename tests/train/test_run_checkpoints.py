"""What a run's checkpoints ask of the saving thread, answer to its errors, take up and remove: step by step."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.train.run_processes import events
from tinyllama import api, files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.async_save import Saved
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.checkpoint.retention import Retention
from tinyllama.errors import InputError, RunStoppedError
from tinyllama.parallel.rank_progress import Activity
from tinyllama.recipe import Recipe, load_recipe
from tinyllama.shards.quarantine import Quarantined
from tinyllama.train import run_checkpoints
from tinyllama.train.metrics import MetricsFile
from tinyllama.train.run_checkpoints import RunCheckpoints
from tinyllama.train.run_guards import RunGuards
from tinyllama.train.train_state import TrainState

VALUES: dict[str, Any] = {
    "tokenizer.vocab_size": 512, "model.preset": "tiny-2m", "model.dim": 16, "model.n_layers": 1, "model.ffn_dim": 24,
    "train.steps": 6, "train.seq_len": 16, "train.micro_batch_size": 2, "train.tokens_per_step": 64,
    "train.precision": "fp16", "train.device": "cpu", "train.save_every_steps": 2, "train.keep_checkpoints": 9,
    "train.validation_tokens": 40, "train.validate_every_steps": 2, "train.warmup_steps": 1, "train.keep_every_steps": 4,
}  # fmt: skip


def words(**changes: Any) -> list[str]:
    values = VALUES | {f"train.{key}": value for key, value in changes.items()}
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def recipe_of(**changes: Any) -> Recipe:
    return load_recipe("small-120m", words(**changes))


class FakeSaver:
    """Notes what it is asked for; `error` is raised by the next wait."""

    def __init__(self, folder: Path, retention: Retention, before_commit: Any, on_saved: Any) -> None:
        self.folder, self.retention, self.before_commit, self.on_saved = folder, retention, before_commit, on_saved
        self.asked: list[Any] = []
        self.error: Exception | None = None
        self.is_writing = False

    def save(self, weights: Any, moments: Any, state: RunState, tokenizer_files: list[Path]) -> None:
        self.asked.append((dict(weights), dict(moments), state, [path.name for path in tokenizer_files]))

    def wait(self) -> None:
        self.asked.append("wait")
        error, self.error = self.error, None
        if error is not None:
            raise error


class FakeMetrics:
    n_synced = 0

    def sync(self) -> None:
        self.n_synced += 1


@dataclass
class Made:
    checkpoints: RunCheckpoints
    state: TrainState
    guards: RunGuards

    @property
    def saver(self) -> FakeSaver:
        return cast("FakeSaver", self.checkpoints._saver)

    def save(self, step: int, metrics: FakeMetrics | None = None) -> None:
        self.checkpoints.save(step, {"loss": 2.5}, cast("MetricsFile", metrics or FakeMetrics()))


def fingerprints(run_dir: Path) -> dict[str, str]:
    found = {name: files.sha256_file(run_dir / "shards" / name / "index.json") for name in ("train", "validation")}
    return {
        "tokenizer_fingerprint": files.sha256_file(run_dir / "tokenizer" / "tokenizer.model"),
        "shards_fingerprint": found["train"], "validation_fingerprint": found["validation"],
    }  # fmt: skip


def made(
    run_dir: Path, allowed: frozenset[str] = frozenset(), given: dict[str, str] | None = None, **changes: Any
) -> Made:
    recipe = recipe_of(**changes)
    state = TrainState(recipe.llama_config(), recipe.train, torch.device("cpu"))
    state.init_weights(1)
    guards = RunGuards(run_dir, recipe.train)
    given = fingerprints(run_dir) if given is None else given
    return Made(
        RunCheckpoints(run_dir, recipe.llama_config(), recipe.train, state, guards, given, allowed), state, guards
    )


@pytest.fixture
def fake_saver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_checkpoints, "AsyncSaver", FakeSaver)


# -- saving ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_saver")
def test_the_recipe_says_which_checkpoints_stay(small_run: Callable[[str], Path]):
    run_dir = small_run("run")
    saver = made(run_dir, keep_best=False, spike_steps_in_a_row=5).saver
    assert (saver.folder, saver.retention) == (run_dir / "checkpoints", Retention(9, 4, False, 7))
    assert made(run_dir, spike_guard="watch").saver.retention == Retention(9, 4, True, 0)


@pytest.mark.usefixtures("fake_saver")
def test_what_is_saved_and_that_a_step_is_saved_once(small_run: Callable[[str], Path]):
    run_dir = small_run("run")
    it = made(run_dir)
    it.state.optimizer.updates.fill_(3)
    it.state.loss_scale.load({"factor": 64.0, "good_updates": 7})
    it.guards.quarantine = (Quarantined(2, (4, 9)),)
    it.save(5)
    it.save(5)
    before, saved = it.saver.asked
    assert before == "wait", "an error of the save before it comes first"
    weights, moments, state, tokenizer_files = saved
    assert weights.keys() == dict(it.state.model.named_parameters()).keys()
    assert moments.keys() == it.state.optimizer.moments().keys()
    assert tokenizer_files == ["tokenizer.model", "tokenizer.json"]
    recipe = recipe_of()
    assert state == RunState(
        5, 5 * 64, recipe.llama_config().to_dict(), recipe.train.result_values(), updates=3,
        loss_scale={"factor": 64.0, "good_updates": 7}, validation={"loss": 2.5},
        guards={"skipped_in_a_row": 0, "spikes": {"losses": [], "in_a_row": 0}},
        quarantine=[{"after_step": 2, "windows": [4, 9]}], **fingerprints(run_dir),
    )  # fmt: skip
    it.save(6)
    assert len(it.saver.asked) == 4


@pytest.mark.usefixtures("fake_saver")
def test_rows_are_synced_before_the_checkpoint_counts_and_the_event_tells_of_it(small_run: Callable[[str], Path]):
    run_dir = small_run("run")
    it, metrics = made(run_dir), FakeMetrics()
    marks: list[Any] = []
    it.state.ranks.progress.enter_saver = lambda *place: marks.append(place)  # pyright: ignore[reportAttributeAccessIssue]
    it.save(5, metrics)
    assert metrics.n_synced == 0
    it.saver.before_commit()
    assert metrics.n_synced == 1
    path = run_dir / "checkpoints" / "step_00000005"
    it.saver.on_saved(Saved(path, 5, 0.12345678, 2.00000049, 77))
    assert marks == [(Activity.WRITE, 5), (Activity.COMMIT, 5), (Activity.END, 5)]
    (event,) = events(run_dir, "save")
    assert {key: event[key] for key in event if key not in ("time", "event")} == {
        "step": 5, "checkpoint": "step_00000005", "stall_seconds": 0.123457, "write_seconds": 2.0, "bytes": 77,
    }  # fmt: skip
    assert it.checkpoints.last_good == path


@pytest.mark.usefixtures("fake_saver")
def test_to_look_does_not_wait_for_a_save_in_flight(small_run: Callable[[str], Path]):
    it = made(small_run("run"))
    it.saver.is_writing = True
    it.checkpoints.look(wait=False)
    assert it.saver.asked == []
    it.checkpoints.look()
    it.saver.is_writing = False
    it.checkpoints.look(wait=False)
    assert it.saver.asked == ["wait"] * 2


FULL, BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")


@pytest.mark.usefixtures("fake_saver")
def test_a_full_disk_is_answered_as_the_recipe_says(small_run: Callable[[str], Path]):
    run_dir = small_run("run")
    it = made(run_dir, on_full_disk="go_on")
    it.checkpoints.last_good = run_dir / "checkpoints" / "step_00000004"
    it.save(5)
    it.saver.error = FULL
    it.checkpoints.look(wait=False)
    (event,) = events(run_dir, "full_disk")
    assert (event["step"], event["reason"]) == (5, "no space for the checkpoint (No space left on device)")
    it.save(5)  # it is tried again
    assert len(it.saver.asked) == 5
    it.saver.error = FULL
    with pytest.raises(
        RunStoppedError, match=r"checkpoint of step 5 .*last good one: step_00000004; free some space"
    ) as error:
        it.checkpoints.finish()  # the last one must be there
    assert error.value.exit_code == 1
    (event,) = events(run_dir, "stop")
    assert (event["step"], event["reason"], event["exit_code"]) == (5, "full disk", 1)
    it = made(run_dir)
    it.save(6)
    it.saver.error = FULL
    with pytest.raises(RunStoppedError, match=r"checkpoint of step 6 .*last good one: none yet"):
        it.checkpoints.look()


@pytest.mark.usefixtures("fake_saver")
@pytest.mark.parametrize("answer", ["stop", "go_on"])
def test_another_error_than_a_full_disk_is_raised_as_it_is(
    small_run: Callable[[str], Path], answer: str, capfd: pytest.CaptureFixture[str]
):
    it = made(small_run("run"), on_full_disk=answer)
    for wait in (it.checkpoints.look, it.checkpoints.finish):
        it.saver.error = BROKEN
        with pytest.raises(OSError, match="Input/output error"):
            wait()
    for error in (BROKEN, ValueError("some fault")):
        it.saver.error = error
        it.checkpoints.let_finish()
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("the last checkpoint was not written") == 2
    assert it.saver.asked == ["wait"] * 4


# -- taking up ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in fp16 with the checkpoints of steps 2, 4 and 6. Read only."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    run_dir.mkdir()
    for part in ("shards", "tokenizer"):
        (run_dir / part).symlink_to(small_data / part)
    api.pretrain("small-120m", run_dir, words())
    return run_dir


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))
    (copy / "events.jsonl").unlink()
    return copy


def rewrite(folder: Path, **changes: Any) -> RunState:
    """Another state of a checkpoint, as if it had been saved so."""
    state = replace(form.read_state(folder), **changes)
    form.write_state(folder, state)
    (folder / form.MANIFEST).unlink()
    form.write_manifest(folder, {})
    return state


def damage(folder: Path) -> None:
    (folder / form.WEIGHTS).write_bytes(b"damaged")


def steps_in(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.is_dir())


def test_everything_that_was_saved_is_taken_up(run: Path):
    folder = run / "checkpoints" / "step_00000006"
    saved = rewrite(folder, updates=4, loss_scale={"factor": 8.0, "good_updates": 3})
    it = made(run)
    assert it.checkpoints.resume() == saved
    assert it.state.optimizer.updates.item() == 4
    assert it.state.loss_scale.state() == saved.loss_scale
    weights = form.WEIGHTS, dict(it.state.weights())
    moments = form.OPTIMIZER, dict(it.state.moments())
    for name, held in (weights, moments):
        for key, value in run_checkpoints_tensors(folder / name).items():
            assert torch.equal(held[key], value), key
    assert it.checkpoints.last_good == folder
    it.save(6)  # is there
    assert not events(run, "save")
    assert not events(run, "allow_change")


def run_checkpoints_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_damaged_ones_are_set_aside_each_with_its_step(run: Path):
    for step in (4, 6):
        damage(run / "checkpoints" / f"step_{step:08d}")
    it = made(run)
    found = it.checkpoints.resume()
    assert found is not None
    assert found.step == 2
    assert [(row["step"], row["checkpoint"], row["reason"]) for row in events(run, "set_aside")] == [
        (6, "damaged_step_00000006", "damaged"), (4, "damaged_step_00000004", "damaged"),
    ]  # fmt: skip
    assert steps_in(run) == ["damaged_step_00000004", "damaged_step_00000006", "step_00000002"]


def test_without_a_whole_checkpoint_nothing_is_taken_up(run: Path):
    for step in (2, 4, 6):
        damage(run / "checkpoints" / f"step_{step:08d}")
    it = made(run)
    before = it.state.weights_sha256()
    assert it.checkpoints.resume() is None
    assert it.state.weights_sha256() == before
    assert (it.checkpoints.last_good, it.state.optimizer.updates.item()) == (None, 0)


@pytest.mark.parametrize("allowed", [frozenset(), frozenset({"train.weight_decay"})])
def test_changes_are_refused_but_for_the_allowed_ones(run: Path, allowed: frozenset[str]):
    it = made(run, allowed, weight_decay=0.3, beta2=0.5)
    with pytest.raises(InputError) as error:
        it.checkpoints.resume()
    assert "train.beta2: 0.95 -> 0.5" in str(error.value)
    assert ("train.weight_decay: 0.1 -> 0.3" in str(error.value)) == (not allowed)
    assert not events(run, "allow_change")


def test_with_another_precision_the_loss_scale_is_not_taken_up(run: Path):
    rewrite(run / "checkpoints" / "step_00000006", loss_scale={"factor": 8.0, "good_updates": 3}, updates=5)
    it = made(run, frozenset({"train.precision"}), precision="fp32")
    assert it.checkpoints.resume() is not None
    assert it.state.loss_scale.state() == {"factor": 1.0, "good_updates": 0}
    assert it.state.optimizer.updates.item() == 5
    (event,) = events(run, "allow_change")
    assert (event["step"], event["reason"]) == (6, "train.precision: 'fp16' -> 'fp32'")
    assert event["changes"] == {"train.precision": "'fp16' -> 'fp32'"}


def test_keys_that_an_older_version_did_not_have_count_as_their_defaults(run: Path):
    folder = run / "checkpoints" / "step_00000006"
    state = form.read_state(folder)
    rewrite(folder, train={key: value for key, value in state.train.items() if key not in ("beta2", "z_loss")})
    assert made(run).checkpoints.resume() is not None
    with pytest.raises(InputError, match=r"\(train\.beta2: 0\.95 -> 0\.5\)"):
        made(run, beta2=0.5).checkpoints.resume()


@pytest.mark.parametrize("name", ["tokenizer_fingerprint", "shards_fingerprint", "validation_fingerprint"])
def test_other_data_are_refused_and_data_of_no_known_fingerprint_not(run: Path, name: str):
    with pytest.raises(InputError) as error:
        made(run, given=fingerprints(run) | {name: "f" * 64}).checkpoints.resume()
    file = {"tokenizer_fingerprint": "tokenizer", "shards_fingerprint": "shards/train/index.json"}
    assert str(error.value).startswith(f"{run / file.get(name, 'shards/validation/index.json')}: not what ")
    assert f"(sha256 ffffffffffff, was {fingerprints(run)[name][:12]})" in str(error.value)
    rewrite(run / "checkpoints" / "step_00000006", **{name: ""})
    assert made(run, given=fingerprints(run) | {name: "f" * 64}).checkpoints.resume() is not None


# -- going back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_step", "damaged", "wanted"),
    [(6, [], 6), (5, [], 4), (4, [], 4), (3, [], 2), (5, [4], 2), (2, [], 2), (1, [], None), (3, [2], None)],
)
def test_going_back_takes_the_newest_whole_one_before_a_step(
    run: Path, last_step: int, damaged: list[int], wanted: int | None
):
    for step in damaged:
        damage(run / "checkpoints" / f"step_{step:08d}")
    it = made(run)
    found = it.checkpoints.go_back(last_step)
    assert (None if found is None else found.step) == wanted
    stay = [step for step in (2, 4, 6) if wanted is None or step <= wanted]
    assert steps_in(run) == [f"step_{step:08d}" for step in stay]
    if found is not None:  # it is written again, with what is quarantined now
        it.guards.quarantine = (Quarantined(1, (3,)),)
        it.save(found.step)
        it.checkpoints.finish()
        state = form.read_state(run / "checkpoints" / f"step_{found.step:08d}")
        assert asdict(state) == asdict(found) | {
            "quarantine": [{"after_step": 1, "windows": [3]}], "validation": {"loss": 2.5}, "guards": it.guards.state()
        }  # fmt: skip


def test_the_newest_goes_first_when_the_run_goes_back(run: Path, monkeypatch: pytest.MonkeyPatch):
    removed: list[str] = []
    monkeypatch.setattr(run_checkpoints.files, "remove_folder", lambda path: removed.append(path.name))
    made(run).checkpoints._remove_after(3)
    assert removed == ["step_00000006", "step_00000004"]
