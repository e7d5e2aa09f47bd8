"""Removes training documents that share a 13-gram of words with evaluation data (Brown et al. 2020, appendix C).

The index is built from evaluation sets in the layout of `evaluate --data-dir`: one folder per task, with JSON Lines. It
holds the hash of every 13-gram of normalised words of every text field. A field of 8 to 12 words is indexed as a whole.
An example whose fields are all shorter than 13 words is also indexed as one text, its fields in order. Shorter texts
cannot be told from everyday language and are not indexed.

Words are those of `hashing.plain_words`: case, punctuation and layout do not hide a copy. Languages written without spaces
are not covered.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllama import log
from tinyllama.cleaning.safety_features import MAX_WORD_BYTES, numbers_between
from tinyllama.document_files import paragraphs_in
from tinyllama.errors import InputError
from tinyllama.files import read_json, write_json
from tinyllama.hashing import BASE, MAX_BYTES, hash_words, plain_words, powers_of, word_bounds
from tinyllama.sources.read_inputs import JSON_SUFFIXES, read_lines

TASKS_FILE = "tasks.json"
RUN_WORDS, SHORT_WORDS = 13, 8
RUN_FILTER_BITS, SHORT_FILTER_BITS = 27, 22  # 16 MB, 7% of the bits set with five million hashes; 0.5 MB
_SECOND_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
_CHUNK_WORDS = MAX_BYTES // (MAX_WORD_BYTES + 2)
_RUN_BASE = 0xD6E8FEB86659FD93

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ContaminationIndex:
    """Which runs of words (13-grams, short fields) belong to which task.

    `run_tasks[run_starts[k]:run_starts[k + 1]]` are the tasks of run k; `short_fields`, alike, the fields that begin with
    the eight words k: (hash of the whole field, words of the field, task number).
    """

    tasks: tuple[str, ...]
    run_hashes: Hashes  # shape (runs,), sorted, distinct
    run_starts: Numbers  # shape (runs + 1,)
    run_tasks: NDArray[np.uint16]
    short_hashes: Hashes  # of the first 8 words: shape (beginnings,), sorted, distinct
    short_starts: Numbers  # shape (beginnings + 1,)
    short_fields: NDArray[np.uint64]  # shape (short fields, 3)
    run_filter: NDArray[np.uint8]  # Bloom filters with two hashes: shapes (2**RUN_FILTER_BITS / 8,) and alike
    short_filter: NDArray[np.uint8]

    def tasks_of(self, text: str) -> dict[str, int]:
        """Tasks that share something with the text, and the number of shared runs and short fields."""
        counts = np.zeros(len(self.tasks), np.int64)
        for sums in _prefix_sums(plain_words(text)):
            _, runs = _known(runs_at(sums, RUN_WORDS), self.run_hashes, self.run_filter, RUN_FILTER_BITS)
            shared = numbers_between(self.run_starts[runs], self.run_starts[runs + 1])
            counts += np.bincount(self.run_tasks[shared], minlength=counts.size)
            beginnings = runs_at(sums, SHORT_WORDS)
            positions, found = _known(beginnings, self.short_hashes, self.short_filter, SHORT_FILTER_BITS)
            for position, number in zip(positions.tolist(), found.tolist(), strict=True):
                for whole, words, task in self.short_fields[self.short_starts[number] : self.short_starts[number + 1]]:
                    if position + words < sums.size and runs_at(sums, int(words))[position] == whole:
                        counts[task] += 1
        return {name: int(count) for name, count in zip(self.tasks, counts, strict=True) if count}

    def save(self, folder: Path) -> None:
        """Write the index as files that many processes can map."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        write_json(folder / TASKS_FILE, self.tasks)  # last: its presence means that the index is complete

    @classmethod
    def load(cls, folder: Path) -> "ContaminationIndex":
        """Memory-map what `save` wrote."""
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
        return cls(tuple(read_json(folder / TASKS_FILE)), **arrays)


def remove_evaluation_data(text: str, index: ContaminationIndex, drops: str) -> tuple[str, dict[str, int], int]:
    """(text that is kept, tasks with the number of shared items, paragraphs removed).

    `drops`: `document` (nothing is kept of a text that shares something) or `paragraph`. When a copy runs over several
    paragraphs, it is in none of them alone: then nothing is kept either.
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
    """Index all tasks under `data_dir`. Raises InputError when there is none, or a file is damaged."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; clean.decontaminate takes a folder with one folder per task")
    folders = sorted(path for path in data_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    tasks = [folder for folder in folders if _files(folder)]
    if not tasks:
        raise InputError(f"{data_dir}: no task; give a folder with one folder per task and *.jsonl.gz inside")
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


def _grouped(hashes: Hashes) -> tuple[Hashes, Numbers, Numbers]:
    """(sorted distinct hashes, where each one's rows start, the order that sorts the rows)."""
    order = np.argsort(hashes, kind="stable")
    distinct, starts = np.unique(hashes[order], return_index=True)
    return distinct, np.append(starts, hashes.size), order


def _filter_of(hashes: Hashes, bits: int) -> NDArray[np.uint8]:
    """A Bloom filter: two bits of 2**bits for each hash."""
    is_set = np.zeros(1 << bits, bool)
    for mixed in (hashes, hashes * _SECOND_MIX):
        is_set[mixed >> np.uint64(64 - bits)] = True
    return np.packbits(is_set, bitorder="little")


def _may_be(hashes: Hashes, filter_bytes: NDArray[np.uint8], bits: int) -> NDArray[np.bool_]:
    heads = hashes >> np.uint64(64 - bits)
    masks = np.uint8(1) << (heads & np.uint64(7)).astype(np.uint8)
    return filter_bytes.take((heads >> np.uint64(3)).view(np.int64)) & masks != 0


def _known(hashes: Hashes, index: Hashes, filter_bytes: NDArray[np.uint8], bits: int) -> tuple[Numbers, Numbers]:
    """(positions, numbers): hashes[positions] are index[numbers]. Most hashes are not searched, thanks to the filter."""
    positions = np.flatnonzero(_may_be(hashes, filter_bytes, bits))
    positions = positions[_may_be(hashes[positions] * _SECOND_MIX, filter_bytes, bits)]
    if not positions.size or not index.size:
        return positions[:0], positions[:0]
    numbers = np.minimum(np.searchsorted(index, hashes[positions]), index.size - 1)
    equal = index[numbers] == hashes[positions]
    return positions[equal], numbers[equal]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(JSON_SUFFIXES))


def _hashes_of_task(folder: Path) -> tuple[Hashes, NDArray[np.uint64]]:
    """Distinct hashes of runs, and (hash of the first eight words, of all words, words) of short fields."""
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
                if text not in lengths:  # several questions share a passage
                    words = plain_words(text)
                    lengths[text] = len(words)
                    add(words)
            if max((lengths[text] for text in fields), default=RUN_WORDS) < RUN_WORDS:
                add([word for text in fields if lengths[text] > 1 for word in plain_words(text)])
    return np.unique(np.concatenate(runs)), np.unique(np.array(shorts, np.uint64).reshape(-1, 3), axis=0)


def _examples(path: Path) -> Iterator[list[str]]:
    """The texts of each example in a file."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield list(_texts(json.loads(line)))
        except (ValueError, RecursionError):
            raise InputError(f"{path}, line {number}: not JSON; evaluation data is one JSON object per line") from None


def _texts(value: Any) -> Iterator[str]:
    """All strings inside a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


_POWERS, _INVERSE_POWERS = powers_of(_RUN_BASE)
_MIX = np.uint64(BASE)


def _prefix_sums(words: list[bytes]) -> Iterator[Hashes]:
    """Prefix sums of word hash * base**position, of shape (words + 1,), for chunks of words that overlap by a run."""
    for start in range(0, max(1, len(words) - RUN_WORDS + 1), _CHUNK_WORDS - RUN_WORDS + 1):
        chunk = words[start : start + _CHUNK_WORDS]
        joined = b" ".join(chunk)
        if len(joined) > MAX_BYTES - 2:
            joined = b" ".join([word[:MAX_WORD_BYTES] for word in chunk])
        data = np.frombuffer(b" %b " % joined, np.uint8)
        hashes = hash_words(data, *word_bounds(data)) * _MIX
        sums = np.zeros(hashes.size + 1, np.uint64)
        np.cumsum((hashes ^ hashes >> np.uint64(32)) * _POWERS[: hashes.size], out=sums[1:])
        yield sums


def runs_at(sums: Hashes, words: int) -> Hashes:
    """Hash of the run of `words` words from each position: shape (positions,), empty for a shorter text."""
    if sums.size <= words:
        return sums[:0]
    raw = (sums[words:] - sums[:-words]) * _INVERSE_POWERS[: sums.size - words]
    return (raw ^ raw >> np.uint64(29)) * _MIX
