"""A run's checkpoints: saves them asynchronously, resumes from the newest valid one, handles a full disk."""

from collections.abc import Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyllama import files, log
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.async_save import AsyncSaver, Saved
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.checkpoint.retention import Retention
from tinyllama.config import difference_lines, differences
from tinyllama.errors import InputError, RunStoppedError
from tinyllama.exchange.open_model import TOKENIZER_CONFIG
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.rank_progress import Activity
from tinyllama.shards.quarantine import quarantine_rows
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE
from tinyllama.train.loss_spikes import steps_to_see
from tinyllama.train.metrics import MetricsFile, write_event
from tinyllama.train.run_data import FINGERPRINTED
from tinyllama.train.run_guards import RunGuards
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState

FULL_DISK_EXIT_CODE = 1


class RunCheckpoints:
    """Saves and restores the state of the run in `run_dir`."""

    def __init__(
        self,
        run_dir: Path,
        config: LlamaConfig,
        train: TrainConfig,
        state: TrainState,
        guards: RunGuards,
        fingerprints: dict[str, str],
        allowed_changes: Set[str],
    ) -> None:
        """`fingerprints` of the data, by their names in RunState; `allowed_changes`: recipe keys that
        may differ in the checkpoint from which the run resumes."""
        self.run_dir, self.config, self.train, self.state = run_dir, config, train, state
        self.folder = run_dir / "checkpoints"
        self._guards, self._fingerprints, self._allowed_changes = guards, fingerprints, allowed_changes
        safe_steps = steps_to_see(train) if train.spike_guard == "roll_back" else 0
        retention = Retention(train.keep_checkpoints, train.keep_every_steps, train.keep_best, safe_steps)
        self._saver = AsyncSaver(self.folder, retention, self._before_commit, self._on_saved)
        self._metrics: MetricsFile | None = None
        self.last_good: Path | None = None
        self._asked_for: int | None = None  # the step of the last save

    # -- saving --------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Allocate the host memory of the first save in a thread: pinning it takes seconds. Only rank 0 saves."""
        if self.state.network.device.type == "cuda" and self.state.ranks.is_first:
            self._saver.prepare(*self.state.state_shapes())

    def save(self, step: int, validation: dict[str, float] | None, metrics: MetricsFile) -> None:
        """Begin to save the state after `step`, unless that was done; `metrics` must be on the disk before it counts.

        Raises what kept the save before this one from the disk; RunStoppedError when that was a full disk.
        """
        if step == self._asked_for:
            return
        self.look()
        self._metrics, self._asked_for = metrics, step
        if not self.state.ranks.is_first:
            self.state.join_save()
            return
        names = (MODEL_FILE, JSON_FILE, TOKENIZER_CONFIG)
        tokenizer_files = [file for name in names if (file := self.run_dir / "tokenizer" / name).exists()]
        self.state.ranks.progress.enter_saver(Activity.WRITE, step)
        self._saver.save(self.state.weights(), self.state.moments(), self._run_state(step, validation), tokenizer_files)

    def look(self, *, wait: bool = True) -> None:
        """See whether the last save failed; without `wait`, only if it has ended. Raises as `save` does."""
        if self._saver.is_writing and not wait:
            return
        try:
            self._saver.wait()
        except OSError as error:
            self._answer_full_disk(error, can_go_on=self.train.on_full_disk == "go_on")

    def finish(self) -> None:
        """Wait for the last save. Raises RunStoppedError when the disk was full, whatever the recipe says."""
        try:
            self._saver.wait()
        except OSError as error:
            self._answer_full_disk(error, can_go_on=False)

    def let_finish(self) -> None:
        """Wait for the last save on the way out with another error; its own is not raised."""
        try:
            self._saver.wait()
        except Exception as error:
            log.warn(f"{self.folder}: the last checkpoint was not written ({error})")

    def _answer_full_disk(self, error: OSError, *, can_go_on: bool) -> None:
        if not files.is_full_disk(error):
            raise error
        last = self.last_good.name if self.last_good else "none yet"
        step, self._asked_for = self._asked_for, None
        line = f"{self.folder}: no space for the checkpoint of step {step} ({error.strerror}); last good one: {last}"
        if can_go_on:
            write_event(self.run_dir, "full_disk", step=step, reason=f"no space for the checkpoint ({error.strerror})")
            log.warn(f"{line}; training continues and tries again at the next checkpoint")
            return
        write_event(self.run_dir, "stop", step=step, reason="full disk", exit_code=FULL_DISK_EXIT_CODE)
        raise RunStoppedError(f"{line}; free some space, then run the same command to resume", FULL_DISK_EXIT_CODE)

    def _before_commit(self) -> None:
        assert self._asked_for is not None
        self.state.ranks.progress.enter_saver(Activity.COMMIT, self._asked_for)
        if self._metrics is not None:
            self._metrics.sync()

    def _on_saved(self, saved: Saved) -> None:
        self.last_good = saved.path
        self.state.ranks.progress.enter_saver(Activity.END, saved.step)
        write_event(
            self.run_dir,
            "save",
            step=saved.step,
            checkpoint=saved.path.name,
            stall_seconds=round(saved.stall_seconds, 6),
            write_seconds=round(saved.write_seconds, 6),
            bytes=saved.n_bytes,
        )

    def _run_state(self, step: int, validation: dict[str, float] | None) -> RunState:
        return RunState(
            step=step,
            tokens=step * self.train.tokens_per_step,
            model=self.config.to_dict(),
            train=self.train.result_values(),
            updates=int(self.state.optimizer.updates.item()),
            loss_scale=self.state.loss_scale.state(),
            validation=validation,
            guards=self._guards.state(),
            quarantine=quarantine_rows(self._guards.quarantine),
            **self._fingerprints,
        )

    # -- resuming ------------------------------------------------------------------------------------------------------

    def resume(self) -> RunState | None:
        """Load the newest whole checkpoint into the run's state; None when there is none.

        Damaged ones are named in a warning and set aside. Raises InputError, with all that differs, when the checkpoint
        is another run's: another recipe but for the allowed keys, other shards or another tokenizer. Rank 0 reads, and
        gives the others what it found.
        """
        ranks = self.state.ranks
        found = ranks.on_rank_0(self._resume)
        if found is None:
            return None
        self.state.broadcast()
        self._asked_for = found["step"]
        return RunState(**found)

    def _resume(self) -> dict[str, Any] | None:
        path, damaged = form.find_newest(self.folder)
        for folder in damaged:
            step, aside = form.step_of(folder), form.set_aside(folder)
            log.warn(f"{folder}: set aside as {aside.name}")
            write_event(self.run_dir, "set_aside", step=step, checkpoint=aside.name, reason="damaged")
        if path is None:
            return None
        found = form.read_state(path)
        changes = self._changes(path, found)
        self.state.optimizer.updates.fill_(found.updates)
        if "train.precision" not in changes:  # another format's loss scale would be wrong
            self.state.loss_scale.load(found.loss_scale)
        self.state.load(path)
        if changes:
            write_event(
                self.run_dir, "allow_change", step=found.step, reason=difference_lines(changes), changes=changes
            )
        self.last_good = path
        return asdict(found)

    def go_back(self, last_step: int) -> RunState | None:
        """Resume from the newest whole checkpoint of `last_step` or before it; None, and all stay, when there is none.

        The next `save` writes that checkpoint again, with the current quarantine list.
        """
        if not self.state.ranks.on_rank_0(lambda: self._remove_after(last_step)):
            return None
        found = self.resume()
        self._asked_for = None
        return found

    def _remove_after(self, last_step: int) -> bool:
        """Remove the checkpoints after the newest whole one of `last_step` or before it; False when there is none.

        The newest is removed first: after a kill on the way the run makes the same decision again.
        """
        path, _ = form.find_newest(self.folder, last_step)
        if path is None:
            return False
        for later in form.checkpoints(self.folder):
            if form.step_of(later) > form.step_of(path):
                files.remove_folder(later)
        return True

    def _changes(self, path: Path, found: RunState) -> dict[str, str]:
        for key, ours in self._fingerprints.items():
            theirs = getattr(found, key)
            if theirs not in ("", ours):  # empty: not recorded by an older version
                raise InputError(
                    f"{self.run_dir / FINGERPRINTED[key]}: not what {path} was trained with (sha256 {ours[:12]}, was "
                    f"{theirs[:12]}); put the old one back, or choose another --run-dir"
                )
        ours = {"model": self.config.to_dict(), "train": self.train.result_values()}
        defaults = TrainConfig().result_values()  # of keys that the version which saved it did not have
        changes = differences({"model": found.model, "train": defaults | found.train}, ours)
        refused = {key: change for key, change in changes.items() if key not in self._allowed_changes}
        if refused:
            raise InputError(
                f"{path}: made with another recipe ({difference_lines(refused)}); "
                "go back to it, or name each key with --allow-change"
            )
        return changes
