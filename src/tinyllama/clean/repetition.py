"""How much of a text is repetition: lines, paragraphs and n-grams (Rae et al. 2021, appendix A1.1).

All shares are of characters without blanks for n-grams, of the pieces' own characters for lines and paragraphs. The
time is n log n in the words: an n-gram is numbered from the (n-1)-gram at its place and its last word, by sorting.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def duplicate_shares(pieces: Sequence[str]) -> tuple[float, float]:
    """Of `pieces`, the fraction that occurred before in the list, and the fraction of characters in those."""
    seen: set[str] = set()
    count = chars = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            chars += len(piece)
        seen.add(piece)
    total_chars = sum(map(len, pieces))
    return (count / len(pieces), chars / total_chars) if total_chars else (0.0, 0.0)


def top_ngram_chars(words: Sequence[str], sizes: range) -> Iterator[tuple[int, float]]:
    """For each n of `sizes`: n, and the share of characters inside the commonest n-gram (0.0 when none repeats).

    Among equally common ones the longest counts.
    """
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    for n, ngrams in _numbered_ngrams(words, sizes):
        counts = np.bincount(ngrams)
        if not counts.size or counts.max() < 2:
            yield n, 0.0
            continue
        ngram_chars = np.zeros(counts.size, np.int64)
        ngram_chars[ngrams] = np.convolve(lengths, np.ones(n, np.int64), "valid")
        best = np.flatnonzero(counts == counts.max())
        top = best[np.argmax(ngram_chars[best])]
        yield n, _covered_chars(lengths, np.flatnonzero(ngrams == top), n)


def duplicate_ngram_chars(words: Sequence[str], sizes: range) -> Iterator[tuple[int, float]]:
    """For each n of `sizes`: n, and the share of characters inside n-grams that occurred before; overlaps count once."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    for n, ngrams in _numbered_ngrams(words, sizes):
        again = np.ones(ngrams.size, bool)
        again[np.unique(ngrams, return_index=True)[1]] = False
        yield n, _covered_chars(lengths, np.flatnonzero(again), n)


def _numbered_ngrams(words: Sequence[str], sizes: range) -> Iterator[tuple[int, Numbers]]:
    """For each n of `sizes`: n, and the n-gram's number at each place: shape (len(words) - n + 1,), equal means equal."""
    numbers: dict[str, int] = {}
    unigrams = np.fromiter((numbers.setdefault(word, len(numbers)) for word in words), np.int64, len(words))
    ngrams = unigrams
    for n in range(2, sizes.stop):
        if len(words) < n:
            ngrams = np.empty(0, np.int64)
        else:
            pairs = ngrams[:-1] * len(numbers) + unigrams[n - 1 :]  # below words**2: fits
            ngrams = np.unique(pairs, return_inverse=True)[1].reshape(-1)
        if n in sizes:
            yield n, ngrams


def _covered_chars(lengths: Numbers, starts: Numbers, n: int) -> float:
    """The share of all characters in words that some n-gram at `starts` covers."""
    if not starts.size:
        return 0.0
    steps = np.zeros(lengths.size + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + n, -1)
    return float(lengths[np.cumsum(steps[:-1]) > 0].sum() / lengths.sum())
