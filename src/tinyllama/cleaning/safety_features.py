"""Hashed word and character n-gram features of text passages for the safety model.

A passage is at most `MAX_PASSAGE_WORDS` words of a paragraph in lower case, with spaces for all characters but letters and
digits. Its features are words, word pairs and triples, and the sequences of 3 to 5 bytes of ` word word `. Each is hashed to
one of `SLOTS` slots, in separate regions for words, tuples and byte sequences, so that a frequent byte sequence never shares
a slot with an insult. The weight of a feature is 1 / sqrt(bytes of the passage without names of groups).

Neutral names of groups of people are all one word, without a word or byte feature of its own: the model sees what is said
about a group, but not about which, so no text is removed for naming a group. (Dixon et al. 2018, "Measuring and mitigating
unintended bias in text classification", measure this bias.)

Features are computed with NumPy for many passages; `tests/cleaning/test_safety_features.py` has the same one by one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from tinyllama.hashing import hash_of, hash_words, plain_words, word_bounds

# Neutral names of groups of people, in lower case; none is an insult. Religion, descent and origin, gender and orientation,
# age and ability: the grounds that hate speech law names (ICCPR article 20; Council of Europe Recommendation 97/20).
_NAMES = """
african africans american americans arab arabs armenian armenians asian asians australian australians black blacks
brazilian brazilians british brit brits bulgarian bulgarians canadian canadians caucasian caucasians chinese colombian
colombians cuban cubans dutch egyptian egyptians english ethiopian ethiopians european europeans filipino filipinos
filipina french german germans greek greeks hispanic hispanics hungarian hungarians indian indians indonesian
indonesians iranian iranians iraqi iraqis irish israeli israelis italian italians jamaican jamaicans japanese kenyan
kenyans korean koreans kurd kurds kurdish latin latina latinas latino latinos latinx lebanese mexican mexicans moroccan
moroccans native nigerian nigerians pakistani pakistanis palestinian palestinians persian persians polish pole poles
portuguese roma romani romanian romanians russian russians scottish serb serbs serbian slavic slav slavs somali somalis
spanish swedish syrian syrians taiwanese thai tibetan tibetans turk turks turkish ukrainian ukrainians vietnamese welsh
white whites yemeni

aboriginal aborigines indigenous immigrant immigrants migrant migrants refugee refugees foreigner foreigners minority
minorities nonwhite coloured colored mixed biracial

agnostic agnostics anglican anglicans atheist atheists baptist baptists buddhist buddhists catholic catholics christian
christians evangelical hindu hindus islam islamic jain jains jew jewish jews judaism lutheran mormon mormons muslim
muslims orthodox protestant protestants quaker quakers shia sikh sikhs sunni taoist zoroastrian

bisexual bisexuals cisgender female females feminist feminists gay gays gender girl girls heterosexual heterosexuals
homosexual homosexuals intersex lesbian lesbians lgbt lgbtq lgbtqia male males man men nonbinary queer straight trans
transgender transgendered transsexual transsexuals transwoman transwomen transman transmen woman women boy boys

blind deaf disabled disability disabilities autistic paralyzed wheelchair elder elderly middleaged old older senior
seniors teenage teenager teenagers young younger millenial millennial
"""
GROUP_NAMES = frozenset(name.encode() for name in _NAMES.split())

FEATURES_VERSION = 2
MAX_PASSAGE_WORDS = 100
MAX_WORD_BYTES = 60  # longer words are truncated
WORD_BITS, TUPLE_BITS, CHAR_BITS = 17, 18, 18
TUPLE_START, CHAR_START = 1 << WORD_BITS, (1 << WORD_BITS) + (1 << TUPLE_BITS)
SLOTS = CHAR_START + (1 << CHAR_BITS)
CHAR_SIZES = (3, 4, 5)
GROUP = 2  # replaces the hash of a group's name; hashes of words are odd
_CHAR_BASE, _CHAR_MIX = 0x01000193, 0x9E3779B1
_WORD_MIX, _NEXT = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F


Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_group_hashes = np.array(sorted(map(hash_of, GROUP_NAMES)), np.uint64)


def passages_of(paragraph: str) -> list[bytes]:
    """Split a paragraph into passages of similar length, each ` word word ` in UTF-8; none without words."""
    words = plain_words(paragraph)
    if len(words) <= MAX_PASSAGE_WORDS:
        return [_passage(words)] if words else []
    count = -(-len(words) // MAX_PASSAGE_WORDS)
    bounds = [number * len(words) // count for number in range(count + 1)]
    return [_passage(words[start:end]) for start, end in pairwise(bounds)]


def _passage(words: list[bytes]) -> bytes:
    joined = b" ".join(words)
    if len(joined) > MAX_PASSAGE_WORDS * 10:  # English has 5 or 6 bytes per word: there may be a very long one
        joined = b" ".join([word[:MAX_WORD_BYTES] for word in words])
    return b" %b " % joined


@dataclass(frozen=True)
class Family:
    """One kind of features, for each position (word or byte) of the passages."""

    slots: Numbers  # shape (positions,)
    starts: Numbers  # first position of each passage: shape (passages,)
    void: Numbers  # positions without a feature, unsorted, some twice


def features_of(passages: Sequence[bytes]) -> tuple[NDArray[np.float64], Iterator[Family]]:
    """Weight of each passage's features, shape (passages,), and the features, one family at a time.

    `passages` are those of `passages_of`, at least one, with at most `hashing.MAX_BYTES` bytes together.
    """
    data = np.frombuffer(b"".join(passages), np.uint8)
    sizes = np.fromiter(map(len, passages), np.int64, len(passages))
    ends = np.cumsum(sizes)
    starts = ends - sizes
    word_starts, word_ends = word_bounds(data)
    hashes = hash_words(data, word_starts, word_ends)
    nearest = np.minimum(np.searchsorted(_group_hashes, hashes), _group_hashes.size - 1)
    named = np.flatnonzero(_group_hashes[nearest] == hashes)
    hashes[named] = GROUP
    first_words = np.searchsorted(word_starts, starts)
    if named.size:
        owners = np.searchsorted(first_words, named, "right") - 1
        sizes = sizes - np.bincount(owners, word_ends[named] - word_starts[named], sizes.size)
    found = chain(
        _word_families(hashes, first_words, named),
        _char_families(data, starts, ends, word_starts[named], word_ends[named]),
    )
    return 1 / np.sqrt(sizes), found


def _word_families(hashes: Hashes, starts: Numbers, named: Numbers) -> Iterator[Family]:
    """Words other than names of groups; pairs; triples. The position is that of the first word."""
    last = np.append(starts[1:], hashes.size) - 1
    mixed = hashes * np.uint64(_WORD_MIX)
    yield Family(_top_bits(mixed, WORD_BITS), starts, named)
    pairs = (hashes * np.uint64(_NEXT) ^ _shifted(mixed, 1) >> np.uint64(29)) * np.uint64(_WORD_MIX)
    yield Family(_top_bits(pairs, TUPLE_BITS) + TUPLE_START, starts, last)
    triples = (pairs * np.uint64(_NEXT) ^ _shifted(mixed, 2) >> np.uint64(31)) * np.uint64(_WORD_MIX)
    void = np.concatenate([last, np.maximum(last - 1, starts)])
    yield Family(_top_bits(triples, TUPLE_BITS) + TUPLE_START, starts, void)


def _char_families(
    data: NDArray[np.uint8],
    starts: Numbers,
    ends: Numbers,
    named_starts: Numbers,
    named_ends: Numbers,
) -> Iterator[Family]:
    """Byte sequences of each size, inside one passage and without any byte of a group's name."""
    values = np.append(data, np.zeros(CHAR_SIZES[-1], np.uint8)).astype(np.uint32)
    hashes = values[: data.size]
    for size in range(2, CHAR_SIZES[-1] + 1):
        hashes = hashes * np.uint32(_CHAR_BASE) + values[size - 1 : size - 1 + data.size]
        if size not in CHAR_SIZES:
            continue
        void = [np.maximum(ends - back, starts) for back in range(1, size)]
        if named_starts.size:
            void.append(numbers_between(np.maximum(named_starts - size + 1, 0), named_ends))
        slots = (hashes * np.uint32(_CHAR_MIX) >> np.uint32(32 - CHAR_BITS)).astype(np.int64) + CHAR_START
        yield Family(slots, starts, np.concatenate(void))


def _top_bits(hashes: Hashes, bits: int) -> Numbers:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _shifted(values: Hashes, positions: int) -> Hashes:
    """The value so many positions later, for each position; those past the end are void."""
    return np.roll(values, -positions)


def numbers_between(starts: Numbers, ends: Numbers) -> Numbers:
    """The numbers start, start + 1, ... end - 1 of all pairs."""
    lengths = ends - starts
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
