"""How much of a text is repeated n-grams of words (Rae et al. 2021, appendix A1.1), for many texts at once.

All shares are of characters, blanks left out. An n-gram can only come twice where the (n-1)-grams at both its places do,
so each size looks only at the places that the size before has left; few are left after the third. The tests have the
same one n-gram at a time.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tinyllama.cleaning.text_batch import TextBatch

_MIX, _NEXT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)

Numbers = NDArray[np.int64]
Shares = NDArray[np.float64]  # shape (texts,)


def repeated_ngram_chars(batch: TextBatch, top_sizes: range, sizes: range) -> Iterator[tuple[int, Shares]]:
    """For each n from 2: n, and the share of each text's characters in repeated n-grams. The texts have words.

    For an n of `top_sizes` these are all places of the commonest n-gram (0.0 when none comes twice; among equally common
    ones the longest, then the first); for one of `sizes` the n-grams that came before; overlaps count once.
    """
    words = batch.words
    ends = np.zeros(words.starts.size + 1, np.int64)  # characters of all words before each
    np.cumsum(words.chars, out=ends[1:])
    all_chars = batch.total(words.owners, words.chars)
    places, classes = np.arange(words.starts.size), words.hashes
    for n in range(2, max(top_sizes.stop, sizes.stop)):
        places, classes = _repeated(places, classes, n, words.owners, words.hashes)
        if n in top_sizes:
            chosen = _commonest(places, classes, ends[places + n] - ends[places], words.owners[places], batch.size)
        elif n in sizes:
            chosen = _later_ones(places, classes)
        else:
            continue
        until = np.minimum(chosen + n, np.append(chosen[1:], words.starts.size))
        covered = batch.total(words.owners[chosen], ends[until] - ends[chosen])
        yield n, covered / np.maximum(all_chars, 1)


def _repeated(
    places: Numbers, classes: NDArray[np.uint64], n: int, owners: Numbers, hashes: NDArray[np.uint64]
) -> tuple[Numbers, NDArray[np.uint64]]:
    """Places of n-grams that come twice or more in their text, in order, and the n-grams' hashes.

    `places`, `classes`: those of the (n-1)-grams.
    """
    fits = places + n - 1 < owners.size
    places, classes = places[fits], classes[fits]
    inside = owners[places] == owners[places + n - 1]
    places, classes = places[inside], classes[inside]
    if n == 2:  # the first size keeps texts apart; n-grams of one text only are compared
        classes = classes + owners[places].astype(np.uint64) * _NEXT
    classes = (classes ^ classes >> np.uint64(31)) * _MIX + hashes[places + n - 1] * _NEXT
    order = np.argsort(classes)
    equal = classes[order[1:]] == classes[order[:-1]]
    twice = np.zeros(classes.size, bool)
    twice[order[1:][equal]] = True
    twice[order[:-1][equal]] = True
    return places[twice], classes[twice]


def _later_ones(places: Numbers, classes: NDArray[np.uint64]) -> Numbers:
    """Of `places`, in order, those whose n-gram has come before."""
    later = np.ones(places.size, bool)
    later[np.unique(classes, return_index=True)[1]] = False
    return places[later]


def _commonest(places: Numbers, classes: NDArray[np.uint64], chars: Numbers, owners: Numbers, texts: int) -> Numbers:
    """The places of each text's commonest n-gram; among equals the longest, then the first."""
    _, first, numbers, counts = np.unique(classes, return_index=True, return_inverse=True, return_counts=True)
    # the last of each text in this order is its commonest
    order = np.lexsort((-first, chars[first], counts, owners[first]))
    best = np.full(texts, -1)
    best[owners[first][order]] = order
    return places[best[owners] == numbers.reshape(-1)]
