"""Boilerplate: lines that come again in many documents of one site (menus, licences, "last edited on").

Two steps of tasks: hashes of each part's lines, then, by hash ranges, the lines that enough documents of a site have. Lines
are compared as they are, blanks around them left out. Documents without a domain have no boilerplate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllama import document_files
from tinyllama.cleaning.text_batch import TextBatch, batches_of
from tinyllama.dedup import hash_records
from tinyllama.dedup.minhash import hash_pair
from tinyllama.workers.worker_process import Progress

_BATCH_ROWS = 256
_MIX = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


def file_lines(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: the records of one part's lines, each line once a document. `documents`, `out`: files; `min_words`."""
    found, count = [], 0
    start = 0
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
            count += distinct.shape[1]
        start += len(batch)
    hash_records.write_records(Path(task["out"]), found)
    return {"records": count, "documents": start}


def boilerplate_line_keys(
    texts: Sequence[str], domains: Sequence[str], min_words: int
) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """Of all lines with enough words: (hash of the site and the line, number of the text, number of the line in it)."""
    batch = TextBatch(texts)
    lines = batch.lines
    sites = np.array([hash_pair(domain)[0] for domain in domains], np.uint64)
    first_of_text = np.searchsorted(lines.owners, np.arange(batch.size))
    words = np.diff(np.append(batch.first_words, batch.words.starts.size))
    enough = np.flatnonzero(words >= min_words)
    keys = (lines.hashes[enough] ^ sites[lines.owners[enough]]) * _MIX
    keys = (keys ^ keys >> np.uint64(32)) * _MIX
    return keys, lines.owners[enough], enough - first_of_text[lines.owners[enough]]


def range_lines(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: of one range the hashes of lines in at least `min_documents` documents, sorted. `folder`, `out`, `range`."""
    folder = Path(task["folder"])
    records, _ = hash_records.HashRange(*task["range"]).read(
        folder, hash_records.CorpusIndex.load(folder), hash_records.LINE
    )
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
        """The texts without such lines, and how many each had."""
        texts, counts = list(texts), [0] * len(texts)
        chosen = [number for number, domain in enumerate(domains) if domain and self._keys.size]
        while chosen:
            run = batches_of([texts[number] for number in chosen])[0]
            ours, chosen = chosen[: len(run)], chosen[len(run) :]
            keys, owners, lines = boilerplate_line_keys(run, [domains[number] for number in ours], min_words)
            places = np.minimum(np.searchsorted(self._keys, keys), self._keys.size - 1)
            common = self._keys[places] == keys
            for owner in np.unique(owners[common]).tolist():
                bad = set(lines[common & (owners == owner)].tolist())
                texts[ours[owner]] = _without(texts[ours[owner]], bad)
                counts[ours[owner]] = len(bad)
        return texts, counts


def _without(text: str, bad: set[int]) -> str:
    """The text without the lines of these numbers; empty lines have no number."""
    kept, number = [], 0
    for line in text.split("\n"):
        if line and not line.isspace():
            number += 1
            if number - 1 in bad:
                continue
        kept.append(line)
    return "\n".join(kept).strip("\n")
