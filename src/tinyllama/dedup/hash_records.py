"""Hashes of documents, paragraphs, lines and bands on disk, read back a range at a time: how memory stays bounded.

For each part of documents there is one file of records, sorted by key:

    key     the kind of hash in the upper 12 bits, the first 52 bits of the hash below
    check   64 more bits: records are of one group when both agree
    row     the document in its part;  place: the paragraph in the document

A range is an interval of one kind's keys. All copies of a thing are in the same range, whatever parts they are in, so each
range is worked on alone, and what comes of it is a file: the unit of memory and of resume. A file being sorted, a range of
it is a slice: all ranges together read every record once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyllama import document_files
from tinyllama.errors import InputError
from tinyllama.files import atomic_file, read_json, write_json

ID, TEXT, PARAGRAPH, LINE, BAND = 1, 2, 3, 4, 16
_HASH_BITS = 52
_FIELDS = [("key", "<u8"), ("check", "<u8"), ("row", "<u4"), ("place", "<u4")]
RECORD_BYTES = 24
# what a range needs while it is worked on: the records, their documents' numbers and order, and the order of a sort
WORKING_BYTES = 120
WORTH_SHARING = 1_000_000  # fewer records are sorted faster than a second worker starts
INDEX_FILE = "index.json"

Records = NDArray[np.void]
Numbers = NDArray[np.int64]


def records_of(
    kind: int, hashes: NDArray[np.uint64], checks: NDArray[np.uint64], rows: NDArray, places: NDArray | int = 0
) -> Records:
    """Records of one kind; all arrays of shape (records,)."""
    records = np.zeros(hashes.size, _FIELDS)
    records["key"] = (hashes >> np.uint64(64 - _HASH_BITS)) | np.uint64(kind << _HASH_BITS)
    records["check"], records["row"], records["place"] = checks, rows, places
    return records


def write_records(path: Path, records: Sequence[Records]) -> None:
    """One part's file, atomically."""
    joined = np.concatenate([np.zeros(0, _FIELDS), *records])
    write_array(path, joined[np.argsort(joined["key"], kind="stable")])


def write_array(path: Path, array: NDArray) -> None:
    """A `.npy` file, atomically."""
    with atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> NDArray:
    """A `.npy` file of ours, mapped: only what is looked at comes into memory."""
    try:
        size = path.stat().st_size
        return np.load(path, mmap_mode="r" if size > 1 << 16 else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not readable ({error}); remove its folder and clean again") from None


@dataclass(frozen=True)
class CorpusIndex:
    """Which parts there are and how documents are numbered: number = the part's first number + row."""

    names: list[str]
    starts: list[int]  # of each part its first number, and at the end how many documents there are

    @property
    def documents(self) -> int:
        return self.starts[-1]

    @classmethod
    def of(cls, folder: Path) -> "CorpusIndex":
        """By the footers of the parts in `folder`."""
        paths = document_files.document_paths(folder)
        counts = [document_files.row_count(path) for path in paths]
        return cls([path.stem for path in paths], [0, *np.cumsum(counts).tolist()])

    def save(self, work: Path) -> None:
        write_json(work / INDEX_FILE, {"names": self.names, "starts": self.starts})

    @classmethod
    def load(cls, work: Path) -> "CorpusIndex":
        return cls(**read_json(work / INDEX_FILE))


@dataclass(frozen=True)
class HashRange:
    """One interval of a kind's keys: the `part`th of `parts` equal ones."""

    part: int
    parts: int

    @property
    def name(self) -> str:
        return f"{self.part:05d}-of-{self.parts:05d}.npy"

    def bounds(self, kind: int) -> NDArray[np.uint64]:
        """First key, and the first one after it."""
        steps = [(1 << _HASH_BITS) * part // self.parts + (kind << _HASH_BITS) for part in (self.part, self.part + 1)]
        return np.array(steps, np.uint64)

    def read(self, folder: Path, index: CorpusIndex, kind: int) -> tuple[Records, Numbers]:
        """The range's records of all parts, and the numbers of their documents."""
        bounds = self.bounds(kind)
        found, numbers = [np.zeros(0, _FIELDS)], [np.zeros(0, np.int64)]
        for name, start in zip(index.names, index.starts, strict=False):
            records = read_array(folder / f"{name}.npy")
            first, last = np.searchsorted(records["key"], bounds)
            if last > first:
                found.append(np.array(records[first:last]))
                numbers.append(found[-1]["row"].astype(np.int64) + start)
        return np.concatenate(found), np.concatenate(numbers)


def group_starts(records: Records, order: Numbers) -> NDArray[np.bool_]:
    """For records in `order`, which sorts them by key and check: True for each one that begins a group."""
    starts = np.zeros(order.size, bool)
    starts[:1] = True
    for name in ("key", "check"):
        values = records[name][order]
        starts[1:] |= values[1:] != values[:-1]
    return starts


def ranges_of(records: int, memory_bytes: int, workers: int) -> list[HashRange]:
    """Ranges of `records` records so that each fits a worker's share of the memory; one for few records."""
    fitting = -(-records * WORKING_BYTES // max(memory_bytes // workers, 1))
    parts = max(1, fitting, workers if records > WORTH_SHARING else 1)
    return [HashRange(part, parts) for part in range(parts)]
