"""64-bit hashes of all words of a text at once, for the safety model and decontamination.

A word's hash is 2 * sum(byte[j] * BASE**j) + 1 modulo 2**64, with j counted inside the word. It is odd, so that even numbers
are free for other uses. Only the top bit of the polynomial is lost, and BASE is odd, so words that differ in one byte have
different hashes. All words are hashed with one running sum over the text: the sum up to the word's end minus the sum up to
its start, times the inverse of BASE to the power of its start.
"""

import hashlib
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

BASE = 0x9FB21C651E98DF25
MAX_BYTES = 1 << 16  # of one call of `hash_words`, and number of powers kept
_BLANK = 0x20
# Bytes of a lower-case text that are kept; all others become spaces. `plain_words` has already split at other characters.
_KEPT = bytes(code if chr(code).isalnum() or code >= 0x80 else _BLANK for code in range(128)) + bytes(range(128, 256))
_NOT_WORD = re.compile(r"(?:[^\x00-\x7f\w])+")


def plain_words(text: str) -> list[bytes]:
    """The words of a text in UTF-8: NFKC, lower case, split at whatever is neither letter nor digit."""
    if not text.isascii():
        text = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text))
    return text.lower().encode("utf-8", "replace").translate(_KEPT).split()


def powers_of(base: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first `MAX_BYTES` powers of an odd number modulo 2**64, and those of its inverse."""
    steps = np.empty((2, MAX_BYTES), np.uint64)
    steps[0], steps[1] = np.uint64(base), np.uint64(pow(base, -1, 1 << 64))
    steps[:, 0] = 1
    powers, inverse_powers = np.cumprod(steps, axis=1, dtype=np.uint64)
    return powers, inverse_powers


_POWERS, _INVERSE_POWERS = powers_of(BASE)
_TWICE_INVERSE_POWERS = _INVERSE_POWERS * np.uint64(2)


def hash_words(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hashes of the words data[start:end]: shape (words,), always odd. `data` has at most `MAX_BYTES` bytes."""
    sums = np.zeros(data.size + 1, np.uint64)
    np.cumsum(data * _POWERS[: data.size], out=sums[1:])
    return (sums[ends] - sums[starts]) * _TWICE_INVERSE_POWERS[starts] + np.uint64(1)


def word_bounds(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of the words of ` word word `: one or two spaces between words, one at each end."""
    blanks = np.flatnonzero(data == _BLANK)
    starts, ends = blanks[:-1] + 1, blanks[1:]
    real = ends > starts
    return (starts, ends) if real.all() else (starts[real], ends[real])


def hash_of(word: bytes) -> int:
    """One word's hash by the formula above; a reference for `hash_words`."""
    return (2 * sum(byte * BASE**j for j, byte in enumerate(word)) + 1) % (1 << 64)


def is_validation(document_id: str, fraction: float) -> bool:
    """Whether a document is in the validation split: its id's hash, as a number in [0, 1), is below `fraction`.

    This depends on the id alone, so a document stays in its split when the corpus grows, and a larger fraction keeps every
    validation document of a smaller one.
    """
    digest = hashlib.sha256(b"split\0" + document_id.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64
