"""Deduplication tasks, each on one hash range: equal ids, equal texts, near-duplicates, repeated paragraphs.

Of a group the longest text is kept; among equally long ones, the one with the smallest hash of id and text. So the choice
depends on the documents, never on their order. The data of all documents is on disk and memory-mapped:

    work/index.json              names of the document files and the numbers of their documents
    work/keep_order.npy          8 bytes per document: of a group, the smallest is kept
    work/id_hashes.npy           8 bytes per document: hash of its id, which names the cluster that it represents
    work/drop_codes-<step>.npy   1 byte per document: 0 if it is kept so far, else an index into `DROP_REASONS`

A task's output file exists only when it is complete, and is not written again by a resumed run.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinyllama.dedup import hash_records, minhash
from tinyllama.dedup.components import components_in_memory, read_edges
from tinyllama.dedup.dedup_config import DedupConfig
from tinyllama.dedup.hash_records import CorpusIndex, HashRange, Numbers, Records, read_array, write_array
from tinyllama.document_files import paragraphs_in
from tinyllama.workers.worker_process import Progress

FILTERED, KEYS, CLUSTERS, PARAGRAPHS = "filtered", "keys", "clusters", "paragraphs"  # folders in `work`
KEEP_ORDER, ID_HASHES = "keep_order.npy", "id_hashes.npy"
DROP_REASONS = ("", FILTERED, "duplicate_id", "exact_duplicate", "near_duplicate")
_MAX_CHARS = (1 << 24) - 1


def keep_order(chars: Numbers, id_hashes: NDArray[np.uint64], text_hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for each document that is smaller for a longer text: shape (documents,)."""
    length = (_MAX_CHARS - np.minimum(chars, _MAX_CHARS)).astype(np.uint64) << np.uint64(40)
    mixed = (id_hashes * np.uint64(0x9E3779B97F4A7C15) ^ text_hashes) * np.uint64(0xC2B2AE3D27D4EB4F)
    return length | mixed >> np.uint64(24)


def with_keys(table: pa.Table, config: DedupConfig) -> tuple[pa.Table, list[Records]]:
    """Add the columns `keep_order` and `id_hash` to filtered documents; also return the hash records of the kept ones."""
    ids = _hash_pairs(table.column("id").to_pylist())
    rows = np.flatnonzero([not reason for reason in table.column("reason").to_pylist()])
    texts = table.column("text").take(pa.array(rows)).to_pylist()
    same = _hash_pairs(map(minhash.normalise_text, texts))
    records = [
        hash_records.records_of(hash_records.ID, ids[rows, 0], ids[rows, 1], rows),
        hash_records.records_of(hash_records.TEXT, same[:, 0], same[:, 1], rows),
    ]
    if config.near_duplicates:
        records += _band_records(texts, rows, config)
    if config.duplicate_paragraphs:
        records.append(_paragraph_records(texts, rows, config.min_paragraph_chars))
    order = np.zeros(len(table), np.uint64)
    order[rows] = keep_order(table.column("text_chars").to_numpy()[rows], ids[rows, 0], same[:, 0])
    table = table.append_column("keep_order", pa.array(order))
    return table.append_column("id_hash", pa.array(ids[:, 0])), records


def _hash_pairs(texts: Iterable[str]) -> NDArray[np.uint64]:
    return np.array([minhash.hash_pair(text) for text in texts], np.uint64).reshape(-1, 2)


def _band_records(texts: list[str], rows: Numbers, config: DedupConfig) -> list[Records]:
    """One record per band of each text that has words."""
    bands = config.minhash_bands
    hashes, checks, some = minhash.bands_of(texts, bands, config.minhash_rows, config.minhash_ngram_words)
    return [
        hash_records.records_of(hash_records.BAND + band, hashes[:, band], checks[:, band], rows[some])
        for band in range(bands)
    ]


def _paragraph_records(texts: list[str], rows: Numbers, min_chars: int) -> Records:
    """One record for each paragraph with at least so many characters."""
    found = [
        (*minhash.hash_pair(minhash.normalise_text(paragraph)), row, number)
        for text, row in zip(texts, rows.tolist(), strict=True)
        for number, paragraph in enumerate(paragraphs_in(text))
        if len(paragraph) >= min_chars
    ]
    columns = np.array(found, np.uint64).reshape(-1, 4)
    return hash_records.records_of(hash_records.PARAGRAPH, columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])


class Corpus:
    """The data of all documents in `work`."""

    def __init__(self, work: Path, drop_codes: str) -> None:
        self.work, self.index = work, CorpusIndex.load(work)
        self.keep_order = read_array(work / KEEP_ORDER)
        self.drop_codes = read_array(work / f"drop_codes-{drop_codes}.npy")

    def remaining(self, span: HashRange, kind: int) -> tuple[Records, Numbers]:
        """A range's records of documents that are not dropped, and the documents' numbers."""
        records, numbers = span.read(self.work / KEYS, self.index, kind)
        kept = self.drop_codes[numbers] == 0
        return records[kept], numbers[kept]


def _copies(task: dict[str, Any], kind: int) -> tuple[Records, Numbers]:
    """All records of a range but the best of each group, and the numbers of their documents."""
    corpus = Corpus(Path(task["work"]), task["drop_codes"])
    records, numbers = corpus.remaining(HashRange(*task["range"]), kind)
    best_first = corpus.keep_order[numbers]
    order = np.lexsort((records["paragraph"], numbers, best_first, records["check"], records["key"]))
    copies = order[~hash_records.group_starts(records, order)]
    return records[copies], numbers[copies]


def copies_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write the numbers of a range's documents that are copies. `work`, `drop_codes`, `kind`, `range`, `out`."""
    copies = np.sort(_copies(task, task["kind"])[1])
    write_array(Path(task["out"]), copies)
    return {"copies": int(copies.size)}


def paragraphs_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write (document, paragraph), sorted, of a range's paragraphs that also occur in a better document, or earlier
    in the same one. `work`, `drop_codes`, `range`, `out`."""
    records, numbers = _copies(task, hash_records.PARAGRAPH)
    pairs = np.stack([numbers, records["paragraph"].astype(np.int64)], axis=1)
    write_array(Path(task["out"]), pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
    return {"copies": len(pairs)}


def edges_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write pairs of documents that agree in one of the first `bands` bands, each with the first of its bucket."""
    corpus = Corpus(Path(task["work"]), task["drop_codes"])
    found = [np.zeros((0, 2), np.int64)]
    for band in range(task["bands"]):
        records, numbers = corpus.remaining(HashRange(*task["range"]), hash_records.BAND + band)
        order = np.lexsort((numbers, records["check"], records["key"]))
        starts = hash_records.group_starts(records, order)
        first = numbers[order[starts]][np.cumsum(starts) - 1]
        pairs = np.stack([first[~starts], numbers[order[~starts]]], axis=1)
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
    edges = np.unique(np.concatenate(found), axis=0)
    write_array(Path(task["out"]), edges)
    return {"edges": len(edges)}


def memory_components_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write (smallest document of the component, document) of all edges in the files `inputs`, to `out`."""
    found = components_in_memory(read_edges(task["inputs"]))
    found = found[found[:, 0] != found[:, 1]]
    write_array(Path(task["out"]), found[:, ::-1])
    return {"documents": len(found)}


def clusters_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write (document, kept document, size of the cluster), sorted, of all documents in clusters.

    `inputs`: files of pairs; those with the root, the smaller one, first are whole clusters. `work`, `drop_codes`, `out`.
    """
    corpus = Corpus(Path(task["work"]), task["drop_codes"])
    pairs = read_edges(task["inputs"])
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    roots = np.unique(pairs[:, 0])
    pairs = np.concatenate([pairs, np.stack([roots, roots], axis=1)])
    pairs = pairs[np.lexsort((pairs[:, 1], corpus.keep_order[pairs[:, 1]], pairs[:, 0]))]
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    sizes = np.diff(np.append(starts, len(pairs)))
    rows = np.stack([pairs[:, 1], np.repeat(pairs[starts, 1], sizes), np.repeat(sizes, sizes)], axis=1)
    write_array(Path(task["out"]), rows[np.argsort(rows[:, 0])])
    return {"clusters": len(roots), "documents": len(rows)}


def rows_of(folder: Path, first: int, last: int) -> Numbers:
    """The rows, from all arrays in `folder`, whose first column is in [first, last), sorted by it."""
    arrays = map(read_array, sorted(folder.glob("*.npy")))
    found = [array[slice(*np.searchsorted(array[:, 0], [first, last]))] for array in arrays]
    rows = np.concatenate(found) if found else np.zeros((0, 3), np.int64)
    return rows[np.argsort(rows[:, 0], kind="stable")]
