"""Saves a run's state during training: training waits for a copy in host memory, a thread writes it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor

from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.checkpoint.retention import Retention, remove_others
from tinyllama.checkpoint.save_load import write_checkpoint

Named = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written."""

    path: Path
    step: int
    stall_seconds: float  # training waited: for the save before this one, and for the copy
    write_seconds: float  # of the thread: write, hash, sync, rename
    n_bytes: int


class HostCopy:
    """Copies of tensors in host memory, which is used again by the next copy of the same tensors.

    For tensors on a GPU the memory is pinned and the host does not wait: the copy is in the device's queue, before the
    update that changes the tensors.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._preparing: Thread | None = None
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._seconds = 0.0

    def prepare(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Allocate memory for copies of the tensors in a thread: pinning 13 GB takes about 12 seconds."""
        assert self._preparing is None
        self._preparing = Thread(target=self._allocate_all, args=(tensors,), name="memory for saves", daemon=True)
        self._preparing.start()

    def _allocate_all(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        try:
            self._held = {name: self._allocate(name, value) for name, value in tensors}
        except RuntimeError:  # no memory: `take` tries again, and its error is handled by training
            return

    def take(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Copies under the same names, complete after `seconds()`. 64-bit values become fp32.

        Each tensor is requested when the one before it is copied, or its copy is in the device's queue.
        """
        started = time.perf_counter()
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None
        self._events = None
        copies: dict[str, Tensor] = {}
        for name, value in tensors:
            if value.is_cuda and self._events is None:
                self._events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                self._events[0].record()
            copies[name] = self._allocate(name, value)
            copies[name].copy_(value.detach(), non_blocking=value.is_cuda)
        if self._events is not None:
            self._events[1].record()
        self._held = copies
        self._seconds = time.perf_counter() - started
        return copies

    def _allocate(self, name: str, value: Tensor) -> Tensor:
        dtype = torch.float32 if value.dtype == torch.float64 else value.dtype
        held = self._held.get(name)
        if held is not None and held.shape == value.shape and held.dtype == dtype:
            return held
        return torch.empty(value.shape, dtype=dtype, pin_memory=value.is_cuda)

    def seconds(self) -> float:
        """How long training waited for the last copy, on the device or else on the host; waits until it is complete."""
        if self._events is None:
            return self._seconds
        self._events[1].synchronize()
        return max(self._seconds, self._events[0].elapsed_time(self._events[1]) / 1000)


class AsyncSaver:
    """Writes checkpoints of one run into `folder`, one at a time.

    `before_commit` runs in the thread before the checkpoint gets its name, to write what must be on disk first.
    `on_saved` runs in the thread afterwards. An error of the thread is raised by the next `save` or `wait`.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        before_commit: Callable[[], None] | None = None,
        on_saved: Callable[[Saved], None] | None = None,
    ) -> None:
        self.folder, self.retention = folder, retention
        self._before_commit, self._on_saved = before_commit, on_saved
        self._copy = HostCopy()
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_writing(self) -> bool:
        """Whether the thread is writing."""
        return self._thread is not None and self._thread.is_alive()

    def prepare(self, weights: Named, moments: Named) -> None:
        """Allocate memory for `save` in a thread, so that the first save is as fast as the others."""
        self._copy.prepare(_flat({form.WEIGHTS: weights, form.OPTIMIZER: moments}))

    def save(self, weights: Named, moments: Named, state: RunState, tokenizer_files: list[Path]) -> None:
        """Copy the tensors and write `folder`/step_NNNNNNNN in the thread; waits for the save before this one.

        `moments`: the optimizer's tensors under `MOMENT.PARAMETER NAME`.
        """
        started = time.perf_counter()
        self.wait()
        waited_seconds = time.perf_counter() - started
        copies = self._copy.take(_flat({form.WEIGHTS: weights, form.OPTIMIZER: moments}))
        tensors: dict[str, dict[str, Tensor]] = {}
        for path, value in copies.items():
            file, name = path.split("/", 1)
            tensors.setdefault(file, {})[name] = value
        arguments = (tensors, state, tokenizer_files, waited_seconds)
        self._thread = Thread(target=self._work, args=arguments, name="save", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last `save` is on disk. Raises its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(
        self,
        tensors: dict[str, dict[str, Tensor]],
        state: RunState,
        tokenizer_files: list[Path],
        waited_seconds: float,
    ) -> None:
        try:
            stall_seconds = waited_seconds + self._copy.seconds()
            started = time.perf_counter()
            path = write_checkpoint(self.folder, tensors, state, tokenizer_files, self._before_commit)
            n_bytes = sum(file.stat().st_size for file in path.iterdir())
            saved = Saved(path, state.step, stall_seconds, time.perf_counter() - started, n_bytes)
            if self._on_saved is not None:
                self._on_saved(saved)
            remove_others(self.folder, self.retention)
        except BaseException as error:  # raised by the next `save` or `wait`
            self._error = error


def _flat(groups: dict[str, Named]) -> Named:
    """All tensors of all files, named FILE/NAME."""
    for file, group in groups.items():
        for name, tensor in group:
            yield f"{file}/{name}", tensor
