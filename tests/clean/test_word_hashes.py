"""Words and their hashes: all at once as one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.clean.word_hashes import hash_of, hash_words, plain_words, word_bounds

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


@given(TEXTS)
def test_ascii_and_other_texts_are_parted_alike(text: str) -> None:
    """A letter beyond ASCII at the end changes nothing before it."""
    assert plain_words(text + " é")[:-1] == plain_words(text)
