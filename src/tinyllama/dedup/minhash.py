"""Exact-duplicate hashes of normalised texts, and MinHash signatures with locality-sensitive hashing.

A text becomes a set of shingles (`ngram_words` words each). Two sets with Jaccard similarity s agree in one MinHash with
probability s (Broder 1997). A pair is a candidate when it agrees in all `rows` hashes of one of the `bands` bands, with
probability

    P(s) = 1 - (1 - s**rows)**bands                            (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4)

14 bands of 8 rows find 99.9% of pairs at s = 0.9, 92% at 0.8, 56% at 0.7 and 5% at 0.5. Candidates are not compared
again; clusters are the connected components of the candidates. `duplicate_tasks` does this over a whole corpus.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import daft
import numpy as np
import pyarrow as pa
from daft import col
from numpy.typing import NDArray

from tinyllama.dedup.components import components_in_memory
from tinyllama.hashing import plain_words

# Scripts written without spaces: each character counts as a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_ONE_CHARACTER_WORD = re.compile(rf"[{_UNSPACED}]")

_SECOND_START = 0x84222325CBF29CE4  # for a second hash of each band
UintArray = NDArray[np.uint64]


def candidate_probability(similarity: float, bands: int, rows: int) -> float:
    """Probability that a pair of Jaccard `similarity` becomes a candidate: 1 - (1 - s**rows)**bands."""
    return 1 - (1 - similarity**rows) ** bands


def hash_pair(text: str) -> tuple[int, int]:
    """First 128 bits of the sha256 of `text`, as two unsigned 64-bit integers."""
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


def normalise_text(text: str) -> str:
    """The text in NFKC and lower case, with runs of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def shingle_words(text: str) -> str:
    """The words for shingles, joined by spaces: lower case, no punctuation, CJK by character."""
    if text.isascii():
        return b" ".join(plain_words(text)).decode()
    text = unicodedata.normalize("NFKC", text).lower()
    return b" ".join(plain_words(_ONE_CHARACTER_WORD.sub(r" \g<0> ", text))).decode()


def band_hashes(signatures: NDArray[np.uint32], bands: int, start: int = 0xCBF29CE484222325) -> UintArray:
    """One 64-bit hash per band, like FNV-1a over its rows: shape (documents, bands * rows) to (documents, bands)."""
    documents, hashes = signatures.shape
    rows = signatures.reshape(documents, bands, hashes // bands).astype(np.uint64)
    mixed = np.full((documents, bands), start, np.uint64)
    for row in range(rows.shape[2]):
        mixed = (mixed ^ rows[:, :, row]) * np.uint64(0x100000001B3)
        mixed ^= mixed >> np.uint64(32)  # FNV alone does not move high bits down
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ mixed >> np.uint64(29)


def bands_of(
    texts: Sequence[str], bands: int, rows: int, ngram_words: int
) -> tuple[UintArray, UintArray, NDArray[np.bool_]]:
    """Two hashes of each band, each of shape (texts with words, bands), and which texts have words."""
    words = [shingle_words(text) for text in texts]
    table = daft.from_arrow(pa.table({"words": pa.array([text for text in words if text], pa.string())}))
    minhash = col("words").minhash(num_hashes=bands * rows, ngram_size=ngram_words, seed=1, hash_function="xxhash64")
    chunks = table.select(minhash).to_arrow().column(0).chunks  # fixed-size lists of uint32
    arrays = [chunk.flatten().to_numpy().reshape(-1, bands * rows) for chunk in chunks]
    matrix = np.concatenate([np.zeros((0, bands * rows), np.uint32), *arrays])
    some = np.fromiter(map(bool, words), bool, len(words))
    return band_hashes(matrix, bands), band_hashes(matrix, bands, _SECOND_START), some


def near_duplicate_clusters(texts: Sequence[str], bands: int, rows: int, ngram_words: int) -> NDArray[np.int64]:
    """Number of the near-duplicate cluster of each text, in memory: shape (len(texts),). Texts without words are alone."""
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
