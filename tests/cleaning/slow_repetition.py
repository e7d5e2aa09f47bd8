"""Repeated lines and n-grams the obvious way: the reference of `repetition.py`."""

from collections import Counter
from collections.abc import Iterator, Sequence


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

    Among equally common ones the longest counts, then the first.
    """
    for n in sizes:
        ngrams = _ngrams(words, n)
        counts = Counter(ngrams)
        most = max(counts.values(), default=0)
        top = max(
            (ngram for ngram in counts if counts[ngram] == most), key=lambda ngram: sum(map(len, ngram)), default=()
        )
        starts = [place for place, ngram in enumerate(ngrams) if ngram == top] if most > 1 else []
        yield n, _covered_chars(words, starts, n)


def duplicate_ngram_chars(words: Sequence[str], sizes: range) -> Iterator[tuple[int, float]]:
    """For each n of `sizes`: n, and the share of characters inside n-grams that occurred before; overlaps count once."""
    for n in sizes:
        seen: set[tuple[str, ...]] = set()
        starts = []
        for place, ngram in enumerate(_ngrams(words, n)):
            if ngram in seen:
                starts.append(place)
            seen.add(ngram)
        yield n, _covered_chars(words, starts, n)


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


def _covered_chars(words: Sequence[str], starts: list[int], n: int) -> float:
    """The share of all characters in words that some n-gram at `starts` covers."""
    covered = {place for start in starts for place in range(start, start + n)}
    return sum(len(words[place]) for place in covered) / sum(map(len, words)) if covered else 0.0
