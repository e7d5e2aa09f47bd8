"""On-disk records of document, paragraph, line and band hashes, read by hash range so that memory stays bounded.

Each file of documents has one file of records, sorted by key:

    key        kind of hash in the upper 12 bits, first 52 bits of the hash below
    check      64 more bits of the hash: records are equal when key and check agree
    row        row of the document in its file
    paragraph  number of the paragraph in the document

A hash range is an interval of one kind's keys. All copies of an item are in the same range, whatever files they are in, so
ranges are independent tasks, each with one output file. Because the files are sorted, a range is one slice of each, and all
ranges together read every record once.
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
_FIELDS = [("key", "<u8"), ("check", "<u8"), ("row", "<u4"), ("paragraph", "<u4")]
RECORD_BYTES = 24
WORKING_BYTES = 120  # per record of a range: the record, its document's number and keep order, and a sort order
WORTH_SHARING = 1_000_000  # fewer records are sorted faster than a second worker starts
INDEX_FILE = "index.json"

Records = NDArray[np.void]
Numbers = NDArray[np.int64]


def records_of(
    kind: int, hashes: NDArray[np.uint64], checks: NDArray[np.uint64], rows: NDArray, paragraphs: NDArray | int = 0
) -> Records:
    """Records of one kind; all arrays of shape (records,)."""
    records = np.zeros(hashes.size, _FIELDS)
    records["key"] = (hashes >> np.uint64(64 - _HASH_BITS)) | np.uint64(kind << _HASH_BITS)
    records["check"], records["row"], records["paragraph"] = checks, rows, paragraphs
    return records


def write_records(path: Path, records: Sequence[Records]) -> None:
    """Write one file of records, sorted by key, atomically."""
    joined = np.concatenate([np.zeros(0, _FIELDS), *records])
    write_array(path, joined[np.argsort(joined["key"], kind="stable")])


def write_array(path: Path, array: NDArray) -> None:
    """Write a `.npy` file atomically."""
    with atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> NDArray:
    """Read a `.npy` file; a larger one is memory-mapped."""
    try:
        is_large = path.stat().st_size > 1 << 16
        return np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not readable ({error}); remove its folder and clean again") from None


@dataclass(frozen=True)
class CorpusIndex:
    """Names of the document files, and how documents are numbered: number = first number of the file + row."""

    names: list[str]
    starts: list[int]  # first number of each file, then the number of all documents

    @property
    def documents(self) -> int:
        return self.starts[-1]

    @classmethod
    def of(cls, folder: Path) -> "CorpusIndex":
        """Index the document files in `folder` by their footers."""
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
    """Interval `number` of `count` equal intervals of a kind's keys."""

    number: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.number:05d}-of-{self.count:05d}.npy"

    def bounds(self, kind: int) -> NDArray[np.uint64]:
        """First key, and first key after the range."""
        ends = (self.number, self.number + 1)
        return np.array([(1 << _HASH_BITS) * end // self.count + (kind << _HASH_BITS) for end in ends], np.uint64)

    def read(self, folder: Path, index: CorpusIndex, kind: int) -> tuple[Records, Numbers]:
        """The range's records from all files, and the numbers of their documents."""
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
    """True for each record that starts a group of equal ones. `order` sorts the records by key and check."""
    starts = np.zeros(order.size, bool)
    starts[:1] = True
    for name in ("key", "check"):
        values = records[name][order]
        starts[1:] |= values[1:] != values[:-1]
    return starts


def ranges_of(records: int, memory_bytes: int, workers: int) -> list[HashRange]:
    """Ranges small enough that each worker's fits into its share of the memory; one range for few records."""
    fitting = -(-records * WORKING_BYTES // max(memory_bytes // workers, 1))
    count = max(1, fitting, workers if records > WORTH_SHARING else 1)
    return [HashRange(number, count) for number in range(count)]
