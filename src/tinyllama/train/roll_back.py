"""Rolls a run back to a checkpoint after its guards' errors, or ends it with a reason."""

from dataclasses import dataclass, replace
from pathlib import Path

from tinyllama import log
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.errors import RunStoppedError
from tinyllama.shards.batches import Batches
from tinyllama.train.metrics import write_event
from tinyllama.train.run_checkpoints import RunCheckpoints
from tinyllama.train.run_guards import LossSpikeError, RunGuards, SkippedStepsError
from tinyllama.train.train_config import GuardConfig


@dataclass
class RollBack:
    """Answers the guards' errors for one run. After too many skipped steps in a row it rolls back once per process."""

    run_dir: Path
    train: GuardConfig
    checkpoints: RunCheckpoints
    guards: RunGuards
    has_skipped_back: bool = False

    def answer(self, trouble: LossSpikeError | SkippedStepsError, batches: Batches) -> RunState:
        """The checkpoint from which the run resumes; `guards.quarantine` is longer after a spike.

        Raises RunStoppedError, exit code 1, when the run has rolled back too often or there is no such checkpoint.
        """
        if isinstance(trouble, SkippedStepsError):
            return self._before_skips(trouble)
        return self._before_spike(trouble, batches)

    def _before_skips(self, trouble: SkippedStepsError) -> RunState:
        """Resume from the last checkpoint: a hardware fault does not repeat."""
        if self.has_skipped_back:
            raise self._given_up(trouble.step, f"{trouble}, after rolling back once") from None
        self.has_skipped_back = True
        found = self.checkpoints.resume()
        if found is None:
            raise self._given_up(trouble.step, f"{trouble}, and there is no checkpoint to roll back to") from None
        log.warn(f"pretrain: {trouble}; rolling back to the last checkpoint")
        return replace(found, guards={**found.guards, "skipped_in_a_row": 0})

    def _before_spike(self, trouble: LossSpikeError, batches: Batches) -> RunState:
        """Resume from a checkpoint before the spike, without the data that may have caused it."""
        spike, times = trouble.spike, self.train.max_spike_roll_backs
        if trouble.limit_reached:
            reason = f"{trouble}, after rolling back {times} times near it (train.on_spike_limit=go_on would continue)"
            raise self._given_up(spike.step, reason) from None
        found = self.checkpoints.go_back(spike.after_step)
        if found is None:
            reason = f"{trouble}, and no checkpoint of step {spike.after_step} or before it is whole"
            raise self._given_up(spike.step, reason) from None
        log.warn(f"pretrain: loss spike: {trouble}; rolling back and skipping the data of the steps around it")
        self.guards.quarantine_windows(spike, batches)
        return found

    def _given_up(self, step: int, reason: str) -> RunStoppedError:
        write_event(self.run_dir, "stop", step=step, reason=reason, exit_code=1)
        return RunStoppedError(
            f"{reason}; lower train.peak_lr or lengthen train.warmup_steps, with --allow-change, or look at the data there",
            1,
        )
