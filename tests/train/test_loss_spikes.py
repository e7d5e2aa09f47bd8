"""A loss spike: seen by a robust score, answered by going back and leaving its data out, whatever else happens."""

import json
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.loss_spike import poison
from tests.conftest import overrides
from tests.train.run_processes import events, outcome, run_to_its_end, start, untimed, wait_until
from tinyllama import api, files
from tinyllama.errors import RunStoppedError
from tinyllama.recipe import load_recipe
from tinyllama.shards.quarantine import Quarantined
from tinyllama.train.loss_spikes import Spike, SpikeGuard, robust_z, steps_to_see, suspect_steps
from tinyllama.train.stop_requests import StopRequests
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.trainer import Trainer

# So small a run that learns fast enough for random ids to stand out.
SPIKING: dict[str, Any] = {
    "train__steps": 70, "train__peak_lr": 0.02, "train__min_lr": 0.002, "train__save_every_steps": 5,
    "train__validate_every_steps": 70, "train__spike_window": 16, "train__spike_steps_in_a_row": 2,
    "train__keep_checkpoints": 1, "train__keep_best": False,
}  # fmt: skip
POISONED = range(50, 54)


def poisoned_run(prepared_run: Path, out: Path, **changes: Any) -> tuple[Path, list[str], list[int]]:
    """A run folder whose windows of four steps are random ids; its words, and those windows."""
    run_dir, words = Path(shutil.copytree(prepared_run, out)), overrides(**(SPIKING | changes))
    (run_dir / "shards" / "manifest.json").unlink()  # these shards are the test's
    windows = poison(run_dir / "shards" / "train", load_recipe("small-120m", words).train, POISONED)
    return run_dir, words, windows


# -- the score ---------------------------------------------------------------------------------------------------------


def test_the_score_by_hand():
    window = [1.0, 2.0, 3.0, 4.0, 100.0]  # median 3; deviations 2, 1, 0, 1, 97, their median 1
    assert robust_z(10.0, window) == pytest.approx(7 / 1.4826)
    assert robust_z(3.0, window) == 0
    assert robust_z(-4.0, window) == pytest.approx(-7 / 1.4826)
    assert robust_z(2.1, [2.0] * 9) == pytest.approx(
        0.1 / (0.005 * 2.0)
    )  # no noise at all: half a percent counts as one
    assert robust_z(1.0, [0.0] * 9) > 1e6


def test_half_of_the_window_may_be_spikes():
    calm = [3.0 + 0.01 * (i % 5) for i in range(17)]
    assert robust_z(9.0, [*calm, *[9.0] * 15]) > 8


def guard_of(**changes: Any) -> SpikeGuard:
    return SpikeGuard(TrainConfig(**{"spike_window": 8, "spike_threshold": 6.0, **changes}))


def first_spike(losses: list[float], **changes: Any) -> Spike | None:
    guard = guard_of(**changes)
    return next((spike for step, loss in enumerate(losses, 1) if (spike := guard.see(step, loss))), None)


CALM = [3.0, 3.1, 2.9, 3.0, 3.1, 2.9, 3.0, 3.1]  # median 3; median absolute deviation 0.1


def test_so_many_in_a_row_are_a_spike_and_one_is_none():
    assert first_spike([*CALM, 4.0, 3.0, 4.0, 4.0, 3.0]) is None
    spike = first_spike([*CALM, 4.0, 4.0, 4.0, 4.0])
    assert spike is not None
    assert (spike.step, spike.in_a_row, spike.after_step) == (
        11,
        3,
        6,
    )  # steps 9 to 11 stand out, 7 and 8 are suspected
    assert spike.score == pytest.approx(1.0 / 0.14826, rel=0.2)
    assert "loss 4.000 at step 11, the third in a row" in spike.words()
    assert first_spike([*CALM, 3.5, 3.5, 3.5]) is None
    assert first_spike([*CALM, 3.5, 3.5, 3.5], spike_threshold=3.0)


def test_nothing_is_judged_before_the_window_is_full_and_no_fall_is_a_spike():
    assert first_spike([3.0] * 7 + [50.0] * 2) is None
    assert first_spike([*CALM, *[0.1] * 5]) is None


@given(st.lists(st.floats(0.1, 12), min_size=1, max_size=60), st.data())
@settings(max_examples=60, deadline=None)
def test_a_guard_taken_up_again_sees_the_same(losses: list[float], data: st.DataObject):
    cut = data.draw(st.integers(0, len(losses)))
    whole, before, after = (guard_of(spike_threshold=1.0) for _ in range(3))
    seen = [whole.see(step, loss) for step, loss in enumerate(losses)]
    found = [before.see(step, loss) for step, loss in enumerate(losses[:cut])]
    after.load(json.loads(json.dumps(before.state())))
    found += [after.see(step, loss) for step, loss in enumerate(losses[cut:], cut)]
    assert found == seen
    assert after.state() == whole.state()


def test_noise_of_many_kinds_raises_no_alarm():
    """Steep beginnings, heavy tails and drifts that clean runs have, at the default settings."""
    for seed in range(6):
        draw = random.Random(seed)
        guard, drift = SpikeGuard(TrainConfig()), 0.0
        for step in range(2000):
            drift = 0.99 * drift + draw.gauss(0, 0.01)
            heavy = draw.gauss(0, 0.05) * (4 if draw.random() < 0.05 else 1)
            assert guard.see(step, 2.5 + 8 * 0.98**step + drift + heavy) is None


def test_suspects_grow_where_the_run_went_back_before():
    spike = Spike(step=100, in_a_row=3, loss=9.0, median=3.0, score=20.0)
    assert list(suspect_steps(spike, 0, 128, 10_000)) == [96, 97, 98, 99, 100]
    assert suspect_steps(spike, 2, 128, 10_000) == range(96, 229)
    assert suspect_steps(spike, 2, 128, 200) == range(96, 111)  # a twentieth of an epoch
    assert spike.after_step == 100 - steps_to_see(TrainConfig())


# -- the run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spiking(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[int]]:
    """A poisoned run that went to its end, guarded; its summary and the poisoned windows. Read only."""
    run_dir, words, windows = poisoned_run(prepared_run, tmp_path_factory.mktemp("spiking") / "run")
    return run_dir, api.pretrain("small-120m", run_dir, words).to_dict(), windows


def test_the_poison_is_seen_at_once_and_taken_out(spiking: tuple[Path, dict[str, Any], list[int]]):
    run_dir, summary, poisoned = spiking
    spikes, quarantines, backs = (events(run_dir, kind) for kind in ("spike", "quarantine", "roll_back"))
    assert spikes[0]["step"] == POISONED[1]  # the second poisoned step: as many in a row as the recipe wants
    assert len(spikes) == len(quarantines) == len(backs) <= 3
    for spike, back, entry in zip(spikes, backs, quarantines, strict=True):
        assert back["step"] <= entry["after_step"] < spike["step"]
        assert spike["score"] > 6
        assert "robust z" in spike["reason"]
    taken_out = {window for entry in quarantines for window in entry["windows"]}
    assert set(poisoned) <= taken_out
    rows = files.read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 71))
    assert max(row["loss"] for row in rows[30:]) < spikes[0]["loss"] - 1
    assert summary["step"] == 70
    state = files.read_json(run_dir / "checkpoints" / "step_00000070" / "state.json")
    assert [entry["windows"] for entry in state["quarantine"]] == [entry["windows"] for entry in quarantines]


def test_the_event_names_the_documents(spiking: tuple[Path, dict[str, Any], list[int]], prepared_run: Path):
    import numpy as np
    import pyarrow.parquet as pq

    run_dir, _, _ = spiking
    entry = events(run_dir, "quarantine")[0]
    table = pq.read_table(prepared_run / "shards" / "train" / "00000.parquet")
    ends = np.cumsum(table["tokens"].to_numpy())
    wanted = {
        table["id"][int(np.searchsorted(ends, token, "right"))].as_py()
        for window in entry["windows"]
        for token in range(window * 33, window * 33 + 33)
    }
    assert entry["windows_named"] == len(entry["windows"])
    assert set(entry["documents"]) == wanted


def test_the_loss_ends_within_noise_of_the_clean_run(
    spiking: tuple[Path, dict[str, Any], list[int]], prepared_run: Path, tmp_path: Path
):
    ends = []
    for seed in (42, 43, 44):
        run_dir = Path(shutil.copytree(prepared_run, tmp_path / str(seed)))
        summary = api.pretrain("small-120m", run_dir, overrides(**SPIKING, train__seed=seed)).to_dict()
        ends.append(summary["validation"]["loss"])
    noise = max(ends) - min(ends)
    assert spiking[1]["validation"]["loss"] == pytest.approx(ends[0], abs=noise)


def trained_with(run_dir: Path, words: list[str], quarantine: tuple[Quarantined, ...]) -> Trainer:
    """The same run, with the quarantine list known from its beginning."""
    recipe = load_recipe("small-120m", words)
    trainer = Trainer(recipe.llama_config(), recipe.train, run_dir)
    trainer.guard.quarantine = quarantine
    trainer._open_batches()
    with StopRequests() as stops:
        trainer.train_to_the_end(stops)
    return trainer


def test_going_back_leaves_no_trace(
    spiking: tuple[Path, dict[str, Any], list[int]], prepared_run: Path, tmp_path: Path
):
    """The run ends as one that never read the bad windows, to the bit, whatever checkpoints there were to go back to."""
    done, summary, _ = spiking
    entries = tuple(Quarantined(row["after_step"], tuple(row["windows"])) for row in events(done, "quarantine"))
    run_dir, words, _ = poisoned_run(prepared_run, tmp_path / "known", train__save_every_steps=70)
    trainer = trained_with(run_dir, words, entries)
    assert not events(run_dir, "spike")
    assert trainer.state.weights_sha256() == summary["weights_sha256"]
    rows = [untimed(files.read_jsonl(path / "metrics.jsonl")) for path in (done, run_dir)]
    assert rows[0] == rows[1]


class CrashError(BaseException):
    """As a power cut: no `except Exception` answers it."""


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("spike", 1), ("quarantine", 1), ("roll_back", 1), ("remove", 1), ("remove", 2),
        pytest.param("spike", 2, marks=pytest.mark.full), pytest.param("save", 11, marks=pytest.mark.full),
    ],
)  # fmt: skip
def test_cut_off_at_any_moment_it_ends_the_same(
    spiking: tuple[Path, dict[str, Any], list[int]],
    prepared_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    number: int,
):
    """Ended before or after each thing that is written on the way back, and started again."""
    from tinyllama.train import run_checkpoints, run_guards, trainer

    run_dir, words, _ = poisoned_run(prepared_run, tmp_path / "run")
    seen: list[str] = []

    def count(kind: str) -> None:
        seen.append(kind)
        if seen.count(moment) == number and kind == moment:
            raise CrashError

    with monkeypatch.context() as patch:
        for module in (run_checkpoints, run_guards, trainer):
            write = module.write_event
            patch.setattr(module, "write_event", lambda *a, _w=write, **k: (_w(*a, **k), count(a[1]))[0])
        remove = files.remove_folder
        patch.setattr(run_checkpoints.files, "remove_folder", lambda path: (remove(path), count("remove"))[0])
        with pytest.raises(CrashError):
            api.pretrain("small-120m", run_dir, words)
    for thread in threading.enumerate():  # a save under way, which a real cut would end, must not outlive it
        if thread.name == "save":
            thread.join()
    done, summary, _ = spiking
    assert outcome(run_dir, api.pretrain("small-120m", run_dir, words).to_dict()) == outcome(done, summary)
    assert events(run_dir, "resume")


@pytest.mark.parametrize(
    "moment",
    ["spike", pytest.param("quarantine", marks=pytest.mark.full), pytest.param("roll_back", marks=pytest.mark.full)],
)
def test_killed_while_it_goes_back(
    spiking: tuple[Path, dict[str, Any], list[int]], prepared_run: Path, tmp_path: Path, moment: str
):
    run_dir, words, _ = poisoned_run(prepared_run, tmp_path / "run")
    process = start(run_dir, words)
    wait_until(lambda: bool(events(run_dir, moment)), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done, summary, _ = spiking
    assert outcome(run_dir, run_to_its_end(run_dir, words)) == outcome(done, summary)


def test_watching_changes_nothing(prepared_run: Path, tmp_path: Path):
    results = []
    for mode in ("watch", "off"):
        run_dir, words, _ = poisoned_run(prepared_run, tmp_path / mode, train__spike_guard=mode)
        results.append(outcome(run_dir, api.pretrain("small-120m", run_dir, words).to_dict()))
        assert [row["step"] for row in events(run_dir, "spike")] == ([POISONED[1]] if mode == "watch" else [])
        assert not events(run_dir, "roll_back")
    assert results[0] == results[1]


def test_before_the_first_checkpoint_it_says_so_and_goes_on(prepared_run: Path, tmp_path: Path):
    run_dir, words, _ = poisoned_run(prepared_run, tmp_path / "run", train__save_every_steps=60)
    assert api.pretrain("small-120m", run_dir, words).step == 70
    assert "no checkpoint is old enough" in events(run_dir, "spike")[0]["answer"]
    assert not events(run_dir, "roll_back")


@pytest.mark.parametrize("answer", ["stop", "go_on"])
def test_the_run_does_not_go_back_for_ever(prepared_run: Path, tmp_path: Path, answer: str):
    changes = {"train__max_spike_roll_backs": 1, "train__on_spike_limit": answer, "train__spike_steps_in_a_row": 1}
    run_dir, words, _ = poisoned_run(prepared_run, tmp_path / "run", **changes)
    if answer == "stop":
        for _ in range(2):  # and started again it comes to the same end
            with pytest.raises(
                RunStoppedError,
                match=r"after rolling back 1 times near it \(train\.on_spike_limit=go_on would continue\); lower",
            ) as stop:
                api.pretrain("small-120m", run_dir, words)
            assert stop.value.exit_code == 1
        assert "robust z" in events(run_dir, "stop")[0]["reason"]
    else:
        assert api.pretrain("small-120m", run_dir, words).step == 70
        assert "training continues" in events(run_dir, "spike")[-1]["answer"]
    assert len(events(run_dir, "roll_back")) == 1


def test_without_a_whole_checkpoint_before_it_the_run_stops(
    prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tinyllama.checkpoint import async_save

    run_dir, words, _ = poisoned_run(prepared_run, tmp_path / "run")
    monkeypatch.setattr(async_save, "remove_others", lambda folder, _: [
        shutil.rmtree(path) for path in folder.glob("step_*") if int(path.name[5:]) < 50
    ])  # fmt: skip
    with pytest.raises(RunStoppedError, match="no checkpoint of step 47 or before it is whole"):
        api.pretrain("small-120m", run_dir, words)
