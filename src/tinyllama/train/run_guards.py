"""What watches a run's steps: non-finite ones, loss spikes, and what was quarantined because of them."""

import math
from pathlib import Path
from typing import Any

from tinyllama import log
from tinyllama.errors import InputError
from tinyllama.shards.batches import Batches
from tinyllama.shards.quarantine import Quarantined
from tinyllama.shards.window_documents import documents_of_windows
from tinyllama.train.loss_spikes import Spike, SpikeGuard, roll_backs_near, suspect_steps
from tinyllama.train.metrics import write_event
from tinyllama.train.train_config import TrainConfig

# Answers steps whose loss or gradient is no finite number: left out one by one, and an end put to many in a row.
LOSS_SCALE_SEARCH = 32  # halvings that fp16's loss scale may need to find its size: these are no fault


class SkippedStepsError(Exception):
    """More steps in a row were skipped than the recipe allows."""

    def __init__(self, step: int, in_a_row: int) -> None:
        super().__init__(f"{in_a_row} steps in a row up to step {step} had a non-finite loss or gradient")
        self.step = step


class StepGuard:
    """Counts skipped steps. The update itself is skipped on the device, see train_step."""

    def __init__(self, train: TrainConfig) -> None:
        self._precision = train.precision
        self._limit = train.max_skipped_in_a_row + (LOSS_SCALE_SEARCH if train.precision == "fp16" else 0)
        self.in_a_row = 0

    def see(self, step: int, loss: float, is_skipped: bool) -> str | None:
        """Record a step; returns why it was skipped, None when it was not."""
        if not is_skipped:
            self.in_a_row = 0
            return None
        self.in_a_row += 1
        if not math.isfinite(loss):
            reason = "the loss is not finite"
        elif self._precision == "fp16":
            reason = "overflow in fp16, the loss scale is halved"
        else:
            reason = "the gradient is not finite"
        log.warn(f"pretrain: step {step}: {reason}; no update")
        return reason

    def check(self, step: int) -> None:
        """Raises SkippedStepsError when `step`, the last one seen, is one too many."""
        if self.in_a_row >= self._limit:
            raise SkippedStepsError(step, self.in_a_row)


MAX_NAMED_WINDOWS = 256  # of one quarantine: in terabytes each may lie in another file


class LossSpikeError(Exception):
    """The loss spiked and the recipe asks for a roll-back; `limit_reached`: the run has rolled back there too often."""

    def __init__(self, spike: Spike, *, limit_reached: bool) -> None:
        super().__init__(spike.words())
        self.spike, self.limit_reached = spike, limit_reached


class RunGuards:
    """The guards of one run. Their state and the quarantine list are part of its checkpoints.

    Every decision follows from the recipe and from metrics that all ranks share.
    """

    def __init__(self, run_dir: Path, train: TrainConfig) -> None:
        self._run_dir, self._train = run_dir, train
        self.quarantine: tuple[Quarantined, ...] = ()
        self.load({})

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned. The quarantine list is not in it: it survives a roll-back."""
        self._steps, self._spikes = StepGuard(self._train), SpikeGuard(self._train)
        self._steps.in_a_row = int(state.get("skipped_in_a_row", 0))
        self._spikes.load(state.get("spikes", {}))
        self._spike: Spike | None = None

    def state(self) -> dict[str, Any]:
        """What resume needs: JSON values."""
        return {"skipped_in_a_row": self._steps.in_a_row, "spikes": self._spikes.state()}

    def see(self, step: int, loss: float, is_skipped: bool) -> str | None:
        """Record a step; returns why its update was skipped, None when it was made."""
        skipped = self._steps.see(step, loss, is_skipped)
        if not skipped and self._train.spike_guard != "off":
            self._spike = self._spikes.see(step, loss)
        return skipped

    def check(self, step: int) -> None:
        """Act on the step recorded last.

        Raises SkippedStepsError when it is one skipped step too many, LossSpikeError when the run is to roll back.
        """
        self._steps.check(step)
        spike, self._spike = self._spike, None
        if spike is None:
            return
        answer = self._answer(spike)
        write_event(
            self._run_dir, "spike", step=step, reason=spike.words(), answer=answer, loss=spike.loss, median=spike.median,
            score=round(spike.score, 3), losses=self._spikes.state()["losses"],
        )  # fmt: skip
        if answer in (GOES_BACK, STOPS):
            raise LossSpikeError(spike, limit_reached=answer == STOPS)
        log.warn(f"pretrain: loss spike: {spike.words()}; {answer}")

    def _answer(self, spike: Spike) -> str:
        train = self._train
        if train.spike_guard == "watch":
            return "watched only (train.spike_guard)"
        if spike.after_step < train.save_every_steps:
            return "no checkpoint is old enough yet (train.save_every_steps); training continues"
        near = roll_backs_near(spike, self.quarantine, train.spike_window)
        if near < train.max_spike_roll_backs:
            return GOES_BACK
        return STOPS if train.on_spike_limit == "stop" else f"after rolling back {near} times; training continues"

    def quarantine_windows(self, spike: Spike, batches: Batches) -> None:
        """Add the windows of the steps that may have caused a spike to the list, and name their documents."""
        near = roll_backs_near(spike, self.quarantine, self._train.spike_window)
        per_step = batches.sequences_per_step
        steps = suspect_steps(spike, near, self._train.spike_window, batches.sequences_per_epoch // per_step)
        windows = [window for step in steps for window in batches.windows(step - 1, 0, per_step)]
        self.quarantine = (*self.quarantine, Quarantined(spike.after_step, tuple(sorted(set(windows)))))
        named = self.quarantine[-1].windows[:: -(-len(set(windows)) // MAX_NAMED_WINDOWS)]
        try:
            documents = documents_of_windows(batches.shards.split, named, batches.seq_len)
        except InputError as error:  # the rows only name documents: training does not need them
            log.warn(f"pretrain: the quarantined documents cannot be named: {error}")
            documents = []
        write_event(
            self._run_dir, "quarantine", step=spike.step, reason=f"read by steps {steps[0]} to {steps[-1]}",
            after_step=spike.after_step, windows=list(self.quarantine[-1].windows), windows_named=len(named),
            documents=documents,
        )  # fmt: skip


GOES_BACK = "rolling back to a checkpoint before it"
STOPS = "stopping, the run has gone back here too often"
