"""Personal information in a text, replaced with typed placeholders.

Found are e-mail addresses, telephone numbers, public IP addresses, bank accounts (IBAN), payment cards, national ids,
keys and tokens, and passwords in URLs; `pii_patterns.py` says how. Names and postal addresses are not found. Placeholders
are plain words in square brackets: no tokenizer has them as special tokens, and no pattern matches them again.

A numpy pass over the characters comes first: it finds the lines that have enough digits, at signs or colons close
together. Only these are searched, so most text costs no pattern at all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tinyllama.cleaning import pii_patterns as patterns

# In the order in which they are looked for: of two that overlap the earlier kind counts.
KINDS = ("secret", "credentials", "email", "ip", "iban", "card", "national_id", "phone")
PLACEHOLDERS = {kind: f"[{kind.replace('_', ' ')}]" for kind in KINDS}
_MOST_ROUNDS = 8
# A number that means a person has six digits with at most two of these between neighbours.
_FEWEST_DIGITS, _MOST_APART, _SEPARATORS = 6, 3, " ./()-"
_DOTS_SPAN, _COLONS_SPAN = 9, 11  # an IPv4 address has three dots within so many characters, an IPv6 three colons
_AT, _COLON, _DOT, _ZERO, _NEWLINE = map(ord, "@:.0\n")
_IN_NUMBERS = np.zeros(128, np.uint8)
_IN_NUMBERS[[ord(character) for character in "0123456789" + _SEPARATORS]] = 1

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Masked:
    """A text without personal information, and how many of each kind were replaced (kinds with none are left out)."""

    text: str
    counts: dict[str, int] = field(default_factory=dict)


def mask_personal_information(text: str, kinds: tuple[str, ...] = KINDS) -> Masked:
    """`text` with the chosen kinds replaced.

    A placeholder may set free what its neighbour hid (`a@b.org(212) 736-5000`), so masking is repeated until nothing is
    found: masking a masked text changes nothing. After 8 rounds only a text made to provoke it can have something left.
    """
    counts: dict[str, int] = {}
    for _ in range(_MOST_ROUNDS):
        spans = personal_spans(text, kinds)
        if not spans:
            break
        pieces, place = [], 0
        for start, end, kind in spans:
            pieces += [text[place:start], PLACEHOLDERS[kind]]
            place = end
            counts[kind] = counts.get(kind, 0) + 1
        text = "".join([*pieces, text[place:]])
    return Masked(text, counts)


def personal_spans(text: str, kinds: tuple[str, ...] = KINDS) -> list[tuple[int, int, str]]:
    """(start, end, kind) of what is personal, in the order of the text, none overlapping."""
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
    """Each kind with what its finder yields on the lines that can have it."""
    lines = _Lines(text)
    if "secret" in kinds and any(beginning in text for beginning in patterns.SECRET_BEGINNINGS):
        yield "secret", patterns.secrets(text, 0, len(text))
    if "secret" in kinds and patterns.PRIVATE_KEY_MARK in text:
        yield "secret", patterns.private_keys(text)
    if "@" in text:
        at_lines = lines.around(np.flatnonzero(lines.codes == _AT))
        if "credentials" in kinds and "://" in text:
            yield "credentials", _over(at_lines, text, patterns.credentials)
        if "email" in kinds:
            yield "email", _over(at_lines, text, patterns.emails)
    if "ip" in kinds:
        yield "ip", _over(lines.around(lines.address_places()), text, patterns.ips)
    numbered = lines.around(lines.number_places()) if _NUMBERS.keys() & set(kinds) else []
    for kind, finder in _NUMBERS.items():
        if kind in kinds and numbered:
            yield kind, _over(numbered, text, finder)


_NUMBERS = {
    "iban": patterns.ibans,
    "card": patterns.cards,
    "national_id": patterns.national_ids,
    "phone": patterns.phones,
}


def _over(
    lines: list[tuple[int, int]], text: str, finder: Callable[[str, int, int], Iterator[tuple[int, int]]]
) -> Iterator[tuple[int, int]]:
    for start, end in lines:
        yield from finder(text, start, end)


class _Lines:
    """Where a text's lines, digits and colons are: one byte a character, `?` for those beyond ASCII."""

    def __init__(self, text: str) -> None:
        self.codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
        self._digits = self.codes - np.uint8(_ZERO) < 10
        self._ends: Places | None = None

    def number_places(self) -> Places:
        """Digits with five more behind that belong to the same number."""
        digits = np.flatnonzero(self._digits)
        if digits.size < _FEWEST_DIGITS:
            return digits[:0]
        breaks = np.cumsum(1 - _IN_NUMBERS[self.codes], dtype=np.int32)[digits]
        runs = (np.diff(digits) <= _MOST_APART) & (np.diff(breaks) == 0)
        joined = runs
        for more in range(1, _FEWEST_DIGITS - 1):
            joined = joined[:-1] & runs[more:]
        return digits[: joined.size][joined]

    def address_places(self) -> Places:
        """Dots between digits, three close together; colons, three close together."""
        dots = np.flatnonzero(self.codes[1:-1] == _DOT) + 1
        dots = dots[self._digits[dots - 1] & self._digits[dots + 1]]
        colons = np.flatnonzero(self.codes == _COLON)
        return np.concatenate([_close(dots, 3, _DOTS_SPAN), _close(colons, 3, _COLONS_SPAN)])

    def around(self, places: Places) -> list[tuple[int, int]]:
        """(start, end) of the lines that hold some of `places`, each once, in order."""
        if not places.size:
            return []
        if self._ends is None:
            self._ends = np.append(np.flatnonzero(self.codes == _NEWLINE), self.codes.size)
        numbers = np.unique(np.searchsorted(self._ends, places))
        starts = np.where(numbers > 0, self._ends[numbers - 1] + 1, 0)
        return list(zip(starts.tolist(), self._ends[numbers].tolist(), strict=True))


def _close(places: Places, count: int, span: int) -> Places:
    """Those of `places` from which the next `count` - 1 lie within `span` characters."""
    if places.size < count:
        return places[:0]
    return places[: places.size - count + 1][places[count - 1 :] - places[: places.size - count + 1] < span]
