"""Words, lines and paragraphs of many texts at once, as arrays: what the quality rules count.

A batch is one array of code points. Words are what blanks separate; lines are what "\\n" ends, without blanks around them,
empty ones left out; paragraphs are what "\\n", blanks, "\\n" separate. So lines and paragraphs begin and end with words.
Pieces of text are compared by 64-bit hashes: the polynomial of their code points with the base of `word_hashes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from tinyllama.hashing import BASE

BATCH_CHARS = 1 << 18  # texts that are looked at together: their arrays stay in the processor's cache
_SPACE, _LETTER = np.uint8(1), np.uint8(2)
_NEWLINE = 10
_MIX = np.uint64(0xC2B2AE3D27D4EB4F)

Places = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Pieces:
    """Words, lines or paragraphs of a batch, in order: where they start and end in the code points, of which text they
    are, and their hashes. All of shape (pieces,)."""

    starts: Places
    ends: Places
    owners: Places
    hashes: Hashes

    @property
    def chars(self) -> Places:
        """How long each is."""
        return self.ends - self.starts


class TextBatch:
    """Some texts as arrays. Sums and counts by text have shape (texts,)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.size = len(texts)
        joined = "\n\n".join([*texts, ""])  # words, lines and paragraphs end with their text
        self.codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        lengths = np.fromiter(map(len, texts), np.int64, self.size) + 2
        self.starts = np.cumsum(lengths) - lengths
        self._kinds = _kinds_of_characters()[self.codes]

    @cached_property
    def words(self) -> Pieces:
        """What blanks separate."""
        inside = np.zeros(self.codes.size + 1, bool)
        np.equal(self._kinds & _SPACE, 0, out=inside[1:])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        return self._pieces(edges[::2], edges[1::2])

    @cached_property
    def lines(self) -> Pieces:
        """What line ends separate."""
        return self._parted(1)

    @cached_property
    def paragraphs(self) -> Pieces:
        """What blank lines separate."""
        return self._parted(2)

    @cached_property
    def first_words(self) -> Places:
        """Number of the word with which each line begins: shape (lines,)."""
        return np.searchsorted(self.words.starts, self.lines.starts)

    def words_with_letters(self) -> NDArray[np.bool_]:
        """Of each word whether it has a letter."""
        if not self.words.starts.size:
            return np.zeros(0, bool)
        return np.bitwise_or.reduceat(self._kinds, self.words.starts) & _LETTER > 0

    def count(self, owners: Places) -> Places:
        """How many of `owners` each text is."""
        return np.bincount(owners, minlength=self.size)

    def total(self, owners: Places, values: Places | NDArray[np.bool_]) -> Places:
        """The sum of `values` of each text."""
        return np.bincount(owners, values, self.size).astype(np.int64)

    def owners_of(self, places: Places) -> Places:
        """Which text each place among the code points belongs to."""
        return np.searchsorted(self.starts, places, "right") - 1

    def again(self, pieces: Pieces) -> NDArray[np.bool_]:
        """Of each piece whether it occurred before in its text."""
        keys = pieces.hashes + pieces.owners.astype(np.uint64) * _MIX
        found = np.zeros(keys.size, bool)
        order = np.argsort(keys, kind="stable")
        found[order[1:]] = keys[order[1:]] == keys[order[:-1]]
        return found

    def _pieces(self, starts: Places, ends: Places) -> Pieces:
        hashes = (self._sums[ends] - self._sums[starts]) * _powers(self.codes.size)[1][starts]
        return Pieces(starts, ends, self.owners_of(starts), hashes)

    def _parted(self, newlines: int) -> Pieces:
        """Runs of words with fewer than so many line ends between neighbours."""
        words = self.words
        if not words.starts.size:
            return words
        before = np.cumsum(self.codes == _NEWLINE, dtype=np.int64)[words.starts]
        first = np.append(True, np.diff(before) >= newlines)
        last = np.append(first[1:], True)
        return self._pieces(words.starts[first], words.ends[last])

    @cached_property
    def _sums(self) -> Hashes:
        """Running sums of code point * BASE**place: shape (codes + 1,)."""
        sums = np.zeros(self.codes.size + 1, np.uint64)
        np.cumsum(self.codes * _powers(self.codes.size)[0][: self.codes.size], out=sums[1:])
        return sums


def batches_of(texts: Sequence[str], most_chars: int = BATCH_CHARS) -> list[Sequence[str]]:
    """`texts` in runs of about so many characters, for `TextBatch`."""
    runs, start, chars = [], 0, 0
    for number, text in enumerate(texts):
        if chars and chars + len(text) > most_chars:
            runs.append(texts[start:number])
            start, chars = number, 0
        chars += len(text)
    return [*runs, texts[start:]] if start < len(texts) else runs


@cache
def _kinds_of_characters() -> NDArray[np.uint8]:
    """What `str.isspace` and `str.isalpha` say of every code point."""
    return np.fromiter((c.isspace() | c.isalpha() << 1 for c in map(chr, range(0x110000))), np.uint8, 0x110000)


_kept_powers = [np.ones((2, 1), np.uint64)]


def _powers(count: int) -> NDArray[np.uint64]:
    """At least so many powers of BASE, and of its inverse: shape (2, count or more)."""
    if _kept_powers[0].shape[1] < count:
        size = 1 << (count - 1).bit_length()
        steps = np.empty((2, size), np.uint64)
        steps[0], steps[1] = np.uint64(BASE), np.uint64(pow(BASE, -1, 1 << 64))
        steps[:, 0] = 1
        _kept_powers[0] = np.cumprod(steps, axis=1, dtype=np.uint64)
    return _kept_powers[0]
