"""Boilerplate: lines that occur in many documents of one site (menus, licences, "last edited on").

First one task per file hashes the lines, then one task per hash range finds those that enough documents of a site
contain. Lines are compared without white space at their ends. Documents without a domain have no boilerplate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllama import document_files
from tinyllama.cleaning.text_batch import Hashes, TextBatch, batches_of, without_lines
from tinyllama.dedup import hash_records
from tinyllama.dedup.minhash import hash_pair
from tinyllama.workers.worker_process import Progress

_BATCH_ROWS = 256
_MIX = np.uint64(0x9E3779B97F4A7C15)


def file_lines(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write the records of one file's lines, each line once per document.

    `documents`, `out`: files; `min_words`.
    """
    found, start = [], 0
    for batch in document_files.document_batches(Path(task["documents"]), ["text", "domain"], _BATCH_ROWS):
        domains = batch.column("domain").to_pylist()
        rows = [row for row, domain in enumerate(domains) if domain]
        texts = batch.column("text").to_pylist()
        for chosen in batches_of([texts[row] for row in rows]):
            ours, rows = rows[: len(chosen)], rows[len(chosen) :]
            keys, owners, _ = boilerplate_line_keys(chosen, [domains[row] for row in ours], task["min_words"])
            documents = np.array(ours)[owners] + start
            distinct = np.unique(np.stack([documents.astype(np.uint64), keys]), axis=1)
            found.append(hash_records.records_of(hash_records.LINE, distinct[1], distinct[1], distinct[0]))
        start += len(batch)
    hash_records.write_records(Path(task["out"]), found)
    return {"records": sum(map(len, found)), "documents": start}


def boilerplate_line_keys(
    texts: Sequence[str], domains: Sequence[str], min_words: int
) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """For each line with enough words: the hash of site and line, the number of its text, its number in the text."""
    batch = TextBatch(texts)
    lines = batch.lines
    sites = np.array([hash_pair(domain)[0] for domain in domains], np.uint64)
    first_of_text = np.searchsorted(lines.owners, np.arange(batch.size))
    long = np.flatnonzero(batch.words_per_line >= min_words)
    keys = (lines.hashes[long] ^ sites[lines.owners[long]]) * _MIX
    keys = (keys ^ keys >> np.uint64(32)) * _MIX
    return keys, lines.owners[long], long - first_of_text[lines.owners[long]]


def range_lines(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write the sorted hashes of one range's lines that occur in at least `min_documents` documents.

    `folder`: where the records are; `range`; `out`: file.
    """
    folder = Path(task["folder"])
    index = hash_records.CorpusIndex.load(folder)
    records, _ = hash_records.HashRange(*task["range"]).read(folder, index, hash_records.LINE)
    keys, counts = np.unique(records["check"], return_counts=True)
    common = keys[counts >= task["min_documents"]]
    hash_records.write_array(Path(task["out"]), common)
    return {"lines": int(common.size)}


class BoilerplateLines:
    """The boilerplate lines of all sites."""

    def __init__(self, folder: Path) -> None:
        arrays = [hash_records.read_array(path) for path in sorted(folder.glob("*.npy"))]
        self._keys: Hashes = np.sort(np.concatenate([np.zeros(0, np.uint64), *arrays]))

    def removed(self, texts: Sequence[str], domains: Sequence[str], min_words: int) -> tuple[list[str], list[int]]:
        """The texts without boilerplate lines, and how many lines each lost."""
        texts, counts = list(texts), [0] * len(texts)
        chosen = [number for number, domain in enumerate(domains) if domain and self._keys.size]
        for run in batches_of([texts[number] for number in chosen]):
            ours, chosen = chosen[: len(run)], chosen[len(run) :]
            keys, owners, lines = boilerplate_line_keys(run, [domains[number] for number in ours], min_words)
            nearest = np.minimum(np.searchsorted(self._keys, keys), self._keys.size - 1)
            common = self._keys[nearest] == keys
            for owner in np.unique(owners[common]).tolist():
                found = set(lines[common & (owners == owner)].tolist())
                texts[ours[owner]] = without_lines(texts[ours[owner]], found).strip("\n")
                counts[ours[owner]] = len(found)
        return texts, counts
