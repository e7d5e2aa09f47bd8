"""Replaces personally identifiable information in a text with typed placeholders.

Finds e-mail addresses, telephone numbers, public IP addresses, bank accounts (IBAN), payment cards, national ids, API keys
and tokens, and passwords in URLs, by the rules in `pii_patterns.py`; not names and postal addresses. Placeholders are plain
words in square brackets, which no tokenizer treats as special tokens and no pattern matches.

First a NumPy pass finds the lines that have enough digits, at signs or colons close together. Only these are searched, so
that most text is never matched against a pattern.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tinyllama.cleaning import pii_patterns as patterns

# In order of precedence: of two overlapping matches the earlier kind is used.
KINDS = ("secret", "credentials", "email", "ip", "iban", "card", "national_id", "phone")
PLACEHOLDERS = {kind: f"[{kind.replace('_', ' ')}]" for kind in KINDS}
_MAX_ROUNDS = 8
# Numbers of interest have at least six digits, with at most two separators between neighbours.
_MIN_DIGITS, _MAX_DISTANCE, _SEPARATORS = 6, 3, " ./()-"
_DOTS_SPAN, _COLONS_SPAN = 9, 11  # three dots of an IPv4 address, three colons of an IPv6 address
_AT, _COLON, _DOT, _ZERO, _NEWLINE = map(ord, "@:.0\n")
_IN_NUMBERS = np.zeros(128, np.uint8)
_IN_NUMBERS[[ord(character) for character in "0123456789" + _SEPARATORS]] = 1

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Masked:
    """A text without personal information, and the number of replacements by kind."""

    text: str
    counts: dict[str, int] = field(default_factory=dict)


def mask_personal_information(text: str, kinds: tuple[str, ...] = KINDS) -> Masked:
    """Replace personal information of the given kinds.

    A replacement can make its neighbour match (`a@b.org(212) 736-5000`), so masking is repeated until nothing is found, but
    at most 8 times, which only a text made on purpose exceeds. Masking a masked text changes nothing.
    """
    counts: dict[str, int] = {}
    for _ in range(_MAX_ROUNDS):
        spans = personal_spans(text, kinds)
        if not spans:
            break
        strings, last = [], 0
        for start, end, kind in spans:
            strings += [text[last:start], PLACEHOLDERS[kind]]
            last = end
            counts[kind] = counts.get(kind, 0) + 1
        text = "".join([*strings, text[last:]])
    return Masked(text, counts)


def personal_spans(text: str, kinds: tuple[str, ...] = KINDS) -> list[tuple[int, int, str]]:
    """(start, end, kind) of personal information, in the order of the text, without overlaps."""
    found: list[tuple[int, int, str]] = []
    covered = bytearray()
    for kind, spans in _candidates(text, kinds):
        for start, end in spans:
            covered = covered or bytearray(len(text))
            if covered.find(1, start, end) < 0:
                covered[start:end] = b"\1" * (end - start)
                found.append((start, end, kind))
    return sorted(found)


def _candidates(text: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, Iterator[tuple[int, int]]]]:
    """Each kind, with what its pattern finds on the lines that can contain it."""
    index = _CharacterIndex(text)
    if "secret" in kinds and any(beginning in text for beginning in patterns.SECRET_BEGINNINGS):
        yield "secret", patterns.secrets(text, 0, len(text))
    if "secret" in kinds and patterns.PRIVATE_KEY_MARK in text:
        yield "secret", patterns.private_keys(text)
    if "@" in text:
        at_lines = index.lines_at(np.flatnonzero(index.codes == _AT))
        if "credentials" in kinds and "://" in text:
            yield "credentials", _search(at_lines, text, patterns.credentials)
        if "email" in kinds:
            yield "email", _search(at_lines, text, patterns.emails)
    if "ip" in kinds:
        yield "ip", _search(index.lines_at(index.ip_positions()), text, patterns.ips)
    numbered = index.lines_at(index.number_positions()) if _NUMBERS.keys() & set(kinds) else []
    for kind, finder in _NUMBERS.items():
        if kind in kinds and numbered:
            yield kind, _search(numbered, text, finder)


_NUMBERS = {
    "iban": patterns.ibans,
    "card": patterns.cards,
    "national_id": patterns.national_ids,
    "phone": patterns.phones,
}


def _search(
    lines: list[tuple[int, int]], text: str, finder: Callable[[str, int, int], Iterator[tuple[int, int]]]
) -> Iterator[tuple[int, int]]:
    for start, end in lines:
        yield from finder(text, start, end)


class _CharacterIndex:
    """Positions of a text's lines, digits, dots and colons. One byte per character, `?` beyond ASCII."""

    def __init__(self, text: str) -> None:
        self.codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
        self._digits = self.codes - np.uint8(_ZERO) < 10
        self._ends: Positions | None = None

    def number_positions(self) -> Positions:
        """Digits that are followed by five more of the same number."""
        digits = np.flatnonzero(self._digits)
        if digits.size < _MIN_DIGITS:
            return digits[:0]
        breaks = np.cumsum(1 - _IN_NUMBERS[self.codes], dtype=np.int32)[digits]
        runs = (np.diff(digits) <= _MAX_DISTANCE) & (np.diff(breaks) == 0)
        joined = runs
        for more in range(1, _MIN_DIGITS - 1):
            joined = joined[:-1] & runs[more:]
        return digits[: joined.size][joined]

    def ip_positions(self) -> Positions:
        """Three dots between digits, or three colons, close together."""
        dots = np.flatnonzero(self.codes[1:-1] == _DOT) + 1
        dots = dots[self._digits[dots - 1] & self._digits[dots + 1]]
        colons = np.flatnonzero(self.codes == _COLON)
        return np.concatenate([_close(dots, 3, _DOTS_SPAN), _close(colons, 3, _COLONS_SPAN)])

    def lines_at(self, positions: Positions) -> list[tuple[int, int]]:
        """(start, end) of the lines that contain some of `positions`, each once, in order."""
        if not positions.size:
            return []
        if self._ends is None:
            self._ends = np.append(np.flatnonzero(self.codes == _NEWLINE), self.codes.size)
        numbers = np.unique(np.searchsorted(self._ends, positions))
        starts = np.where(numbers > 0, self._ends[numbers - 1] + 1, 0)
        return list(zip(starts.tolist(), self._ends[numbers].tolist(), strict=True))


def _close(positions: Positions, count: int, span: int) -> Positions:
    """The positions that are followed by `count` - 1 more within `span` characters."""
    if positions.size < count:
        return positions[:0]
    return positions[: positions.size - count + 1][
        positions[count - 1 :] - positions[: positions.size - count + 1] < span
    ]
