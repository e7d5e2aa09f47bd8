"""Times training steps on random tokens and measures their memory."""

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from tinyllama import log
from tinyllama.bench.bench_options import WARM_UP_STEPS, Workload
from tinyllama.bench.ceilings import attempt
from tinyllama.bench.kernel_trace import profile_steps
from tinyllama.train.gradients import Gradients
from tinyllama.train.metrics import peak_memory_bytes
from tinyllama.train.step_clock import StepClock, StepTiming, gc_paused
from tinyllama.train.train_config import BatchConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import DeviceBatch, StepResult, train_step

PROFILED_STEPS = 2
LR = 1e-4


def measure_training(work: Workload, device: torch.device, with_profile: bool) -> dict[str, Any]:
    """Time training steps on the device.

    Every step has the same random tokens, so that the loss falls when updates are right.
    """
    train = work.train
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    state = TrainState(work.model, train, device)
    fill_random(state.model, train.seed)
    state.network.refresh()
    micro_batches = random_batches(work.model.vocab_size, train, device)
    update = partial(train_step, state, micro_batches, train, lr=LR)

    compiling = " and compilation" if state.is_compiled else ""
    log.info(f"bench: {state.describe(train)}")
    log.info(f"bench: first step{compiling}")
    with gradient_bytes(state.gradients) as gradients_seen:
        started = time.perf_counter()
        first_loss = update(step=0).loss.item()  # waits for the device
        first_step_seconds = time.perf_counter() - started
    log.info(f"bench: {WARM_UP_STEPS - 1} more warm-up steps, then {work.timed_steps} timed steps")
    with gc_paused():
        rows = timed_steps(update, range(1, train.steps), device)[WARM_UP_STEPS - 1 :]
    seconds = [row[1] for row in rows]
    result = {
        "uses": state.describe(train),
        "tokens_per_second": round(train.tokens_per_step / statistics.median(seconds), 1),
        "step_ms": round(statistics.median(seconds) * 1000, 3),
        "step_ms_min": round(min(seconds) * 1000, 3),
        "step_ms_max": round(max(seconds) * 1000, 3),
        "first_step_seconds": round(first_step_seconds, 3),
        "loss_first": finite(first_loss),
        "loss_last": finite(rows[-1][0][0]),
        "timed_steps_called_off": sum(int(row[0][1]) for row in rows),
        "peak_memory_bytes": peak_memory_bytes(device),
        "memory": memory_parts(state, max(gradients_seen, default=0), peak_memory_bytes(device)),
    }
    profiled: dict[str, Any] | None = None
    if with_profile:
        log.info(f"bench: profiling {PROFILED_STEPS} steps")
        run_step = partial(update, step=train.steps)
        profiled = attempt("the profile", lambda: profile_steps(run_step, PROFILED_STEPS, device))
    return result | (profiled or dict.fromkeys(("kernel_classes", "top_kernels", "profiled_step_ms")))


def timed_steps(update: "partial[StepResult]", steps: range, device: torch.device) -> list[tuple[list[float], float]]:
    """[loss, whether it was skipped] and seconds of each step; a step's values are read while the next step runs."""
    rows: list[tuple[list[float], float]] = []
    pending: StepTiming | None = None
    clock = StepClock(device)
    for step in steps:
        result = update(step=step)
        lap = clock.lap([result.loss, result.is_skipped])
        if pending is not None:
            rows.append(pending.read())
        pending = lap
    assert pending is not None
    return [*rows, pending.read()]


def random_batches(vocab_size: int, train: BatchConfig, device: torch.device) -> list[DeviceBatch]:
    """One step's micro-batches: ids drawn evenly, (B, T) each, the same for the same seed on one kind of device."""
    generator = torch.Generator(device).manual_seed(train.seed)
    batches: list[DeviceBatch] = []
    B = train.micro_batch_size
    for number in range(train.micro_batches_per_step):
        windows = torch.randint(vocab_size, (B, train.seq_len + 1), device=device, generator=generator)
        samples = torch.arange(number * B, (number + 1) * B, device=device)
        batches.append(DeviceBatch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), samples))
    return batches


@torch.no_grad()
def fill_random(model: nn.Module, seed: int) -> None:
    """Norms 1, matrices normal with variance 2 / (5 fan_in), drawn on the device: fast, but not equal across devices."""
    generator: torch.Generator | None = None
    for parameter in model.parameters():
        generator = generator or torch.Generator(parameter.device).manual_seed(seed)
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, math.sqrt(2 / 5 / parameter.shape[1]), generator=generator)


def memory_parts(state: TrainState, gradients: int, peak: int) -> dict[str, int]:
    """Bytes by category, and the rest of the peak. On a CPU the peak is that of the whole process."""
    packed = state.network.packed
    parts = {
        "weights": sum(parameter.master.nbytes for parameter in packed),
        "copies_16bit": sum(parameter.copy.nbytes for parameter in packed if parameter.copy is not None),
        "moments": sum(moment.nbytes for moment in state.optimizer.moments().values()),
        "gradients": gradients,
    }
    return {**parts, "activations_and_rest": peak - sum(parts.values()), "peak": peak}


@contextmanager
def gradient_bytes(gradients: Gradients) -> Iterator[list[int]]:
    """A list to which the bytes of the accumulated gradients are appended whenever an update clears them."""
    seen: list[int] = []

    def clear() -> None:
        seen.append(sum(total.nbytes for total in gradients.all()))
        Gradients.clear(gradients)

    vars(gradients)["clear"] = clear
    try:
        yield seen
    finally:
        del vars(gradients)["clear"]


def finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
