"""Micro-batches of training, computed from the step number alone; no loader state.

Shapes: B sequences of a micro-batch, T = seq_len.
"""

import queue
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tinyllama.errors import InputError, RecipeError
from tinyllama.shards.quarantine import Quarantined, RunOrder
from tinyllama.shards.shard_format import (
    map_shard,
    open_split,
    outside_vocabulary,
    read_shard_documents,
    verify_split,
)

Made = TypeVar("Made")
MAX_MAPPED_FILES = 64  # each map holds a file descriptor


class MicroBatch(NamedTuple):
    """Model input: targets are the inputs one token later; `sample_indices` number the run's samples from 0."""

    inputs: np.ndarray  # (B, T) int64
    targets: np.ndarray  # (B, T) int64
    sample_indices: np.ndarray  # (B,) int64


class TokenShards:
    """A split's token ids as one long sequence, memory-mapped file by file."""

    def __init__(self, split: Path) -> None:
        """Open a split folder and check headers and sizes. Raises InputError that names the file."""
        self.split = Path(split)
        self.index = open_split(self.split)
        self.n_tokens = self.index.tokens
        self._starts = [0, *accumulate(shard.tokens for shard in self.index.shards)]
        self._ids = lru_cache(MAX_MAPPED_FILES)(
            lambda number: map_shard(self.split, self.index.shards[number], self.index.vocab_size)
        )
        # For each document of the files that begin before a token `stop`: its first token (int64, ascending; a document
        # that continues in the next file has an entry there too), the number of its source kind, and the names of the kinds.
        self.documents = lru_cache(2)(self._documents)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Ids [start, stop) of the whole sequence, across files: shape (stop - start,), dtype of the files.

        Raises IndexError outside the sequence, InputError when an id is outside the vocabulary (a damaged file).
        """
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"tokens [{start}, {stop}) outside [0, {self.n_tokens})")
        found = []
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            first = self._starts[number]
            ids = self._ids(number)[start - first : stop - first]
            if ids.max() >= self.index.vocab_size:
                path = self.split / f"{self.index.shards[number].name}.bin"
                raise InputError(outside_vocabulary(path, int(ids.max()), self.index.vocab_size))
            found.append(ids)
            start += len(ids)
            number += 1
        return np.concatenate(found) if found else np.empty(0, np.dtype(self.index.dtype))

    def _documents(self, stop: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        starts, kinds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        names: dict[str, int] = {}
        for first, shard in zip(self._starts, self.index.shards, strict=False):
            if first >= stop:
                break
            table = read_shard_documents(self.split, shard)
            kind = table["kind"].combine_chunks().dictionary_encode()
            numbers = np.array([names.setdefault(name, len(names)) for name in kind.dictionary.to_pylist()], np.int64)
            starts.append(table["offset"].to_numpy() + first)
            kinds.append(numbers[kind.indices.to_numpy()])
        return np.concatenate(starts), np.concatenate(kinds), list(names)

    def n_windows(self, seq_len: int) -> int:
        """Number of windows of seq_len + 1 tokens; the tokens after the last full window are not read."""
        return self.n_tokens // (seq_len + 1)

    def verify(self) -> None:
        """Read all files and check their sha256 and ids. Raises InputError."""
        verify_split(self.split)


def window_at(index: int, seq_len: int, shards: TokenShards) -> np.ndarray:
    """Token ids of training window `index`: shape (seq_len + 1,), dtype of the shards.

    Windows tile the shards without gap or overlap.
    Raises IndexError past the last window.
    """
    if not 0 <= index < shards.n_windows(seq_len):
        raise IndexError(f"window {index} outside range({shards.n_windows(seq_len)})")
    start = index * (seq_len + 1)
    return shards.tokens(start, start + seq_len + 1)


class Batches:
    """The training batches of a run: a pure function of (shards, seq_len, sequences_per_step, seed, quarantine).

    Step s (from 0) trains on `sequences_per_step` samples from s * sequences_per_step on; ranks and micro-batches take
    slices of them, so the batch of a step is the same at every world size. `quarantine`: windows excluded by the run.
    """

    def __init__(
        self,
        shards: TokenShards,
        seq_len: int,
        sequences_per_step: int,
        seed: int,
        quarantine: Sequence[Quarantined] = (),
    ) -> None:
        """Raises RecipeError when the shards hold no window of seq_len + 1 tokens that is not quarantined."""
        windows = shards.n_windows(seq_len)
        quarantined = {window for entry in quarantine for window in entry.windows}
        if windows <= len(quarantined):
            raise RecipeError(
                f"train.seq_len = {seq_len}: {shards.split} holds {shards.n_tokens} tokens, "
                f"a window needs {seq_len + 1}"
                + (f" and {len(quarantined)} windows are quarantined" if quarantined else "")
                + "; lower train.seq_len or give more text"
            )
        self.shards = shards
        self.seq_len = seq_len
        self.sequences_per_step = sequences_per_step
        self.order = RunOrder(windows, seed, sequences_per_step, quarantine)

    @property
    def sequences_per_epoch(self) -> int:
        """Samples per epoch, which reads every window that is not excluded once."""
        return self.order.windows_per_epoch

    def windows(self, step: int, start: int, count: int) -> list[int]:
        """Window numbers of sequences [start, start + count) of a step, as a quarantine list has them."""
        if start < 0 or count < 0 or start + count > self.sequences_per_step:
            raise IndexError(f"sequences [{start}, {start + count}) outside the step's {self.sequences_per_step}")
        first = step * self.sequences_per_step + start
        return [self.order.window(first + i) for i in range(count)]

    def micro_batch(self, step: int, start: int, count: int) -> MicroBatch:
        """Sequences [start, start + count) of step `step`; their samples are step * sequences_per_step + start + i."""
        rows = [window_at(window, self.seq_len, self.shards) for window in self.windows(step, start, count)]
        ids = np.array(rows, dtype=np.int64).reshape(count, self.seq_len + 1)  # (B, T + 1)
        first = step * self.sequences_per_step + start
        samples = np.arange(first, first + count, dtype=np.int64)
        return MicroBatch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]), samples)


def prefetch(
    batches: Batches, slices: Iterable[tuple[int, int, int]], prepare: Callable[[MicroBatch], Made], ready: int = 2
) -> Generator[Made]:
    """Yield `prepare(micro-batch)` of each (step, start, count), in order; a thread computes up to `ready` in advance.

    An error in the thread is raised here, at its position in the order. Closing the iterator ends the thread.
    """
    waiting: queue.Queue[Made | BaseException | None] = queue.Queue(ready)
    closed = threading.Event()

    def put(item: Made | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read_ahead() -> None:
        try:
            for step, start, count in slices:
                if not put(prepare(batches.micro_batch(step, start, count))):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read_ahead, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
