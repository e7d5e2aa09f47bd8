"""Words and their hashes: all at once as one by one."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyllama.hashing import hash_of, hash_words, plain_words, word_bounds

WORD = st.binary(min_size=1, max_size=80)
TEXTS = st.one_of(st.text(max_size=300), st.text("ab é中_'0 .\n", max_size=300))


def test_words_are_lower_case_letters_and_digits() -> None:
    assert plain_words("The “Café” isn't_closed — 42%, ﬁne!") == [
        b"the", "café".encode(), b"isn", b"t", b"closed", b"42", b"fine",
    ]  # fmt: skip
    assert plain_words("\ud800 . \n") == []


@given(TEXTS)
def test_hashes_all_at_once_equal_one_by_one(text: str) -> None:
    words = plain_words(text)
    data = np.frombuffer(b" %b " % b" ".join(words), np.uint8)
    starts, ends = word_bounds(data)
    assert [data[start:end].tobytes() for start, end in zip(starts, ends, strict=True)] == words
    assert hash_words(data, starts, ends).tolist() == [hash_of(word) for word in words]


@given(WORD, st.integers(0, 79), st.integers(1, 255))
@example(b"man", 0, ord("m") ^ ord("n"))
def test_words_that_differ_in_one_byte_have_different_hashes(word: bytes, place: int, change: int) -> None:
    other = bytearray(word)
    other[place % len(word)] ^= change
    assert hash_of(bytes(other)) != hash_of(word)


@pytest.mark.parametrize(
    ("word", "expected"),
    [(b"", 1), (b"a", 2 * 97 + 1), (b"ab", (2 * (97 + 98 * 0x9FB21C651E98DF25) + 1) & 0xFFFFFFFFFFFFFFFF)],
)
def test_hashes_by_hand(word: bytes, expected: int) -> None:
    assert hash_of(word) == expected


@given(WORD)
def test_hashes_are_odd(word: bytes) -> None:
    """So an even number, such as `safety_features.GROUP`, is the hash of no word."""
    assert hash_of(word) % 2 == 1


@given(TEXTS)
def test_ascii_and_other_texts_are_parted_alike(text: str) -> None:
    """A letter beyond ASCII at the end changes nothing before it."""
    assert plain_words(text + " é")[:-1] == plain_words(text)
