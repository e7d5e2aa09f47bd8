"""Duplicates over a whole corpus, a hash range at a time: documents with one id, with one text, near-duplicates, paragraphs.

Of a group the longest text stays; among equally long ones the one with the least hash of id and text. So which one stays
depends on the documents, never on their order. What is known of all documents is small and on disk, mapped when used:

    work/index.json              the document files and the numbers of their documents
    work/keep_order.npy          8 bytes a document: the less, the sooner it stays
    work/id_hashes.npy           8 bytes a document: hash of its id, the name of a cluster that it stays for
    work/drop_codes-<step>.npy   1 byte a document: 0 it is still there; else why not, see `DROP_REASONS`

Each step is a list of tasks (see `worker_pool`); a task's file is there only when it is whole, and is not made again.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinyllama.dedup import hash_records, minhash
from tinyllama.dedup.components import Edges, components_in_memory
from tinyllama.dedup.dedup_config import DedupConfig
from tinyllama.dedup.hash_records import CorpusIndex, HashRange, Records, read_array, write_array
from tinyllama.document_files import paragraphs_in
from tinyllama.workers.worker_process import Progress

DROP_REASONS = ("", "judged", "duplicate_id", "exact_duplicate", "near_duplicate")
KEYS, KEEP_ORDER, ID_HASHES = "keys", "keep_order.npy", "id_hashes.npy"
_MOST_CHARS = (1 << 24) - 1

Numbers = NDArray[np.int64]


def keep_order(chars: NDArray[np.int64], id_hashes: NDArray[np.uint64], text_hashes: NDArray[np.uint64]) -> NDArray:
    """Of each document a number that is less for a longer text: uint64, shape (documents,)."""
    length = (_MOST_CHARS - np.minimum(chars, _MOST_CHARS)).astype(np.uint64) << np.uint64(40)
    mixed = (id_hashes * np.uint64(0x9E3779B97F4A7C15) ^ text_hashes) * np.uint64(0xC2B2AE3D27D4EB4F)
    return length | mixed >> np.uint64(24)


def with_keys(table: pa.Table, config: DedupConfig) -> tuple[pa.Table, list[Records]]:
    """A filtered file with the columns `keep_order` and `id_hash`, and the records of its documents that have no reason."""
    ids = np.array([minhash.hash_pair(identity) for identity in table.column("id").to_pylist()], np.uint64).reshape(
        -1, 2
    )
    rows = np.flatnonzero([not reason for reason in table.column("reason").to_pylist()])
    texts = table.column("text").take(pa.array(rows)).to_pylist()
    same = np.array([minhash.hash_pair(minhash.normalise_text(text)) for text in texts], np.uint64).reshape(-1, 2)
    records = [
        hash_records.records_of(hash_records.ID, ids[rows, 0], ids[rows, 1], rows),
        hash_records.records_of(hash_records.TEXT, same[:, 0], same[:, 1], rows),
    ]
    if config.near_duplicates:
        records += _band_records(texts, rows, config)
    if config.duplicate_paragraphs:
        records.append(_paragraph_records(texts, rows, config.min_paragraph_chars))
    positions = np.zeros(len(table), np.uint64)
    chars = table.column("text_chars").to_numpy()
    positions[rows] = keep_order(chars[rows], ids[rows, 0], same[:, 0])
    table = table.append_column("keep_order", pa.array(positions))
    return table.append_column("id_hash", pa.array(ids[:, 0])), records


def _band_records(texts: list[str], rows: Numbers, config: DedupConfig) -> list[Records]:
    """One record a band of each text that has words."""
    hashes, checks, some = minhash.bands_of(
        texts, config.minhash_bands, config.minhash_rows, config.minhash_ngram_words
    )
    return [
        hash_records.records_of(hash_records.BAND + band, hashes[:, band], checks[:, band], rows[some])
        for band in range(config.minhash_bands)
    ]


def _paragraph_records(texts: list[str], rows: Numbers, min_chars: int) -> Records:
    """One record for each paragraph with so many characters; `place` is its number in `paragraphs_in`."""
    found = [
        (*minhash.hash_pair(minhash.normalise_text(paragraph)), row, place)
        for text, row in zip(texts, rows.tolist(), strict=True)
        for place, paragraph in enumerate(paragraphs_in(text))
        if len(paragraph) >= min_chars
    ]
    columns = np.array(found, np.uint64).reshape(-1, 4)
    return hash_records.records_of(hash_records.PARAGRAPH, columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])


class Corpus:
    """What is known of all documents, as it lies in `work`."""

    def __init__(self, work: Path, drop_codes: str) -> None:
        self.work, self.index = work, CorpusIndex.load(work)
        self.keep_order = read_array(work / KEEP_ORDER)
        self.drop_codes = read_array(work / f"drop_codes-{drop_codes}.npy")

    def alive(self, span: HashRange, kind: int) -> tuple[Records, Numbers]:
        """A range's records of the documents that are still there."""
        records, numbers = span.read(self.work / KEYS, self.index, kind)
        there = self.drop_codes[numbers] == 0
        return records[there], numbers[there]

    def grouped(self, records: Records, numbers: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
        """An order that puts groups together, the best document first, and where in it each group starts."""
        order = np.lexsort((records["place"], numbers, self.keep_order[numbers], records["check"], records["key"]))
        return order, hash_records.group_starts(records, order)


def copies_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: the documents of a range that are copies of a better one. `work`, `drop_codes`, `kind`, `range`, `out`."""
    corpus = Corpus(Path(task["work"]), task["drop_codes"])
    records, numbers = corpus.alive(HashRange(*task["range"]), task["kind"])
    order, starts = corpus.grouped(records, numbers)
    copies = np.sort(numbers[order[~starts]])
    write_array(Path(task["out"]), copies)
    return {"copies": int(copies.size)}


def paragraphs_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: the paragraphs of a range that stand in a better document, or earlier in the same: (document, paragraph),
    sorted. The same keys as `copies_task`."""
    corpus = Corpus(Path(task["work"]), task["drop_codes"])
    records, numbers = corpus.alive(HashRange(*task["range"]), hash_records.PARAGRAPH)
    order, starts = corpus.grouped(records, numbers)
    copies = order[~starts]
    pairs = np.stack([numbers[copies], records["place"][copies].astype(np.int64)], axis=1)
    write_array(Path(task["out"]), pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
    return {"copies": len(pairs)}


def edges_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: pairs of documents that agree in a band, each with the first document of its bucket. `bands`: how many."""
    corpus = Corpus(Path(task["work"]), task["drop_codes"])
    found = [np.zeros((0, 2), np.int64)]
    for band in range(task["bands"]):
        records, numbers = corpus.alive(HashRange(*task["range"]), hash_records.BAND + band)
        order = np.lexsort((numbers, records["check"], records["key"]))
        starts = hash_records.group_starts(records, order)
        first = numbers[order[starts]][np.cumsum(starts) - 1]
        pairs = np.stack([first[~starts], numbers[order[~starts]]], axis=1)
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
    edges = np.unique(np.concatenate(found), axis=0)
    write_array(Path(task["out"]), edges)
    return {"edges": len(edges)}


def memory_components_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: (least document of the component, document) of all edges in `inputs`; `out`: a file."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *map(read_array, map(Path, task["inputs"]))])
    found = components_in_memory(edges)
    found = found[found[:, 0] != found[:, 1]]
    write_array(Path(task["out"]), found[:, ::-1])
    return {"documents": len(found)}


def clusters_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: (document, document that stays, size of the cluster) of all documents in clusters, sorted.

    `inputs`: files of pairs; of those with the root first and the lesser, whole clusters. `work`, `drop_codes`, `out`.
    """
    corpus = Corpus(Path(task["work"]), task["drop_codes"])
    pairs: Edges = np.concatenate([np.zeros((0, 2), np.int64), *map(read_array, map(Path, task["inputs"]))])
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    roots = np.unique(pairs[:, 0])
    pairs = np.concatenate([pairs, np.stack([roots, roots], axis=1)])
    order = np.lexsort((pairs[:, 1], corpus.keep_order[pairs[:, 1]], pairs[:, 0]))
    pairs = pairs[order]
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    sizes = np.diff(np.append(starts, len(pairs)))
    rows = np.stack([pairs[:, 1], np.repeat(pairs[starts, 1], sizes), np.repeat(sizes, sizes)], axis=1)
    write_array(Path(task["out"]), rows[np.argsort(rows[:, 0])])
    return {"clusters": len(roots), "documents": len(rows)}


def rows_of(folder: Path, first: int, last: int) -> NDArray[np.int64]:
    """The rows of all arrays in `folder`, sorted by their first column, whose first column is in [first, last)."""
    found = []
    for path in sorted(folder.glob("*.npy")):
        array = read_array(path)
        start, end = np.searchsorted(array[:, 0], [first, last])
        found.append(np.array(array[start:end]))
    rows = np.concatenate(found) if found else np.zeros((0, 3), np.int64)
    return rows[np.argsort(rows[:, 0], kind="stable")]
