"""Evaluation data kept out of training text: documents that share a run of 13 words with a test example go.

The index is built from evaluation sets as `evaluate --data-dir` has them: one folder a task, JSON Lines inside. Of each
example it holds the hash of every run of 13 normalised words (13 as in Brown et al. 2020, appendix C) of every text
field. A field of 8 to 12 words is held whole. An example whose fields are all shorter than 13 words is held as one text
too, its fields in their order. What is shorter still cannot be told from everyday speech and is not looked for.

Words are as in `word_hashes.plain_words`: case, punctuation and layout do not hide a copy. Languages written without
blanks are not covered.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllama import log
from tinyllama.cleaning.safety_features import MAX_WORD_BYTES
from tinyllama.document_files import paragraphs_in
from tinyllama.errors import InputError
from tinyllama.files import read_json, write_json
from tinyllama.hashing import BASE, MAX_BYTES, hash_words, plain_words, powers_of, word_bounds
from tinyllama.sources.read_inputs import JSON_SUFFIXES, read_lines

TASKS_FILE = "tasks.json"
RUN_WORDS, SHORT_WORDS = 13, 8
RUN_FILTER_BITS, SHORT_FILTER_BITS = 27, 22  # 16 MB, 7% full with five million hashes; 0.5 MB
_SECOND_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
_CHUNK_WORDS = MAX_BYTES // (MAX_WORD_BYTES + 2)
_RUN_BASE = 0xD6E8FEB86659FD93

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class ContaminationIndex:
    """Which runs of words belong to which task.

    `run_tasks[run_starts[k]:run_starts[k + 1]]` are the tasks of run k; `short_fields`, alike, the fields that begin with
    eight words k: (hash of the whole field, words of the field, task number).
    """

    tasks: tuple[str, ...]
    run_hashes: Hashes  # shape (runs,), sorted, each once
    run_starts: NDArray[np.int64]  # shape (runs + 1,)
    run_tasks: NDArray[np.uint16]
    short_hashes: Hashes  # of first 8 words: shape (beginnings,), sorted, each once
    short_starts: NDArray[np.int64]  # shape (beginnings + 1,)
    short_fields: NDArray[np.uint64]  # shape (short fields, 3)
    run_filter: NDArray[np.uint8]  # Bloom filters with two hashes: shapes (2**RUN_FILTER_BITS / 8,) and alike
    short_filter: NDArray[np.uint8]

    def tasks_of(self, text: str) -> dict[str, int]:
        """Tasks of which the text has something, with the number of runs and short fields shared."""
        counts = np.zeros(len(self.tasks), np.int64)
        for sums in _prefix_sums(plain_words(text)):
            _, runs = _known(runs_at(sums, RUN_WORDS), self.run_hashes, self.run_filter, RUN_FILTER_BITS)
            for task_numbers in self._run_tasks(self.run_starts[runs], self.run_starts[runs + 1]):
                counts += np.bincount(task_numbers, minlength=counts.size)
            beginnings = runs_at(sums, SHORT_WORDS)
            places, found = _known(beginnings, self.short_hashes, self.short_filter, SHORT_FILTER_BITS)
            for place, number in zip(places.tolist(), found.tolist(), strict=True):
                for whole, words, task in self.short_fields[self.short_starts[number] : self.short_starts[number + 1]]:
                    if place + words < sums.size and runs_at(sums, int(words))[place] == whole:
                        counts[task] += 1
        return {name: int(count) for name, count in zip(self.tasks, counts, strict=True) if count}

    def _run_tasks(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> Iterator[NDArray[np.uint16]]:
        """Tasks of `run_tasks[first:last]` of every pair: the first of each, then the second of those that have two ..."""
        while first.size:
            yield self.run_tasks[first]
            more = last - first > 1
            first, last = first[more] + 1, last[more]

    def save(self, folder: Path) -> None:
        """Write the index so that many processes can share one copy in memory."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        write_json(folder / TASKS_FILE, self.tasks)  # last: the sign that all is there

    @classmethod
    def load(cls, folder: Path) -> "ContaminationIndex":
        """Read what `save` wrote, mapped into memory."""
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
        return cls(tuple(read_json(folder / TASKS_FILE)), **arrays)


def clean_of_evaluation(text: str, index: ContaminationIndex, drops: str) -> tuple[str, dict[str, int], int]:
    """(text that stays, tasks with what is shared, paragraphs taken out).

    `drops`: `document` (nothing stays of a text that shares something) or `paragraph`. A copy that runs over several
    paragraphs is not found in any of them alone: then the whole text goes.
    """
    shared = index.tasks_of(text)
    if not shared:
        return text, {}, 0
    if drops == "paragraph":
        paragraphs = paragraphs_in(text)
        kept = [paragraph for paragraph in paragraphs if not index.tasks_of(paragraph)]
        rest = ("\n\n" if "\n\n" in text else "\n").join(kept)
        if rest.strip() and not index.tasks_of(rest):
            return rest, shared, len(paragraphs) - len(kept)
    return "", shared, 0


_ARRAYS = (
    "run_hashes", "run_starts", "run_tasks", "short_hashes", "short_starts", "short_fields", "run_filter", "short_filter",
)  # fmt: skip


def build_index(data_dir: Path) -> ContaminationIndex:
    """The index of every task under `data_dir`. Raises InputError when there is none, or a file is damaged."""
    if not data_dir.is_dir():
        raise InputError(
            f"{data_dir}: no such folder; clean.decontaminate takes a folder with one folder for each task"
        )
    folders = sorted(path for path in data_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    tasks = [folder for folder in folders if _files(folder)]
    if not tasks:
        raise InputError(f"{data_dir}: no task; give a folder with one folder for each task and *.jsonl.gz inside")
    runs, run_tasks, shorts = [], [], []
    with log.progress("index evaluation data", len(tasks)) as line:
        for number, folder in enumerate(tasks):
            of_task, short_of_task = _hashes_of_task(folder)
            runs.append(of_task)
            run_tasks.append(np.full(of_task.size, number, np.uint16))
            shorts.append(np.column_stack([short_of_task, np.full(len(short_of_task), number, np.uint64)]))
            line.update(number + 1)
    short = np.concatenate(shorts)
    run_hashes, run_starts, order = _grouped(np.concatenate(runs))
    short_hashes, short_starts, short_order = _grouped(short[:, 0])
    return ContaminationIndex(
        tasks=tuple(folder.name for folder in tasks),
        run_hashes=run_hashes,
        run_starts=run_starts,
        run_tasks=np.concatenate(run_tasks)[order],
        short_hashes=short_hashes,
        short_starts=short_starts,
        short_fields=np.ascontiguousarray(short[short_order, 1:]),
        run_filter=_filter_of(run_hashes, RUN_FILTER_BITS),
        short_filter=_filter_of(short_hashes, SHORT_FILTER_BITS),
    )


def _grouped(hashes: Hashes) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """(distinct hashes sorted, where each one's rows start, and the order of rows that makes it so)."""
    order = np.argsort(hashes, kind="stable")
    distinct, starts = np.unique(hashes[order], return_index=True)
    return distinct, np.append(starts, hashes.size), order


def _filter_of(hashes: Hashes, bits: int) -> NDArray[np.uint8]:
    """A Bloom filter: two bits of 2**bits for each hash."""
    there = np.zeros(1 << bits, bool)
    for mixed in (hashes, hashes * _SECOND_MIX):
        there[mixed >> np.uint64(64 - bits)] = True
    return np.packbits(there, bitorder="little")


def _may_be(hashes: Hashes, filter_bytes: NDArray[np.uint8], bits: int) -> NDArray[np.bool_]:
    heads = hashes >> np.uint64(64 - bits)
    masks = np.uint8(1) << (heads & np.uint64(7)).astype(np.uint8)
    return filter_bytes.take((heads >> np.uint64(3)).view(np.int64)) & masks != 0


def _known(
    hashes: Hashes, index: Hashes, filter_bytes: NDArray[np.uint8], bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(places, numbers): hashes[places] are index[numbers]; the filter spares most the search."""
    places = np.flatnonzero(_may_be(hashes, filter_bytes, bits))
    places = places[_may_be(hashes[places] * _SECOND_MIX, filter_bytes, bits)]
    if not places.size or not index.size:
        return places[:0], places[:0]
    numbers = np.minimum(np.searchsorted(index, hashes[places]), index.size - 1)
    real = index[numbers] == hashes[places]
    return places[real], numbers[real]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(JSON_SUFFIXES))


def _hashes_of_task(folder: Path) -> tuple[Hashes, NDArray[np.uint64]]:
    """Distinct hashes of runs, and (first eight, whole, words) of short fields."""
    lengths: dict[str, int] = {}
    runs, shorts = [np.zeros(0, np.uint64)], []

    def add(words: list[bytes]) -> None:
        for sums in _prefix_sums(words):
            if len(words) >= RUN_WORDS:
                runs.append(runs_at(sums, RUN_WORDS))
            elif len(words) >= SHORT_WORDS:
                shorts.append((runs_at(sums, SHORT_WORDS)[0], runs_at(sums, len(words))[0], len(words)))

    for path in _files(folder):
        for fields in _examples(path):
            for text in fields:
                if text not in lengths:  # passages come again, with another question
                    words = plain_words(text)
                    lengths[text] = len(words)
                    add(words)
            if max((lengths[text] for text in fields), default=RUN_WORDS) < RUN_WORDS:
                add([word for text in fields if lengths[text] > 1 for word in plain_words(text)])
    return np.unique(np.concatenate(runs)), np.unique(np.array(shorts, np.uint64).reshape(-1, 3), axis=0)


def _examples(path: Path) -> Iterator[list[str]]:
    """The texts of each example of a file."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield list(_texts(json.loads(line)))
        except (ValueError, RecursionError):
            raise InputError(f"{path}, line {number}: not JSON; evaluation data is one JSON object a line") from None


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a JSON value, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


_POWERS, _INVERSE_POWERS = powers_of(_RUN_BASE)
_MIX = np.uint64(BASE)


def _prefix_sums(words: list[bytes]) -> Iterator[Hashes]:
    """Running sums of word hash * base**place, of shape (words + 1,), for the words in pieces that overlap by a run."""
    for start in range(0, max(1, len(words) - RUN_WORDS + 1), _CHUNK_WORDS - RUN_WORDS + 1):
        piece = words[start : start + _CHUNK_WORDS]
        joined = b" ".join(piece)
        if len(joined) > MAX_BYTES - 2:
            joined = b" ".join([word[:MAX_WORD_BYTES] for word in piece])
        data = np.frombuffer(b" %b " % joined, np.uint8)
        hashes = hash_words(data, *word_bounds(data)) * _MIX
        sums = np.zeros(hashes.size + 1, np.uint64)
        np.cumsum((hashes ^ hashes >> np.uint64(32)) * _POWERS[: hashes.size], out=sums[1:])
        yield sums


def runs_at(sums: Hashes, words: int) -> Hashes:
    """The hash of the run of so many words from each place: shape (places,), empty for a shorter text."""
    if sums.size <= words:
        return sums[:0]
    raw = (sums[words:] - sums[:-words]) * _INVERSE_POWERS[: sums.size - words]
    return (raw ^ raw >> np.uint64(29)) * _MIX
