"""Is a text good enough to train on? The rules of Gopher, C4 and FineWeb, on many texts at once.

`gopher_quality`, `gopher_repetition` and `fineweb` yield their rules in the order in which they are asked: the reason for
which a text goes, and which texts do. Words, lines and paragraphs are as in `text_batch`. Languages written without blanks
need other thresholds. `tests/cleaning/slow_quality.py` has each rule on one text, the obvious way.

Sources: Gopher, Rae et al. 2021 (arXiv:2112.11446), appendix A1.1; C4, Raffel et al. 2020 (arXiv:1910.10683),
section 2.2; FineWeb, Penedo et al. 2024 (arXiv:2406.17557), section 3.6.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.text_batch import Pieces, TextBatch, batches_of

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

Checks = Iterator[tuple[str, NDArray[np.bool_]]]  # reason, and of each text whether it goes: shape (texts,)


def quality_reasons(texts: Sequence[str], config: CleanConfig) -> list[tuple[str, str]]:
    """Apply every rule that is on; of each text (the text with C4's lines taken out, reason or "")."""
    found: list[tuple[str, str]] = []
    for run in batches_of(texts):
        batch = TextBatch(run)
        reasons = [""] * batch.size
        if config.gopher_quality:
            _note(gopher_quality(batch, config), reasons)
        if config.gopher_repetition:
            _note(gopher_repetition(batch, config), reasons)
        edited = c4(batch, run, reasons, config)
        alive = [number for number, (_, reason) in enumerate(edited) if not reason]
        if config.fineweb and alive:
            rest = [edited[number][0] for number in alive]
            last = [""] * len(rest)
            _note(fineweb(TextBatch(rest), config), last)
            for number, text, reason in zip(alive, rest, last, strict=True):
                edited[number] = text, reason
        found += edited
    return found


def _note(checks: Checks, reasons: list[str]) -> None:
    """Give each text without a reason the first one that holds for it."""
    for reason, mask in checks:
        for number in np.flatnonzero(mask).tolist():
            reasons[number] = reasons[number] or reason


def gopher_quality(batch: TextBatch, config: CleanConfig) -> Checks:
    """`gopher_short`, `gopher_long`, `gopher_word_length`, `gopher_symbols`, `gopher_bullets`, `gopher_ellipsis`,
    `gopher_alphabetic`, `gopher_stop_words`."""
    words, lines, codes = batch.words, batch.lines, batch.codes
    count = batch.count(words.owners)
    yield "gopher_short", count < max(config.min_words, 1)
    yield "gopher_long", count > config.max_words
    some = np.maximum(count, 1)
    mean = batch.total(words.owners, words.chars) / some
    yield "gopher_word_length", (mean < config.min_mean_word_length) | (mean > config.max_mean_word_length)
    most_symbols = config.max_symbols_per_word * count
    hashes = batch.count(batch.owners_of(np.flatnonzero(codes == _HASH)))
    yield "gopher_symbols", (hashes > most_symbols) | (_ellipses(batch) > most_symbols)
    bulleted = np.isin(codes[lines.starts], [ord(mark) for mark in BULLETS])
    yield "gopher_bullets", _share(batch, lines, bulleted) > config.max_bullet_lines
    yield "gopher_ellipsis", _share(batch, lines, _trails_off(batch, lines)) > config.max_ellipsis_lines
    alphabetic = batch.total(words.owners, batch.words_with_letters())
    yield "gopher_alphabetic", alphabetic / some < config.min_alphabetic_words
    yield "gopher_stop_words", _stop_words(batch) < config.min_stop_words


def _ellipses(batch: TextBatch) -> NDArray[np.int64]:
    """How many "..." (a longer run of dots has one for three) and "…" each text has."""
    dots = np.flatnonzero(batch.codes == _DOT)
    first = np.flatnonzero(np.diff(dots, prepend=-2) > 1)
    runs = np.diff(np.append(first, dots.size))
    owners = batch.owners_of(dots[first])
    return batch.total(owners, runs // 3) + batch.count(batch.owners_of(np.flatnonzero(batch.codes == _ELLIPSIS)))


def _trails_off(batch: TextBatch, lines: Pieces) -> NDArray[np.bool_]:
    """Of each line whether it ends in "..." or "…"."""
    codes = batch.codes
    three = lines.chars >= 3
    for back in (1, 2, 3):
        three &= codes[np.maximum(lines.ends - back, 0)] == _DOT
    return three | (codes[lines.ends - 1] == _ELLIPSIS)


def _stop_words(batch: TextBatch) -> NDArray[np.int64]:
    """How many of the stop words each text has, in any case."""
    words = batch.words
    few = np.flatnonzero((words.chars >= 2) & (words.chars <= 4))
    starts, chars = words.starts[few], words.chars[few]
    packed = np.zeros(few.size, np.uint64)
    for place in range(4):  # lower case of ASCII letters is one bit; all others stay what they are
        codes = batch.codes[np.minimum(starts + place, batch.codes.size - 1)]
        codes = np.where((codes >= 65) & (codes <= 90), codes | 32, codes)
        packed |= np.where(place < chars, np.minimum(codes, 255), 0).astype(np.uint64) << np.uint64(8 * place)
    found = np.zeros(batch.size, np.int64)
    for word in STOP_WORDS:
        there = packed == int.from_bytes(word.encode(), "little")
        found += batch.count(words.owners[few[there]]) > 0
    return found


def _share(batch: TextBatch, pieces: Pieces, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each text the fraction of its pieces that are chosen; 0 of none."""
    return batch.count(pieces.owners[chosen]) / np.maximum(batch.count(pieces.owners), 1)


def _char_share(batch: TextBatch, pieces: Pieces, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each text the fraction of its pieces' characters that are in chosen ones."""
    chars = batch.total(pieces.owners[chosen], pieces.chars[chosen])
    return chars / np.maximum(batch.total(pieces.owners, pieces.chars), 1)


def gopher_repetition(batch: TextBatch, config: CleanConfig) -> Checks:
    """`gopher_duplicate_lines`, `gopher_duplicate_line_chars`, `gopher_duplicate_paragraphs`,
    `gopher_duplicate_paragraph_chars`, `gopher_top_<n>gram` for n = 2 to 4, `gopher_duplicate_<n>grams` for 5 to 10."""
    for name, pieces, most, most_chars in (
        ("line", batch.lines, config.max_duplicate_lines, config.max_duplicate_line_chars),
        ("paragraph", batch.paragraphs, config.max_duplicate_paragraphs, config.max_duplicate_paragraph_chars),
    ):
        again = batch.again(pieces)
        yield f"gopher_duplicate_{name}s", _share(batch, pieces, again) > most
        yield f"gopher_duplicate_{name}_chars", _char_share(batch, pieces, again) > most_chars
    most_of = {n: ("top_{}gram", most) for n, most in enumerate(config.max_top_ngram_chars, 2)}
    most_of |= {n: ("duplicate_{}grams", most) for n, most in enumerate(config.max_duplicate_ngram_chars, 5)}
    for n, shares in repeated_ngram_chars(batch, range(2, 5), range(5, 11)):
        name, most = most_of[n]
        yield f"gopher_{name.format(n)}", shares > most


def c4(batch: TextBatch, texts: Sequence[str], reasons: list[str], config: CleanConfig) -> list[tuple[str, str]]:
    """C4's rules on the texts that have no reason yet: of each text (the text, reason).

    Page rules: `c4_curly_bracket`, `c4_lorem_ipsum`, `c4_sentences`. The line rules edit: the text comes back without the
    lines that go; `c4_no_lines` when none is left. Blank lines between paragraphs stay.
    """
    goes = _lines_that_go(batch, config)
    lines_of = np.searchsorted(batch.lines.owners, np.arange(batch.size + 1)).tolist()
    found = []
    for number, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
        if not reason:
            text, reason = _c4_of_one(text, goes[lines_of[number] : lines_of[number + 1]], config)
        found.append((text, reason))
    return found


def _c4_of_one(text: str, goes: NDArray[np.bool_], config: CleanConfig) -> tuple[str, str]:
    """`goes`: of the text's lines, those that the rules about punctuation and length take out."""
    if config.c4_curly_bracket and "{" in text:
        return text, "c4_curly_bracket"
    lowered = text.lower() if config.c4_boilerplate else ""
    if "lorem ipsum" in lowered:
        return text, "c4_lorem_ipsum"
    boilerplate = any(phrase in lowered for phrase in BOILERPLATE)
    if boilerplate or goes.any():
        text = _without_lines(text, goes, boilerplate)
    if config.c4_terminal_punctuation or config.c4_min_line_words or config.c4_boilerplate:
        text = _BLANK_LINES.sub("\n\n", text).strip()
        if not text:
            return text, "c4_no_lines"
    if config.c4_min_sentences and not has_sentences(text, config.c4_min_sentences):
        return text, "c4_sentences"
    return text, ""


def _without_lines(text: str, goes: NDArray[np.bool_], boilerplate: bool) -> str:
    """The text without the lines of `goes`; with `boilerplate`, without those that hold such a phrase either."""
    kept, number = [], 0
    for line in text.split("\n"):
        if not line or line.isspace():
            kept.append(line)
            continue
        bad = goes[number] or (boilerplate and any(phrase in line.lower() for phrase in BOILERPLATE))
        number += 1
        if not bad:
            kept.append(line)
    return "\n".join(kept)


def _lines_that_go(batch: TextBatch, config: CleanConfig) -> NDArray[np.bool_]:
    """Of each line whether C4's rules about its end and its words take it out."""
    lines = batch.lines
    goes = np.zeros(lines.starts.size, bool)
    if config.c4_terminal_punctuation:
        ends = batch.codes[lines.ends - 1]
        goes |= ~np.isin(ends, [ord(mark) for mark in C4_TERMINAL_MARKS]) | (_trails_off(batch, lines))
    if config.c4_min_line_words:
        goes |= np.diff(np.append(batch.first_words, batch.words.starts.size)) < config.c4_min_line_words
    return goes


def has_sentences(text: str, count: int) -> bool:
    """Whether there are so many sentence ends: a full stop, exclamation or question mark, closing marks, then a blank."""
    return next(islice(_SENTENCE_END.finditer(text), count - 1, None), None) is not None


def fineweb(batch: TextBatch, config: CleanConfig) -> Checks:
    """`fineweb_line_punctuation`, `fineweb_duplicate_line_chars`, `fineweb_short_lines`."""
    lines = batch.lines
    yield "fineweb_short_lines", batch.count(lines.owners) == 0
    if config.fineweb_line_punctuation:
        ends = np.isin(batch.codes[lines.ends - 1], [ord(mark) for mark in TERMINAL_MARKS])
        yield "fineweb_line_punctuation", _share(batch, lines, ends) <= config.min_punctuated_lines
    if config.max_fineweb_duplicate_chars > 0:
        again = _char_share(batch, lines, batch.again(lines))
        yield "fineweb_duplicate_line_chars", again >= config.max_fineweb_duplicate_chars
    if config.fineweb_short_lines:
        short = _share(batch, lines, lines.chars < config.short_line_chars)
        yield "fineweb_short_lines", short >= config.max_short_lines


# How much of a text is repeated n-grams of words (Rae et al. 2021, appendix A1.1), for many texts at once.
#
# All shares are of characters, blanks left out. An n-gram can only come twice where the (n-1)-grams at both its places do,
# so each size looks only at the places that the size before has left; few are left after the third. The tests have the
# same one n-gram at a time.
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
