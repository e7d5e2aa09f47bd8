"""Pre-training of one run folder, on one rank or several: from token shards to checkpoints, resumed wherever it stopped."""

import gc
import time
from collections.abc import Generator, Iterator, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinyllama import files, log
from tinyllama.checkpoint.checkpoint_format import RunState, checkpoint_name
from tinyllama.errors import LostRankError, RunStoppedError
from tinyllama.evaluation.validation import validate
from tinyllama.harness.training_tasks import TrainingTasks
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.heartbeat import Failure
from tinyllama.parallel.rank_progress import Activity
from tinyllama.parallel.ranks import Ranks
from tinyllama.seeds import derive_seed
from tinyllama.shards.batches import Batches, MicroBatch, prefetch
from tinyllama.shards.quarantine import read_quarantine
from tinyllama.train.forward_backward import DeviceBatch
from tinyllama.train.initial_weights import load_initial_weights
from tinyllama.train.lr_schedule import lr_schedule
from tinyllama.train.metrics import FinishedRun, MetricsFile, NoMetricsFile, summarize, write_event
from tinyllama.train.precision import choose_device, choose_threads
from tinyllama.train.roll_back import RollBack
from tinyllama.train.run_checkpoints import RunCheckpoints
from tinyllama.train.run_data import open_run_data, verify_run_data
from tinyllama.train.run_guards import LossSpikeError, RunGuards, SkippedStepsError
from tinyllama.train.step_clock import StepClock, StepTiming, gc_paused
from tinyllama.train.stop_requests import StopRequest, StopRequests, agreed
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState, log_start
from tinyllama.train.train_step import StepResult, train_step

STEPS_BETWEEN_COLLECTIONS = 100  # of young garbage


@dataclass(frozen=True)
class PendingStep:
    """A step that was started and whose metrics are not read yet."""

    step: int
    lap: StepTiming
    data_wait_seconds: float  # of the host, for the loader


def pretrain(
    config: LlamaConfig,
    train: TrainConfig,
    run_dir: Path,
    allowed_changes: Set[str] = frozenset(),
    ranks: Ranks | None = None,
    threads: int = 0,
) -> dict[str, Any]:
    """Train `config` on run_dir/shards with run_dir/tokenizer until the recipe's last step; returns the summary.

    Resumes from the newest valid checkpoint in run_dir/checkpoints, which may differ from the recipe in the keys of
    `allowed_changes`. Raises InputError when the shards, the tokenizer or that checkpoint do not belong together,
    RecipeError when the recipe asks for what the data or the device cannot give, RunStoppedError when a signal, the time
    limit, a full disk or many non-finite steps in a row end the run before its end, LostRankError when another of its
    `ranks` is gone. The summary is rank 0's, as are all files. `threads` of the CPU: 0, PyTorch's choice.
    """
    ranks = ranks or Ranks()
    ranks.on_all_ranks(
        "verify", lambda: verify_run_data(run_dir, train.verify_shards) if ranks.local_rank == 0 else None
    )
    try:
        with StopRequests(train.time_limit_minutes) as stops:  # now only: to verify may take long
            trainer = Trainer(config, train, run_dir, allowed_changes, ranks, threads)
            trainer.resume()
            trainer.train_to_the_end(stops)
            finished = trainer.finished()
            ranks.stop_watching()
    except LostRankError as lost:
        if lost.is_first:
            write_event(
                run_dir, "stop", anyway=True, step=ranks.progress.mark.step, reason=str(lost), exit_code=lost.exit_code
            )
        raise
    return summarize(finished) if ranks.is_first else {}


class Trainer:
    """One run: its network, optimizer, data and files. `step` counts the updates that are done."""

    def __init__(
        self,
        config: LlamaConfig,
        train: TrainConfig,
        run_dir: Path,
        allowed_changes: Set[str] = frozenset(),
        ranks: Ranks | None = None,
        threads: int = 0,
    ) -> None:
        self.config, self.train, self.run_dir = config, train, run_dir
        self.ranks = ranks or Ranks()
        self.schedule = lr_schedule(train, train.total_steps)
        if self.schedule.warmup_steps < train.warmup_steps:
            log.warn(
                f"train.warmup_steps: {train.warmup_steps} shortened to {self.schedule.warmup_steps}, "
                f"the run has {train.total_steps} steps"
            )
        self.tasks: TrainingTasks | None = None
        self.ranks.on_all_ranks("begin", lambda: self._begin(threads))
        self.ranks.connect(self.device)
        self.state = TrainState(config, train, self.device, ranks=self.ranks)
        self.state.init_weights(derive_seed(train.seed, "weights"))
        self.checkpoints = RunCheckpoints(
            run_dir, config, train, self.state, self.guard, self.fingerprints, allowed_changes
        )
        self.checkpoints.prepare()
        self.roll_back = RollBack(run_dir, train, self.checkpoints, self.guard)
        if self.ranks.heartbeat is not None:
            self.ranks.heartbeat.before_exit = self._before_exit
        self.micro_batches = train.layout(self.ranks.data_size).of_rank(self.ranks.data_rank)
        self.step = 0
        self.data_wait_seconds = 0.0
        self.last_validation: dict[str, float] | None = None

    def _begin(self, threads: int) -> dict[str, Any]:
        """Choose the device, open the data; returns what must be the same on every rank."""
        self.device = choose_device(self.train.device, None if self.ranks.is_alone else self.ranks.local_rank)
        self.threads = choose_threads(threads, self.device, self.train.deterministic_reduction)
        self._open_data()
        self.guard = RunGuards(self.run_dir, self.train)
        self._open_batches()
        if self.train.evaluate_tasks:
            asked = (self.train.evaluate_tasks, self.train.evaluate_data_dir, self.train.evaluate_limit)
            self.tasks = TrainingTasks(*asked, self.config.seq_len)
        return {
            "recipe": files.sha256_json([self.config.to_dict(), self.train.model_dump()]),
            **self.fingerprints,
            "layout": self.ranks.parallel.words(),
            "device": self.device.type,
            "threads": self.threads,
            "torch": torch.__version__,
        }

    def _before_exit(self, failure: Failure) -> None:
        """Called by the heartbeat: this process ends now, though its main thread waits for a rank that is lost."""
        if failure.is_first:
            write_event(
                self.run_dir, "stop", anyway=True, step=self.step, reason=failure.reason, exit_code=failure.exit_code
            )
        self.checkpoints.let_finish()

    def _open_data(self) -> None:
        """Open shards and tokenizer, and check that they belong together and to the recipe."""
        data = open_run_data(self.run_dir, self.config)
        self.tokenizer, self.fingerprints = data.tokenizer, data.fingerprints
        self.train_shards, self.validation_shards = data.train, data.validation

    def _open_batches(self) -> None:
        """The batches of all steps, with the current quarantine list."""
        sequences_per_step = self.train.tokens_per_step // self.train.seq_len
        seed = derive_seed(self.train.seed, "window order")
        self.batches = Batches(self.train_shards, self.train.seq_len, sequences_per_step, seed, self.guard.quarantine)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def train_to_the_end(self, stops: StopRequests) -> None:
        """All updates that are left. Raises RunStoppedError when something else than the last step ends them.

        When too many steps in a row were skipped, the run rolls back to its last checkpoint, once; when the loss spiked,
        to one before the spike.
        """
        while True:
            try:
                stop = self._train(stops)
                break
            except (LossSpikeError, SkippedStepsError) as trouble:
                found = self.roll_back.answer(trouble, self.batches)
                self._open_batches()
                self._resume_from(found, "roll_back", str(trouble))
        stop = stop or stops.by_signal()  # one that came during the last save
        if stop is not None:
            write_event(self.run_dir, "stop", step=self.step, reason=stop.reason, exit_code=stop.exit_code)
            raise RunStoppedError(
                f"stopped after step {self.step} ({stop.reason}), saved; run the same command to resume",
                stop.exit_code,
            )

    def _train(self, stops: StopRequests) -> StopRequest | None:
        """Update after update, with validation and checkpoints at their intervals and at the end; why it stopped early.

        A step's metrics are read while the next step runs, so that the device never waits for the host.
        """
        total, stop = self.schedule.total_steps, None
        is_first = self.ranks.is_first
        self.metrics = MetricsFile(self.run_dir / "metrics.jsonl", self.step) if is_first else NoMetricsFile()
        self.agreed: StopRequest | None = None
        if not self.ranks.is_alone:
            self.ranks.requests = stops.counts
        batches = self._device_batches(first_step=self.step)
        log_start(self.state, self.train)
        pending: PendingStep | None = None
        try:
            with log.progress("pretrain", total) as line, gc_paused():
                if self.step:  # after a roll-back, with what was quarantined; else it is there
                    self.checkpoints.save(self.step, self.last_validation, self.metrics)
                clock = StepClock(self.device)
                while self.step < total and stop is None:
                    result = self._update(batches)
                    metrics = (result.loss, result.accuracy, result.grad_norm, result.is_skipped)
                    lap = clock.lap([*metrics, *result.requests])
                    if pending is not None:
                        self._record(pending, line)
                    pending = PendingStep(self.step, lap, self.data_wait_seconds)
                    self.data_wait_seconds = 0.0
                    self.checkpoints.look(wait=False)
                    stop = stops.now() if self.ranks.is_alone else self.agreed
                    if self._validates() or self._evaluates() or self._saves() or stop is not None:
                        self._record(pending, line)
                        pending = None
                        if self._saves() or stop is not None:
                            self.ranks.progress.enter(Activity.SAVE, self.step)
                            self.checkpoints.save(self.step, self.last_validation, self.metrics)
                        clock.start()
                    if self.step % STEPS_BETWEEN_COLLECTIONS == 0:
                        gc.collect(1)
            self.checkpoints.finish()
        except Exception:
            self.checkpoints.let_finish()
            raise
        finally:
            batches.close()
            self.metrics.close()
        return stop if self.step < total else None

    def _validates(self) -> bool:
        return self.step % self.train.validate_every_steps == 0 or self.step == self.schedule.total_steps

    def _evaluates(self) -> bool:
        every = self.train.evaluate_every_steps or self.schedule.total_steps
        return self.tasks is not None and (self.step % every == 0 or self.step == self.schedule.total_steps)

    def _saves(self) -> bool:
        return self.step % self.train.save_every_steps == 0 or self.step == self.schedule.total_steps

    def _update(self, batches: Iterator[DeviceBatch]) -> StepResult:
        micro_batches = (next(batches) for _ in self.micro_batches)
        lr = self.schedule.lr_at(self.step + 1)
        result = train_step(self.state, micro_batches, self.train, step=self.step, lr=lr)
        self.step += 1
        return result

    def _device_batches(self, first_step: int) -> Generator[DeviceBatch]:
        """The run's micro-batches from `first_step` on, read ahead and put into pinned memory by a thread."""
        size = self.train.micro_batch_size
        slices = (
            (step, number * size, size)
            for step in range(first_step, self.schedule.total_steps)
            for number in self.micro_batches
        )
        with closing(prefetch(self.batches, slices, self._on_host)) as ready:
            while True:
                asked = time.perf_counter()
                batch = next(ready, None)
                self.data_wait_seconds += time.perf_counter() - asked
                if batch is None:
                    return
                yield DeviceBatch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))

    def _on_host(self, batch: MicroBatch) -> DeviceBatch:
        tensors = (torch.from_numpy(array) for array in batch)
        return DeviceBatch(*(tensor.pin_memory() if self.device.type == "cuda" else tensor for tensor in tensors))

    def _record(self, done: PendingStep, line: log.ProgressLine) -> None:
        """Wait for a step's metrics and write them; validate when that step is the latest and a validation is due."""
        step = done.step
        self.ranks.progress.enter(Activity.RECORD, self.step)
        (loss, accuracy, grad_norm, is_skipped, *requests), seconds = done.lap.read()
        self.agreed = self.agreed or agreed(requests, self.train.time_limit_minutes)
        skipped = self.guard.see(step, loss, is_skipped > 0)
        row: dict[str, Any] = {
            "step": step,
            "tokens": step * self.train.tokens_per_step,
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": grad_norm,
            "lr": self.schedule.lr_at(step),
            "tokens_per_second": round(self.train.tokens_per_step / seconds, 1),
            "data_wait_seconds": round(done.data_wait_seconds, 6),
        }
        if skipped:
            row["skipped"] = skipped
            write_event(self.run_dir, "skip", step=step, reason=skipped)
        if step == self.step and self._validates():
            found = self._validate(None if step == self.schedule.total_steps else self.train.validation_tokens)
            if found is not None:
                row["validation"] = found
                found = {name: value for name, value in found.items() if name != "by_kind"}
            self.last_validation = found
        if self.tasks is not None and step == self.step and self._evaluates():
            self.ranks.progress.enter(Activity.VALIDATION, self.step)
            with self.state.full_model() as model:
                if model is None:
                    log.warn(f"train.evaluate_tasks: no memory for the whole network; none measured after step {step}")
                else:
                    row["tasks"] = self.tasks.measure(model, self.tokenizer, self.ranks)
        self.metrics.write(row)
        line.update(step, _note(row, self.last_validation))
        self.guard.check(step)

    def _validate(self, max_tokens: int | None) -> dict[str, Any] | None:
        """Validation metrics, by source kind too; None when the split is empty."""
        if self.validation_shards.n_tokens < 2:
            return None
        self.ranks.progress.enter(Activity.VALIDATION, self.step)
        found = validate(
            self.state.batch_losses(), self.validation_shards, self.tokenizer, seq_len=self.train.seq_len,
            batch_size=self.train.micro_batch_size, max_tokens=max_tokens, ranks=self.ranks,
        )  # fmt: skip
        self.state.reshard()
        return found

    def resume(self) -> None:
        """Resume from the newest valid checkpoint, or else load the weights of `init_from`.

        Raises InputError when the checkpoint is another run's, RecipeError when those weights do not fit.
        """
        found = self.checkpoints.resume()
        if found is None:
            if self.train.init_from:
                self.ranks.on_rank_0(self._read_initial_weights)
                self.state.broadcast()
            write_event(
                self.run_dir,
                "start",
                step=0,
                reason="no checkpoint",
                ranks=self.ranks.size,
                threads=self.threads,
                layout=self.ranks.parallel.words(),
            )
        else:
            self.guard.quarantine = read_quarantine(found.quarantine, self.run_dir / "checkpoints")
            self._open_batches()
            self._resume_from(found, "resume", "started again")

    def _read_initial_weights(self) -> None:
        self.state.load_weights(load_initial_weights(self.config, self.tokenizer, self.train.init_from))

    def _resume_from(self, found: RunState, event: str, reason: str) -> None:
        self.step, self.last_validation = found.step, found.validation
        self.guard.load(found.guards)
        name = checkpoint_name(self.step)
        write_event(
            self.run_dir, event, step=self.step, reason=reason, checkpoint=name, ranks=self.ranks.size,
            threads=self.threads, layout=self.ranks.parallel.words(),
        )  # fmt: skip
        log.info(f"pretrain: resuming after step {self.step}, {self.run_dir / 'checkpoints' / name}")

    def finished(self) -> FinishedRun:
        """What the summary needs; every rank takes part in gathering the weights."""
        return FinishedRun(
            self.config, self.train, self.run_dir, self.device, self.ranks.size, self.step, self.train_shards,
            self.validation_shards, self.tokenizer.vocab_size, self.last_validation,
            skipped_steps=self.step - int(self.state.optimizer.updates.item()),
            weights_sha256=self.state.weights_sha256(),
        )  # fmt: skip


def _note(row: dict[str, Any], validation: dict[str, float] | None) -> str:
    words = f"loss {row['loss']:.3f}  {row['tokens_per_second']:,.0f} tokens/s"
    return words if validation is None else f"{words}  validation {validation['loss']:.3f}"
