"""Features of passages: the vectorised way as the obvious one; blindness to names of groups."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinyllama.cleaning import safety_features as features
from tinyllama.cleaning.safety_features import GROUP_NAMES, MAX_PASSAGE_WORDS, SLOTS, features_of, passages_of
from tinyllama.document_files import paragraphs_in
from tinyllama.hashing import hash_of

WORDS = st.sampled_from(["a", "is", "women", "jews", "kind", "they", "über", "42", "supercalifragilistic", "muslim"])
TEXTS = st.one_of(st.text(max_size=200), st.lists(WORDS, min_size=1, max_size=250).map(" ".join))
MASK_64, MASK_32 = (1 << 64) - 1, (1 << 32) - 1


def reference_slots(passage: bytes) -> Counter[int]:
    """One n-gram at a time."""
    words = passage.decode().split()
    named = [word.encode() in GROUP_NAMES for word in words]
    hashes = [
        features.GROUP if is_named else hash_of(word.encode()) for word, is_named in zip(words, named, strict=True)
    ]
    mixed = [value * features._WORD_MIX & MASK_64 for value in hashes]
    slots = [value >> 64 - features.WORD_BITS for value, is_named in zip(mixed, named, strict=True) if not is_named]
    for size in (2, 3):
        for place in range(len(words) - size + 1):
            value = (hashes[place] * features._NEXT ^ mixed[place + 1] >> 29) * features._WORD_MIX & MASK_64
            if size == 3:
                value = (value * features._NEXT ^ mixed[place + 2] >> 31) * features._WORD_MIX & MASK_64
            slots.append((value >> 64 - features.TUPLE_BITS) + features.TUPLE_START)
    spans, place = [], 1
    for word, is_named in zip(passage.split(), named, strict=True):
        spans += [(place, place + len(word))] if is_named else []
        place += len(word) + 1
    for size in features.CHAR_SIZES:
        for place in range(len(passage) - size + 1):
            if any(place < end and start < place + size for start, end in spans):
                continue
            value = 0
            for byte in passage[place : place + size]:
                value = (value * features._CHAR_BASE + byte) & MASK_32
            slots.append((value * features._CHAR_MIX & MASK_32) >> 32 - features.CHAR_BITS)
            slots[-1] += features.CHAR_START
    return Counter(slots)


@given(st.lists(TEXTS, min_size=1, max_size=4))
@example(["a nan", "man"])
@settings(max_examples=60, deadline=None)
def test_all_at_once_equals_one_by_one(texts: list[str]) -> None:
    passages = [passage for text in texts for passage in passages_of(text)]
    if not passages:
        return
    found = [Counter[int]() for _ in passages]
    scale, families = features_of(passages)
    sizes = [len(passage) - sum(len(w) for w in passage.split() if w in GROUP_NAMES) for passage in passages]
    np.testing.assert_allclose(scale, 1 / np.sqrt(sizes))
    for family in families:
        real = np.ones(family.slots.size, bool)
        real[family.void] = False
        ends = [*family.starts[1:], family.slots.size]
        for counter, start, end in zip(found, family.starts, ends, strict=True):
            counter.update(family.slots[start:end][real[start:end]].tolist())
    assert found == [reference_slots(passage) for passage in passages]
    assert all(0 <= slot < SLOTS for counter in found for slot in counter)


@given(TEXTS)
def test_passages_keep_every_word_in_order(text: str) -> None:
    passages = passages_of(text)
    assert all(0 < len(passage.split()) <= MAX_PASSAGE_WORDS for passage in passages)
    lengths = [len(passage.split()) for passage in passages]
    assert max(lengths, default=0) - min(lengths, default=0) <= 1


def test_a_word_without_end_is_cut() -> None:
    assert len(passages_of("x" * 100_000)[0]) < 100


@pytest.mark.parametrize("template", ["i like {} people", "{} are here", "one of the {}", "{}"])
def test_which_group_is_named_is_not_seen(template: str) -> None:
    slots = [reference_slots(passages_of(template.format(name))[0]) for name in ("gay", "jewish", "transgender", "old")]
    assert all(found == slots[0] for found in slots)


def test_paragraphs() -> None:
    assert paragraphs_in("a\nb\n\nc\n  \nd") == ["a\nb", "c", "d"]
    assert paragraphs_in("a\nb") == ["a", "b"]
    assert paragraphs_in("") == [""]
