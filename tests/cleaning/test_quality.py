"""Each rule on a text whose figures were counted by hand, in both forms; and both forms on any texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cleaning import slow_quality
from tests.cleaning.slow_repetition import duplicate_ngram_chars, duplicate_shares, top_ngram_chars
from tinyllama.cleaning import quality
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.quality import repeated_ngram_chars
from tinyllama.cleaning.text_batch import TextBatch, batches_of

PROSE = "The cat sat with the dog and then it went to bed early."  # 13 words, 42 letters and a full stop
LOOSE = CleanConfig(min_words=1, c4_min_sentences=0, c4_min_line_words=0, c4_terminal_punctuation=False)


def config(**changes: object) -> CleanConfig:
    return CleanConfig(**{**LOOSE.model_dump(), **changes})


class BothForms:
    """Each group of rules on one text: by the batch, and the obvious way; they must agree."""

    def _reason(self, group: str, text: str, chosen: CleanConfig) -> str:
        checks = getattr(quality, group)(TextBatch(["an other text", text, "the last"]), chosen)
        reason = next((name for name, mask in checks if mask[1]), "")
        assert reason == getattr(slow_quality, group)(text, chosen)
        return reason

    def gopher_quality(self, text: str, chosen: CleanConfig) -> str:
        return self._reason("gopher_quality", text, chosen)

    def gopher_repetition(self, text: str, chosen: CleanConfig) -> str:
        return self._reason("gopher_repetition", text, chosen)

    def fineweb(self, text: str, chosen: CleanConfig) -> str:
        return self._reason("fineweb", text, chosen)

    def c4(self, text: str, chosen: CleanConfig) -> tuple[str, str]:
        texts = ["one", text, "two"]
        found = quality.c4(TextBatch(texts), texts, ["", "", ""], chosen)[1]
        assert found == slow_quality.c4(text, chosen)
        return found


rules = BothForms()


def ngram_shares(words: list[str], top_sizes: range, sizes: range) -> dict[int, float]:
    """By the batch, and the obvious way; they must agree."""
    texts = ["an other text " * 3, " ".join(words), "the last"]
    found = {n: float(shares[1]) for n, shares in repeated_ngram_chars(TextBatch(texts), top_sizes, sizes)}
    slow = dict(top_ngram_chars(words, top_sizes)) | dict(duplicate_ngram_chars(words, sizes))
    assert found == pytest.approx(slow)
    return found


def test_good_prose_passes_every_default_rule() -> None:
    text = (
        "The old harbour town had two lighthouses, and each was kept by a family that spoke to no one else.\n"
        "Every evening they lit their lamps within a minute of sunset, whatever the weather might be.\n"
        "Ships coming home could see both lights from twenty miles away and steer between them.\n"
        "Nobody remembered why the quarrel began, but all agreed that it must have been about fish.\n"
        "When the last keeper died, his daughter rowed across the bay with a basket of bread."
    )
    assert quality.quality_reasons([text], CleanConfig()) == [(text, "")]


def test_gopher_short_counts_words() -> None:
    assert rules.gopher_quality(PROSE, config(min_words=13)) == ""
    assert rules.gopher_quality(PROSE, config(min_words=14)) == "gopher_short"
    assert rules.gopher_quality("", LOOSE) == "gopher_short"


def test_gopher_long_counts_words() -> None:
    assert rules.gopher_quality(PROSE, config(max_words=12)) == "gopher_long"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the be to of and that have with", ""),  # 24 characters, 8 words: 3.0
        ("the be to of and that have it", "gopher_word_length"),  # 22 / 8 = 2.75
        ("thethethethe bebebebebe that tototototo", ""),  # 12 + 10 + 4 + 10 = 36, / 4 = 9
        ("the aaaaaaaaaaaaaaaaaaaaaaa that bb", ""),  # 3 + 23 + 4 + 2 = 32, / 4 = 8
        ("the aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa that bb", "gopher_word_length"),  # 41 / 4 = 10.25
    ],
)
def test_gopher_word_length_is_a_mean(text: str, reason: str) -> None:
    assert rules.gopher_quality(text, config(min_stop_words=1)) == reason


def test_gopher_symbols_for_each_word() -> None:
    ten = "the and with that have some more words here "  # 9 words
    assert rules.gopher_quality(ten + "#end", LOOSE) == ""  # 1 / 10 = 0.1, not above it
    assert rules.gopher_quality(ten + "##end", LOOSE) == "gopher_symbols"
    assert rules.gopher_quality(ten + "a...b…", LOOSE) == "gopher_symbols"


def test_gopher_bullets_and_ellipses_are_shares_of_lines() -> None:
    bullets = "\n".join(["• that friend with another house"] * 9)
    assert rules.gopher_quality(bullets + "\nwith them", LOOSE) == ""  # 9 / 10, not above 0.9
    assert rules.gopher_quality(bullets, LOOSE) == "gopher_bullets"
    line = "the dog and the cat with more friends than that"
    assert rules.gopher_quality(f"{line}...\n" + f"{line}\n" * 2, LOOSE) == "gopher_ellipsis"  # 1 / 3
    assert rules.gopher_quality(f"{line}...\n" + f"{line}\n" * 3, LOOSE) == ""  # 1 / 4


def test_gopher_alphabetic_and_stop_words() -> None:
    assert rules.gopher_quality("the that have with 12345", LOOSE) == ""  # 4 / 5
    assert rules.gopher_quality("the that with 123 12345", LOOSE) == "gopher_alphabetic"  # 3 / 5
    assert rules.gopher_quality("The dog sat down there", LOOSE) == "gopher_stop_words"  # only "the", once
    assert rules.gopher_quality("the the the dogs sat", LOOSE) == "gopher_stop_words"


def test_duplicate_shares_count_what_occurred_before() -> None:
    assert duplicate_shares(["ab", "cdef", "ab", "ab"]) == (2 / 4, 4 / 10)
    assert duplicate_shares([]) == (0.0, 0.0)


def test_gopher_duplicate_lines_and_paragraphs() -> None:
    assert rules.gopher_repetition("a\nbcdefghijklmn\na", LOOSE) == "gopher_duplicate_lines"  # 1 / 3
    assert rules.gopher_repetition("a\nbcdefghijklmn\nc\na", LOOSE) == ""  # 1 / 4 of lines, 1 / 16 of characters
    assert rules.gopher_repetition("aaaa\nbcdef\nc\naaaa", LOOSE) == "gopher_duplicate_line_chars"  # 4 / 14
    lenient = config(max_duplicate_lines=1.0, max_duplicate_line_chars=1.0)
    assert rules.gopher_repetition("a\n\nbcdefghijklmn\n\na", lenient) == "gopher_duplicate_paragraphs"
    assert rules.gopher_repetition("aaaa\n\nbcdef\n\nc\n\naaaa", lenient) == "gopher_duplicate_paragraph_chars"


def test_top_ngram_covers_its_words_once() -> None:
    # "a b" occurs at 0, 2 and 5: words 0-3, 5, 6 of "a b a b ccc a b dd": 6 of 11 characters
    words = ["a", "b", "a", "b", "ccc", "a", "b", "dd"]
    assert ngram_shares(words, range(2, 3), range(0)) == {2: 6 / 11}
    assert ngram_shares(["x", "x", "x", "x"], range(2, 5), range(0)) == {2: 1.0, 3: 1.0, 4: 0.0}
    assert ngram_shares(["a", "b", "c"], range(2, 5), range(0)) == {2: 0.0, 3: 0.0, 4: 0.0}


def test_top_ngram_takes_the_longest_of_equally_common_ones() -> None:
    words = [
        "aa",
        "bb",
        "1",
        "aa",
        "bb",
        "2",
        "c",
        "d",
        "3",
        "c",
        "d",
    ]  # "aa bb" and "c d" twice each; 8 of 15 characters
    assert ngram_shares(words, range(2, 3), range(0)) == {2: 8 / 15}


def test_duplicate_ngrams_leave_out_the_first_occurrence() -> None:
    words = ["a", "b", "c", "d", "e", "x", "a", "b", "c", "d", "e"]
    assert ngram_shares(words, range(0), range(5, 7)) == {5: 5 / 11, 6: 0.0}


def test_gopher_names_the_ngram() -> None:
    assert rules.gopher_repetition("to be or not to be to be", LOOSE) == "gopher_top_2gram"
    filler = " ".join(f"w{n}" for n in range(10))
    twice = f"{filler} one two three four five six {filler} "
    strict = config(max_top_ngram_chars=[1.0, 1.0, 1.0], max_duplicate_ngram_chars=[1.0, 1.0, 1.0, 1.0, 1.0, 0.3])
    assert rules.gopher_repetition(twice, strict) == "gopher_duplicate_10grams"


def test_c4_page_rules() -> None:
    assert rules.c4("if (x) { y }", LOOSE)[1] == "c4_curly_bracket"
    assert rules.c4("if (x) { y }", config(c4_curly_bracket=False)) == ("if (x) { y }", "")
    assert rules.c4("Lorem Ipsum dolor.", LOOSE)[1] == "c4_lorem_ipsum"
    text = "One. Two! Three? Four."
    assert rules.c4(text, config(c4_min_sentences=4)) == (text, "")
    assert rules.c4(text, config(c4_min_sentences=5))[1] == "c4_sentences"


def test_c4_line_rules_edit_the_text() -> None:
    text = (
        "A heading\n\nThis is a sentence.\nToo short.\nPlease turn Javascript on.\n\n"
        "We use cookies here.\nTrails off...\n\nEnd it now!"
    )
    kept = "This is a sentence.\n\nEnd it now!"
    assert rules.c4(text, config(c4_terminal_punctuation=True, c4_min_line_words=3)) == (kept, "")
    assert rules.c4("A heading\n", config(c4_terminal_punctuation=True)) == ("", "c4_no_lines")
    off = config(c4_boilerplate=False)
    assert rules.c4(text, off) == (text, "")


def test_sentences_end_before_a_blank() -> None:
    text = 'Version 3.11 is "out." Use numpy.add! 你好。再见。'
    assert slow_quality.count_sentences(text) == 4
    assert quality.has_sentences(text, 4)
    assert not quality.has_sentences(text, 5)


def test_fineweb_rules() -> None:
    long_line = "a line that has more than thirty characters"
    nine_of_ten = "\n".join(f"{long_line} {n}" for n in range(9))
    assert rules.fineweb(f"{nine_of_ten}\n{long_line}.", LOOSE) == "fineweb_line_punctuation"  # 0.1
    assert rules.fineweb(f"{nine_of_ten}.\n{long_line}.", LOOSE) == ""  # 0.2
    assert rules.fineweb(f"{nine_of_ten}\n{long_line}.", config(fineweb_line_punctuation=False)) == ""
    assert rules.fineweb("a" * 45 + ".\n" + "b" * 44 + "\nccccc\nccccc", LOOSE) == ""  # 5 / 100, half of the lines
    assert rules.fineweb("a" * 29 + ".\n" + "b" * 9 + "\nccccc\nccccc", LOOSE) == "fineweb_duplicate_line_chars"  # 5/49
    assert rules.fineweb("short.\nlines.\n" + long_line, LOOSE) == ""  # 2 / 3 = 0.667 < 0.67
    assert rules.fineweb("short.\nlines.\nhere", LOOSE) == "fineweb_short_lines"


SNIPPETS = (
    "the", "be", "THAT", "with", "and", "a", "bb", "ccc", "Wort", "中文字", "日", "1", "22", "#", "...", "…", ".", "!", "。",
    "- x", "•", "–", "{", "lorem ipsum", "javascript", "Use Cookies", "İ", "\u0345", " ", "\n", "\n\n", "\n \t\n", "\u2003",
    "\r\n", "\x1c", "\u3000", "a sentence that ends here.", "to be or not to be", "one two three four five six seven eight",
)  # fmt: skip
any_text = st.lists(st.sampled_from(SNIPPETS), max_size=40).flatmap(
    lambda pieces: st.sampled_from(["", " "]).map(lambda between: between.join(pieces))
)


@settings(max_examples=150, deadline=None)
@given(st.lists(any_text, min_size=1, max_size=5), st.booleans())
def test_both_forms_agree_on_any_texts(texts: list[str], strict: bool) -> None:
    chosen = CleanConfig(min_words=3, c4_min_sentences=2) if strict else LOOSE
    assert quality.quality_reasons(texts, chosen) == [slow_quality.quality_reason(text, chosen) for text in texts]
    for text in texts:
        if text.split():
            ngram_shares(text.split(), range(2, 5), range(5, 11))
        for group in ("gopher_quality", "gopher_repetition", "fineweb"):
            getattr(rules, group)(text, chosen)
        rules.c4(text, chosen)


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_words_lines_and_paragraphs_of_any_text(text: str) -> None:
    batch = TextBatch(["before\n", text, "after"])
    joined = "".join(map(chr, batch.codes))
    for pieces, expected in (
        (batch.words, text.split()),
        (batch.lines, slow_quality.lines_of(text)),
        (batch.paragraphs, slow_quality.paragraphs_of(text)),
    ):
        ours = np.flatnonzero(pieces.owners == 1)
        assert [joined[pieces.starts[n] : pieces.ends[n]] for n in ours] == expected
        assert len(set(pieces.hashes[ours].tolist())) == len(set(expected))


def test_long_texts_are_cut_into_batches_between_texts() -> None:
    texts = ["a" * 5, "b" * 5, "c" * 11, "", "d"]
    assert [list(run) for run in batches_of(texts, 10)] == [texts[:2], texts[2:3], texts[3:]]
    assert batches_of([], 10) == []
