"""Quality rules of Gopher, C4 and FineWeb on batches of texts.

`gopher_quality`, `gopher_repetition` and `fineweb` yield their rules in order: the reason, and which texts it drops.
Words, lines and paragraphs are those of `text_batch`. Languages written without spaces need other thresholds.
`tests/cleaning/slow_quality.py` has the same rules on one text at a time.

Sources: Gopher, Rae et al. 2021 (arXiv:2112.11446), appendix A1.1; C4, Raffel et al. 2020 (arXiv:1910.10683),
section 2.2; FineWeb, Penedo et al. 2024 (arXiv:2406.17557), section 3.6.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tinyllama.cleaning.clean_config import C4Config, FinewebConfig, GopherConfig, QualityConfig
from tinyllama.cleaning.text_batch import Hashes, Numbers, Segments, TextBatch, batches_of, without_lines

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("-", "*", "•", "‣", "▪", "●", "○", "–")
TERMINAL_MARKS = (".", "!", "?", '"', "'", "”", "’", "…", "。", "！", "？")
C4_TERMINAL_MARKS = (".", "!", "?", '"')
BOILERPLATE = (
    "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
)  # fmt: skip
_SENTENCE_END = re.compile(r"[.!?][\"')\]”’]{0,3}(?:\s|$)|[。！？]")
_BLANK_LINES = re.compile(r"\n\s*\n")
_HASH, _DOT, _ELLIPSIS = map(ord, "#.…")

Mask = NDArray[np.bool_]
Shares = NDArray[np.float64]  # shape (texts,)
Checks = Iterator[tuple[str, Mask]]  # reason, and which texts are dropped: shape (texts,)


def quality_reasons(texts: Sequence[str], config: QualityConfig) -> list[tuple[str, str]]:
    """Apply all enabled rules; return for each text (the text without the lines that C4 removes, reason or "")."""
    found: list[tuple[str, str]] = []
    for run in batches_of(texts):
        batch = TextBatch(run)
        reasons = [""] * batch.size
        if config.gopher_quality:
            _add_reasons(gopher_quality(batch, config), reasons)
        if config.gopher_repetition:
            _add_reasons(gopher_repetition(batch, config), reasons)
        edited = c4(batch, run, reasons, config)
        kept = [number for number, (_, reason) in enumerate(edited) if not reason]
        if config.fineweb and kept:
            kept_texts = [edited[number][0] for number in kept]
            reasons = [""] * len(kept)
            _add_reasons(fineweb(TextBatch(kept_texts), config), reasons)
            for number, text, reason in zip(kept, kept_texts, reasons, strict=True):
                edited[number] = text, reason
        found += edited
    return found


def _add_reasons(checks: Checks, reasons: list[str]) -> None:
    """Give each text without a reason the first one that drops it."""
    for reason, dropped in checks:
        for number in np.flatnonzero(dropped).tolist():
            reasons[number] = reasons[number] or reason


def gopher_quality(batch: TextBatch, config: GopherConfig) -> Checks:
    """`gopher_short`, `gopher_long`, `gopher_word_length`, `gopher_symbols`, `gopher_bullets`, `gopher_ellipsis`,
    `gopher_alphabetic`, `gopher_stop_words`."""
    words, lines, codes = batch.words, batch.lines, batch.codes
    count = batch.count(words.owners)
    yield "gopher_short", count < max(config.min_words, 1)
    yield "gopher_long", count > config.max_words
    some = np.maximum(count, 1)
    mean = batch.total(words.owners, words.chars) / some
    yield "gopher_word_length", (mean < config.min_mean_word_length) | (mean > config.max_mean_word_length)
    max_symbols = config.max_symbols_per_word * count
    hashes = batch.count(batch.owners_of(np.flatnonzero(codes == _HASH)))
    yield "gopher_symbols", (hashes > max_symbols) | (_ellipses(batch) > max_symbols)
    bulleted = np.isin(codes[lines.starts], [ord(mark) for mark in BULLETS])
    yield "gopher_bullets", _share(batch, lines, bulleted) > config.max_bullet_lines
    yield "gopher_ellipsis", _share(batch, lines, _ends_in_ellipsis(batch, lines)) > config.max_ellipsis_lines
    alphabetic = batch.total(words.owners, batch.words_with_letters())
    yield "gopher_alphabetic", alphabetic / some < config.min_alphabetic_words
    yield "gopher_stop_words", _stop_word_counts(batch) < config.min_stop_words


def _ellipses(batch: TextBatch) -> Numbers:
    """Number of "..." (one for every three dots of a longer run) and "…" in each text."""
    dots = np.flatnonzero(batch.codes == _DOT)
    first = np.flatnonzero(np.diff(dots, prepend=-2) > 1)
    runs = np.diff(np.append(first, dots.size))
    owners = batch.owners_of(dots[first])
    return batch.total(owners, runs // 3) + batch.count(batch.owners_of(np.flatnonzero(batch.codes == _ELLIPSIS)))


def _ends_in_ellipsis(batch: TextBatch, lines: Segments) -> Mask:
    """Whether each line ends in "..." or "…"."""
    codes = batch.codes
    three = lines.chars >= 3
    for back in (1, 2, 3):
        three &= codes[np.maximum(lines.ends - back, 0)] == _DOT
    return three | (codes[lines.ends - 1] == _ELLIPSIS)


def _stop_word_counts(batch: TextBatch) -> Numbers:
    """How many of the stop words each text contains, in any case."""
    words = batch.words
    short = np.flatnonzero((words.chars >= 2) & (words.chars <= 4))
    starts, chars = words.starts[short], words.chars[short]
    packed = np.zeros(short.size, np.uint64)
    for index in range(4):  # one bit makes an ASCII letter lower case
        codes = batch.codes[np.minimum(starts + index, batch.codes.size - 1)]
        codes = np.where((codes >= 65) & (codes <= 90), codes | 32, codes)
        packed |= np.where(index < chars, np.minimum(codes, 255), 0).astype(np.uint64) << np.uint64(8 * index)
    found = np.zeros(batch.size, np.int64)
    for word in STOP_WORDS:
        equal = packed == int.from_bytes(word.encode(), "little")
        found += batch.count(words.owners[short[equal]]) > 0
    return found


def _share(batch: TextBatch, segments: Segments, chosen: Mask) -> Shares:
    """Fraction of each text's segments that are chosen; 0 for a text without any."""
    return batch.count(segments.owners[chosen]) / np.maximum(batch.count(segments.owners), 1)


def _char_share(batch: TextBatch, segments: Segments, chosen: Mask) -> Shares:
    """Fraction of the characters of each text's segments that are in chosen ones."""
    chars = batch.total(segments.owners[chosen], segments.chars[chosen])
    return chars / np.maximum(batch.total(segments.owners, segments.chars), 1)


def gopher_repetition(batch: TextBatch, config: GopherConfig) -> Checks:
    """`gopher_duplicate_lines`, `gopher_duplicate_line_chars`, `gopher_duplicate_paragraphs`,
    `gopher_duplicate_paragraph_chars`, `gopher_top_<n>gram` for n = 2 to 4, `gopher_duplicate_<n>grams` for 5 to 10."""
    for name, segments, max_share, max_char_share in (
        ("line", batch.lines, config.max_duplicate_lines, config.max_duplicate_line_chars),
        ("paragraph", batch.paragraphs, config.max_duplicate_paragraphs, config.max_duplicate_paragraph_chars),
    ):
        repeated = batch.is_repeated(segments)
        yield f"gopher_duplicate_{name}s", _share(batch, segments, repeated) > max_share
        yield f"gopher_duplicate_{name}_chars", _char_share(batch, segments, repeated) > max_char_share
    limits = {n: (f"top_{n}gram", limit) for n, limit in enumerate(config.max_top_ngram_chars, 2)}
    limits |= {n: (f"duplicate_{n}grams", limit) for n, limit in enumerate(config.max_duplicate_ngram_chars, 5)}
    for n, shares in repeated_ngram_chars(batch, range(2, 5), range(5, 11)):
        name, limit = limits[n]
        yield f"gopher_{name}", shares > limit


def c4(batch: TextBatch, texts: Sequence[str], reasons: list[str], config: C4Config) -> list[tuple[str, str]]:
    """Apply C4's rules to the texts that have no reason yet; return (text, reason) for each.

    Page rules: `c4_curly_bracket`, `c4_lorem_ipsum`, `c4_sentences`. The line rules remove lines from the text;
    `c4_no_lines` when none is left. Blank lines between paragraphs are kept.
    """
    removed = _lines_to_remove(batch, config)
    starts = np.searchsorted(batch.lines.owners, np.arange(batch.size + 1)).tolist()
    found = []
    for number, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
        if not reason:
            lines = np.flatnonzero(removed[starts[number] : starts[number + 1]])
            text, reason = _c4_of_one(text, set(lines.tolist()), config)
        found.append((text, reason))
    return found


def _c4_of_one(text: str, removed: set[int], config: C4Config) -> tuple[str, str]:
    """`removed`: numbers of the lines that the rules about punctuation and length remove."""
    if config.c4_curly_bracket and "{" in text:
        return text, "c4_curly_bracket"
    lowered = text.lower() if config.c4_boilerplate else ""
    if "lorem ipsum" in lowered:
        return text, "c4_lorem_ipsum"
    if any(phrase in lowered for phrase in BOILERPLATE):
        lines = (line.lower() for line in text.split("\n") if line and not line.isspace())
        removed |= {number for number, line in enumerate(lines) if any(phrase in line for phrase in BOILERPLATE)}
    if removed:
        text = without_lines(text, removed)
    if config.c4_terminal_punctuation or config.c4_min_line_words or config.c4_boilerplate:
        text = _BLANK_LINES.sub("\n\n", text).strip()
        if not text:
            return text, "c4_no_lines"
    if config.c4_min_sentences and not has_sentences(text, config.c4_min_sentences):
        return text, "c4_sentences"
    return text, ""


def _lines_to_remove(batch: TextBatch, config: C4Config) -> Mask:
    """The lines that C4's rules about terminal punctuation and number of words remove."""
    lines = batch.lines
    removed = np.zeros(lines.starts.size, bool)
    if config.c4_terminal_punctuation:
        ends = batch.codes[lines.ends - 1]
        removed |= ~np.isin(ends, [ord(mark) for mark in C4_TERMINAL_MARKS]) | _ends_in_ellipsis(batch, lines)
    if config.c4_min_line_words:
        removed |= batch.words_per_line < config.c4_min_line_words
    return removed


def has_sentences(text: str, count: int) -> bool:
    """Whether the text has `count` sentence ends: a mark (. ! ?), closing quotes or brackets, then white space."""
    return next(islice(_SENTENCE_END.finditer(text), count - 1, None), None) is not None


def fineweb(batch: TextBatch, config: FinewebConfig) -> Checks:
    """`fineweb_line_punctuation`, `fineweb_duplicate_line_chars`, `fineweb_short_lines`."""
    lines = batch.lines
    yield "fineweb_short_lines", batch.count(lines.owners) == 0
    if config.fineweb_line_punctuation:
        ends = np.isin(batch.codes[lines.ends - 1], [ord(mark) for mark in TERMINAL_MARKS])
        yield "fineweb_line_punctuation", _share(batch, lines, ends) <= config.min_punctuated_lines
    if config.max_fineweb_duplicate_chars > 0:
        repeated = _char_share(batch, lines, batch.is_repeated(lines))
        yield "fineweb_duplicate_line_chars", repeated >= config.max_fineweb_duplicate_chars
    if config.fineweb_short_lines:
        short = _share(batch, lines, lines.chars < config.short_line_chars)
        yield "fineweb_short_lines", short >= config.max_short_lines


# Repeated n-grams of words (Rae et al. 2021, appendix A1.1). All shares are of characters, without white space. An n-gram
# can only repeat where the (n-1)-grams at both positions repeat, so each size looks only at the positions that the size
# before has left; few are left after the third.
_MIX, _NEXT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def repeated_ngram_chars(batch: TextBatch, top_sizes: range, sizes: range) -> Iterator[tuple[int, Shares]]:
    """Yield each n, and the share of each text's characters in repeated n-grams. The texts must have words.

    For n in `top_sizes` these are all occurrences of the most frequent n-gram (among equally frequent ones the longest,
    then the first; 0.0 when none repeats). For n in `sizes` they are the n-grams that occurred before. Overlaps count once.
    """
    words = batch.words
    ends = np.zeros(words.starts.size + 1, np.int64)  # characters of all words before each
    np.cumsum(words.chars, out=ends[1:])
    all_chars = batch.total(words.owners, words.chars)
    positions, keys = np.arange(words.starts.size), words.hashes
    for n in range(2, max(top_sizes.stop, sizes.stop)):
        positions, keys = _repeated(positions, keys, n, words.owners, words.hashes)
        if n in top_sizes:
            chosen = _most_frequent(
                positions, keys, ends[positions + n] - ends[positions], words.owners[positions], batch.size
            )
        elif n in sizes:
            chosen = _later_ones(positions, keys)
        else:
            continue
        until = np.minimum(chosen + n, np.append(chosen[1:], words.starts.size))
        covered = batch.total(words.owners[chosen], ends[until] - ends[chosen])
        yield n, covered / np.maximum(all_chars, 1)


def _repeated(positions: Numbers, keys: Hashes, n: int, owners: Numbers, hashes: Hashes) -> tuple[Numbers, Hashes]:
    """Positions, in order, and hashes of the n-grams that repeat in their text, given those of the (n-1)-grams."""
    fits = positions + n - 1 < owners.size
    positions, keys = positions[fits], keys[fits]
    inside = owners[positions] == owners[positions + n - 1]
    positions, keys = positions[inside], keys[inside]
    if n == 2:  # from here on the hashes of different texts differ
        keys = keys + owners[positions].astype(np.uint64) * _NEXT
    keys = (keys ^ keys >> np.uint64(31)) * _MIX + hashes[positions + n - 1] * _NEXT
    order = np.argsort(keys)
    equal = keys[order[1:]] == keys[order[:-1]]
    twice = np.zeros(keys.size, bool)
    twice[order[1:][equal]] = True
    twice[order[:-1][equal]] = True
    return positions[twice], keys[twice]


def _later_ones(positions: Numbers, keys: Hashes) -> Numbers:
    """The positions whose n-gram occurred before."""
    later = np.ones(positions.size, bool)
    later[np.unique(keys, return_index=True)[1]] = False
    return positions[later]


def _most_frequent(positions: Numbers, keys: Hashes, chars: Numbers, owners: Numbers, texts: int) -> Numbers:
    """The positions of each text's most frequent n-gram; among equally frequent ones the longest, then the first."""
    _, first, numbers, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    # in this order the last of each text is its most frequent
    order = np.lexsort((-first, chars[first], counts, owners[first]))
    best = np.full(texts, -1)
    best[owners[first][order]] = order
    return positions[best[owners] == numbers.reshape(-1)]
