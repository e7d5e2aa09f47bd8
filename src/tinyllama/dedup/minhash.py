"""Duplicates: exact ones by a hash of the normalised text, near ones by MinHash and locality-sensitive hashing.

A text becomes a set of shingles (runs of `ngram_words` words). Two sets with Jaccard similarity s agree in one MinHash
with probability s (Broder 1997). `bands` bands of `rows` hashes make a pair a candidate when a whole band agrees, with
probability

    P(s) = 1 - (1 - s**rows)**bands                            (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4)

14 bands of 8 rows find 99.9% of pairs at s = 0.9, 92% at 0.8, 56% at 0.7 and 5% at 0.5. Candidates are not compared
again; clusters are the connected components of the candidates. `duplicates.py` does this over a whole corpus.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import daft
import numpy as np
import pyarrow as pa
from daft import Expression, col
from numpy.typing import NDArray

from tinyllama.dedup.components import components_in_memory
from tinyllama.hashing import plain_words

# Scripts written without blanks between words: here each character is a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_ALONE = re.compile(rf"[{_UNSPACED}]")

_OTHER_START = 0x84222325CBF29CE4  # for a second hash of each band
UintArray = NDArray[np.uint64]


def candidate_probability(similarity: float, bands: int, rows: int) -> float:
    """The chance that a pair of Jaccard `similarity` becomes a candidate: 1 - (1 - s**rows)**bands."""
    return 1 - (1 - similarity**rows) ** bands


def hash_pair(text: str) -> tuple[int, int]:
    """The first 128 bits of the sha256 of `text`, as two unsigned 64-bit numbers."""
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


def normalise_text(text: str) -> str:
    """What counts as the same text: NFKC, lower case, every run of blanks one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def shingle_words(text: str) -> str:
    """The words that shingles are made of, joined by single blanks: lower case, no punctuation, CJK by character."""
    if text.isascii():
        return b" ".join(plain_words(text)).decode()
    text = unicodedata.normalize("NFKC", text).lower()
    return b" ".join(plain_words(_ALONE.sub(r" \g<0> ", text))).decode()


def signature(words: Expression, bands: int, rows: int, ngram_words: int) -> Expression:
    """Daft expression of the MinHash signature of `shingle_words` texts: fixed-size list of bands * rows uint32."""
    return words.minhash(num_hashes=bands * rows, ngram_size=ngram_words, seed=1, hash_function="xxhash64")


def band_hashes(signatures: NDArray[np.uint32], bands: int, start: int = 0xCBF29CE484222325) -> UintArray:
    """One 64-bit hash a band: shape (documents, bands * rows) to (documents, bands). Each row is mixed in as in FNV-1a."""
    documents, hashes = signatures.shape
    rows = signatures.reshape(documents, bands, hashes // bands).astype(np.uint64)
    mixed = np.full((documents, bands), start, np.uint64)
    for row in range(rows.shape[2]):
        mixed = (mixed ^ rows[:, :, row]) * np.uint64(0x100000001B3)
        mixed ^= mixed >> np.uint64(32)  # FNV alone never moves high bits down
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ mixed >> np.uint64(29)


def bands_of(
    texts: Sequence[str], bands: int, rows: int, ngram_words: int
) -> tuple[UintArray, UintArray, NDArray[np.bool_]]:
    """Two hashes of each band of the texts that have words, shape (those texts, bands), and which these are."""
    words = [shingle_words(text) for text in texts]
    some = np.fromiter(map(bool, words), bool, len(words))
    table = daft.from_arrow(pa.table({"words": pa.array([text for text in words if text], pa.string())})).select(
        signature(col("words"), bands, rows, ngram_words).alias("signature")
    )
    matrix = signature_matrix(table.to_arrow().column("signature")) if some.any() else np.zeros((0, bands * rows), "u4")
    return band_hashes(matrix, bands), band_hashes(matrix, bands, _OTHER_START), some


def near_duplicate_clusters(texts: Sequence[str], bands: int, rows: int, ngram_words: int) -> NDArray[np.int64]:
    """The near-duplicate cluster of each text, shape (len(texts),): the whole method on a list in memory.

    Texts without a word are alone in their clusters.
    """
    hashes, _, some = bands_of(texts, bands, rows, ngram_words)
    members = np.flatnonzero(some)
    labels = np.arange(len(texts), dtype=np.int64)
    edges = []
    for band in hashes.T:
        order = np.argsort(band, kind="stable")
        same = band[order[1:]] == band[order[:-1]]
        edges.append(np.stack([order[:-1][same], order[1:][same]], axis=1))
    found = components_in_memory(np.concatenate([np.zeros((0, 2), np.int64), *edges]))
    labels[members[found[:, 0]]] = members[found[:, 1]]
    return labels


def signature_matrix(column: pa.ChunkedArray) -> NDArray[np.uint32]:
    """Daft's signature column as a matrix of shape (documents, hashes)."""
    chunks = column.chunks
    return np.concatenate([chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in chunks])
