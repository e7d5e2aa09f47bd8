"""Words, lines and paragraphs of many texts as NumPy arrays.

A batch is one array of code points. White space separates words; "\\n" separates lines, which are taken without white
space at their ends and without empty ones; blank lines separate paragraphs. So lines and paragraphs begin and end with
words. Segments are compared by 64-bit hashes: the polynomial of their code points with the base of `hashing`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyllama.hashing import BASE

BATCH_CHARS = 1 << 18  # the arrays of so many characters fit into the CPU's cache
_SPACE, _LETTER, _NEWLINE = np.uint8(1), np.uint8(2), 10
_MIX = np.uint64(0xC2B2AE3D27D4EB4F)

Text = TypeVar("Text", str, bytes)
Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Segments:
    """Words, lines or paragraphs of a batch, in order. All arrays have the shape (segments,)."""

    starts: Numbers  # in the code points
    ends: Numbers
    owners: Numbers  # numbers of their texts
    hashes: Hashes

    @property
    def chars(self) -> Numbers:
        """Length of each segment."""
        return self.ends - self.starts


class TextBatch:
    """A batch of texts. Sums and counts per text have the shape (texts,)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.size = len(texts)
        joined = "\n\n".join([*texts, ""])  # no segment spans two texts
        self.codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        lengths = np.fromiter(map(len, texts), np.int64, self.size) + 2
        self.starts = np.cumsum(lengths) - lengths
        self._classes = _character_classes()[self.codes]

    @cached_property
    def words(self) -> Segments:
        """Separated by white space."""
        inside = np.zeros(self.codes.size + 1, bool)
        np.equal(self._classes & _SPACE, 0, out=inside[1:])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        return self._segments(edges[::2], edges[1::2])

    @cached_property
    def lines(self) -> Segments:
        """Separated by line ends."""
        return self._joined_words(1)

    @cached_property
    def paragraphs(self) -> Segments:
        """Separated by blank lines."""
        return self._joined_words(2)

    @cached_property
    def words_per_line(self) -> Numbers:
        """Shape (lines,)."""
        first_words = np.searchsorted(self.words.starts, self.lines.starts)
        return np.diff(first_words, append=self.words.starts.size)

    def words_with_letters(self) -> NDArray[np.bool_]:
        """Whether each word contains a letter: shape (words,)."""
        if not self.words.starts.size:
            return np.zeros(0, bool)
        return np.bitwise_or.reduceat(self._classes, self.words.starts) & _LETTER > 0

    def count(self, owners: Numbers) -> Numbers:
        """How often each text occurs in `owners`."""
        return np.bincount(owners, minlength=self.size)

    def total(self, owners: Numbers, values: Numbers | NDArray[np.bool_]) -> Numbers:
        """Sum of `values` per text."""
        return np.bincount(owners, values, self.size).astype(np.int64)

    def owners_of(self, positions: Numbers) -> Numbers:
        """Numbers of the texts at these positions in the code points."""
        return np.searchsorted(self.starts, positions, "right") - 1

    def is_repeated(self, segments: Segments) -> NDArray[np.bool_]:
        """Whether each segment occurred before in its text."""
        keys = segments.hashes + segments.owners.astype(np.uint64) * _MIX
        found = np.zeros(keys.size, bool)
        order = np.argsort(keys, kind="stable")
        found[order[1:]] = keys[order[1:]] == keys[order[:-1]]
        return found

    def _segments(self, starts: Numbers, ends: Numbers) -> Segments:
        hashes = (self._sums[ends] - self._sums[starts]) * _powers(self.codes.size)[1][starts]
        return Segments(starts, ends, self.owners_of(starts), hashes)

    def _joined_words(self, newlines: int) -> Segments:
        """Runs of words with fewer than `newlines` line ends between neighbours."""
        words = self.words
        if not words.starts.size:
            return words
        before = np.cumsum(self.codes == _NEWLINE, dtype=np.int64)[words.starts]
        first = np.append(True, np.diff(before) >= newlines)
        last = np.append(first[1:], True)
        return self._segments(words.starts[first], words.ends[last])

    @cached_property
    def _sums(self) -> Hashes:
        """Prefix sums of code point * BASE**position: shape (codes + 1,)."""
        sums = np.zeros(self.codes.size + 1, np.uint64)
        np.cumsum(self.codes * _powers(self.codes.size)[0][: self.codes.size], out=sums[1:])
        return sums


def without_lines(text: str, removed: set[int]) -> str:
    """The text without the lines with these numbers. Blank lines have no number and are kept."""
    kept, number = [], -1
    for line in text.split("\n"):
        is_blank = not line or line.isspace()
        number += not is_blank
        if is_blank or number not in removed:
            kept.append(line)
    return "\n".join(kept)


def batches_of(texts: Sequence[Text], max_chars: int = BATCH_CHARS) -> list[Sequence[Text]]:
    """`texts` in runs of at most `max_chars` characters (or bytes), or of one longer text."""
    runs, start, chars = [], 0, 0
    for number, text in enumerate(texts):
        if chars and chars + len(text) > max_chars:
            runs.append(texts[start:number])
            start, chars = number, 0
        chars += len(text)
    return [*runs, texts[start:]] if start < len(texts) else runs


@cache
def _character_classes() -> NDArray[np.uint8]:
    """`str.isspace` and `str.isalpha` of every code point, as two bits."""
    return np.fromiter((c.isspace() | c.isalpha() << 1 for c in map(chr, range(0x110000))), np.uint8, 0x110000)


_cached_powers = [np.ones((2, 1), np.uint64)]


def _powers(count: int) -> NDArray[np.uint64]:
    """At least `count` powers of BASE and of its inverse: shape (2, count or more)."""
    if _cached_powers[0].shape[1] < count:
        size = 1 << (count - 1).bit_length()
        steps = np.empty((2, size), np.uint64)
        steps[0], steps[1] = np.uint64(BASE), np.uint64(pow(BASE, -1, 1 << 64))
        steps[:, 0] = 1
        _cached_powers[0] = np.cumprod(steps, axis=1, dtype=np.uint64)
    return _cached_powers[0]
