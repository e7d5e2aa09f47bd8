"""Duplicates: exact ones by a hash of the normalised text, near ones by MinHash and locality-sensitive hashing.

A text becomes a set of shingles (runs of `ngram_words` words). Two sets with Jaccard similarity s agree in one MinHash
with probability s (Broder 1997). `bands` bands of `rows` hashes make a pair a candidate when a whole band agrees, with
probability

    P(s) = 1 - (1 - s**rows)**bands                            (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4)

14 bands of 8 rows find 99.9% of pairs at s = 0.9, 92% at 0.8, 56% at 0.7 and 5% at 0.5. Candidates are not compared
again; clusters are the connected components of the candidates. One band is in memory at a time, beside one label and a
few numbers for each document. Which document of a group stays depends on the documents, never on their order.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import daft
import numpy as np
import pyarrow as pa
from daft import Expression, col
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tinyllama.clean.word_hashes import plain_words

# Scripts written without blanks between words: here each character is a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_ALONE = re.compile(rf"[{_UNSPACED}]")

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


def band_hashes(signatures: NDArray[np.uint32], bands: int) -> UintArray:
    """One 64-bit hash a band: shape (documents, bands * rows) to (documents, bands). Each row is mixed in as in FNV-1a."""
    documents, hashes = signatures.shape
    rows = signatures.reshape(documents, bands, hashes // bands).astype(np.uint64)
    mixed = np.full((documents, bands), 0xCBF29CE484222325, np.uint64)
    for row in range(rows.shape[2]):
        mixed = (mixed ^ rows[:, :, row]) * np.uint64(0x100000001B3)
        mixed ^= mixed >> np.uint64(32)  # FNV alone never moves high bits down
    return mixed


def cluster_labels(bands: Iterable[UintArray], documents: int) -> NDArray[np.int64]:
    """The cluster of each document: shape (documents,). `bands` gives one band's hashes of all documents at a time."""
    labels = np.arange(documents, dtype=np.int64)
    for hashes in bands:
        order = np.argsort(hashes, kind="stable")
        same = hashes[order[1:]] == hashes[order[:-1]]
        if not same.any():
            continue
        # neighbours in sorted order join a bucket; the labels so far are nodes, so earlier bands' edges are kept
        left, right = labels[order[:-1][same]], labels[order[1:][same]]
        edges = coo_array((np.ones(left.size, bool), (left, right)), shape=(documents, documents))
        labels = connected_components(edges, directed=False)[1].astype(np.int64)[labels]
    return labels


def best_of_groups(groups: Sequence[NDArray], chars: NDArray[np.int64], ties: Sequence[UintArray]) -> NDArray[np.bool_]:
    """True for the one document of each group that stays: the longest text, among equals the least in `ties`.

    A group is the documents that agree in every array of `groups`. All arrays have shape (documents,).
    """
    if not chars.size:
        return np.zeros(0, bool)
    order = np.lexsort((*reversed(ties), -chars, *reversed(groups)))
    starts = np.zeros(chars.size, bool)
    starts[0] = True
    for keys in groups:
        starts[1:] |= keys[order[1:]] != keys[order[:-1]]
    best = np.zeros(chars.size, bool)
    best[order[starts]] = True
    return best


def near_duplicate_clusters(texts: Sequence[str], bands: int, rows: int, ngram_words: int) -> NDArray[np.int64]:
    """The near-duplicate cluster of each text, shape (len(texts),): the whole method on a list in memory.

    Texts without a word are alone in their clusters.
    """
    words = [shingle_words(text) for text in texts]
    table = daft.from_pydict({"words": words}).select(
        signature(col("words"), bands, rows, ngram_words).alias("signature")
    )
    hashes = band_hashes(signature_matrix(table.to_arrow().column("signature")), bands)
    some = np.array([bool(text) for text in words])
    labels = np.arange(len(texts), dtype=np.int64)
    labels[some] = cluster_labels(hashes[some].T, int(some.sum())) + len(texts)
    return labels


def signature_matrix(column: pa.ChunkedArray) -> NDArray[np.uint32]:
    """Daft's signature column as a matrix of shape (documents, hashes)."""
    chunks = column.chunks
    return np.concatenate([chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in chunks])
