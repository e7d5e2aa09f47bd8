"""Each rule on a text whose figures were counted by hand."""

import pytest

from tinyllama.clean import quality
from tinyllama.clean.clean_config import CleanConfig
from tinyllama.clean.repetition import duplicate_ngram_chars, duplicate_shares, top_ngram_chars

PROSE = "The cat sat with the dog and then it went to bed early."  # 13 words, 42 letters and a full stop
LOOSE = CleanConfig(min_words=1, c4_min_sentences=0, c4_min_line_words=0, c4_terminal_punctuation=False)


def config(**changes: object) -> CleanConfig:
    return CleanConfig(**{**LOOSE.model_dump(), **changes})


def test_good_prose_passes_every_default_rule() -> None:
    text = (
        "The old harbour town had two lighthouses, and each was kept by a family that spoke to no one else.\n"
        "Every evening they lit their lamps within a minute of sunset, whatever the weather might be.\n"
        "Ships coming home could see both lights from twenty miles away and steer between them.\n"
        "Nobody remembered why the quarrel began, but all agreed that it must have been about fish.\n"
        "When the last keeper died, his daughter rowed across the bay with a basket of bread."
    )
    assert quality.quality_reason(text, CleanConfig()) == (text, "")


def test_gopher_short_counts_words() -> None:
    assert quality.gopher_quality(PROSE, config(min_words=13)) == ""
    assert quality.gopher_quality(PROSE, config(min_words=14)) == "gopher_short"
    assert quality.gopher_quality("", LOOSE) == "gopher_short"


def test_gopher_long_counts_words() -> None:
    assert quality.gopher_quality(PROSE, config(max_words=12)) == "gopher_long"


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
    assert quality.gopher_quality(text, config(min_stop_words=1)) == reason


def test_gopher_symbols_for_each_word() -> None:
    ten = "the and with that have some more words here "  # 9 words
    assert quality.gopher_quality(ten + "#end", LOOSE) == ""  # 1 / 10 = 0.1, not above it
    assert quality.gopher_quality(ten + "##end", LOOSE) == "gopher_symbols"
    assert quality.gopher_quality(ten + "a...b…", LOOSE) == "gopher_symbols"


def test_gopher_bullets_and_ellipses_are_shares_of_lines() -> None:
    bullets = "\n".join(["• that friend with another house"] * 9)
    assert quality.gopher_quality(bullets + "\nwith them", LOOSE) == ""  # 9 / 10, not above 0.9
    assert quality.gopher_quality(bullets, LOOSE) == "gopher_bullets"
    line = "the dog and the cat with more friends than that"
    assert quality.gopher_quality(f"{line}...\n" + f"{line}\n" * 2, LOOSE) == "gopher_ellipsis"  # 1 / 3
    assert quality.gopher_quality(f"{line}...\n" + f"{line}\n" * 3, LOOSE) == ""  # 1 / 4


def test_gopher_alphabetic_and_stop_words() -> None:
    assert quality.gopher_quality("the that have with 12345", LOOSE) == ""  # 4 / 5
    assert quality.gopher_quality("the that with 123 12345", LOOSE) == "gopher_alphabetic"  # 3 / 5
    assert quality.gopher_quality("The dog sat down there", LOOSE) == "gopher_stop_words"  # only "the", once
    assert quality.gopher_quality("the the the dogs sat", LOOSE) == "gopher_stop_words"


def test_duplicate_shares_count_what_occurred_before() -> None:
    assert duplicate_shares(["ab", "cdef", "ab", "ab"]) == (2 / 4, 4 / 10)
    assert duplicate_shares([]) == (0.0, 0.0)


def test_gopher_duplicate_lines_and_paragraphs() -> None:
    assert quality.gopher_repetition("a\nbcdefghijklmn\na", LOOSE) == "gopher_duplicate_lines"  # 1 / 3
    assert quality.gopher_repetition("a\nbcdefghijklmn\nc\na", LOOSE) == ""  # 1 / 4 of lines, 1 / 16 of characters
    assert quality.gopher_repetition("aaaa\nbcdef\nc\naaaa", LOOSE) == "gopher_duplicate_line_chars"  # 4 / 14
    lenient = config(max_duplicate_lines=1.0, max_duplicate_line_chars=1.0)
    assert quality.gopher_repetition("a\n\nbcdefghijklmn\n\na", lenient) == "gopher_duplicate_paragraphs"
    assert quality.gopher_repetition("aaaa\n\nbcdef\n\nc\n\naaaa", lenient) == "gopher_duplicate_paragraph_chars"


def test_top_ngram_covers_its_words_once() -> None:
    # "a b" occurs at 0, 2 and 5: words 0-3, 5, 6 of "a b a b ccc a b dd": 6 of 11 characters
    words = ["a", "b", "a", "b", "ccc", "a", "b", "dd"]
    assert dict(top_ngram_chars(words, range(2, 3))) == {2: 6 / 11}
    assert dict(top_ngram_chars(["x", "x", "x", "x"], range(2, 5))) == {2: 1.0, 3: 1.0, 4: 0.0}
    assert dict(top_ngram_chars(["a", "b", "c"], range(2, 5))) == {2: 0.0, 3: 0.0, 4: 0.0}


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
    assert dict(top_ngram_chars(words, range(2, 3))) == {2: 8 / 15}


def test_duplicate_ngrams_leave_out_the_first_occurrence() -> None:
    words = ["a", "b", "c", "d", "e", "x", "a", "b", "c", "d", "e"]
    assert dict(duplicate_ngram_chars(words, range(5, 7))) == {5: 5 / 11, 6: 0.0}
    assert dict(duplicate_ngram_chars([], range(5, 11))) == dict.fromkeys(range(5, 11), 0.0)


def test_gopher_names_the_ngram() -> None:
    assert quality.gopher_repetition("to be or not to be to be", LOOSE) == "gopher_top_2gram"
    filler = " ".join(f"w{n}" for n in range(10))
    twice = f"{filler} one two three four five six {filler} "
    strict = config(max_top_ngram_chars=[1.0, 1.0, 1.0], max_duplicate_ngram_chars=[1.0, 1.0, 1.0, 1.0, 1.0, 0.3])
    assert quality.gopher_repetition(twice, strict) == "gopher_duplicate_10grams"


def test_c4_page_rules() -> None:
    assert quality.c4("if (x) { y }", LOOSE)[1] == "c4_curly_bracket"
    assert quality.c4("if (x) { y }", config(c4_curly_bracket=False)) == ("if (x) { y }", "")
    assert quality.c4("Lorem Ipsum dolor.", LOOSE)[1] == "c4_lorem_ipsum"
    text = "One. Two! Three? Four."
    assert quality.c4(text, config(c4_min_sentences=4)) == (text, "")
    assert quality.c4(text, config(c4_min_sentences=5))[1] == "c4_sentences"


def test_c4_line_rules_edit_the_text() -> None:
    text = (
        "A heading\n\nThis is a sentence.\nToo short.\nPlease turn Javascript on.\n\n"
        "We use cookies here.\nTrails off...\n\nEnd it now!"
    )
    kept = "This is a sentence.\n\nEnd it now!"
    assert quality.c4(text, config(c4_terminal_punctuation=True, c4_min_line_words=3)) == (kept, "")
    assert quality.c4("A heading\n", config(c4_terminal_punctuation=True)) == ("", "c4_no_lines")
    off = config(c4_boilerplate=False)
    assert quality.c4(text, off) == (text, "")


def test_sentences_end_before_a_blank() -> None:
    assert quality.count_sentences('Version 3.11 is "out." Use numpy.add! 你好。再见。') == 4


def test_fineweb_rules() -> None:
    long_line = "a line that has more than thirty characters"
    nine_of_ten = "\n".join(f"{long_line} {n}" for n in range(9))
    assert quality.fineweb(f"{nine_of_ten}\n{long_line}.", LOOSE) == "fineweb_line_punctuation"  # 0.1
    assert quality.fineweb(f"{nine_of_ten}.\n{long_line}.", LOOSE) == ""  # 0.2
    assert quality.fineweb(f"{nine_of_ten}\n{long_line}.", config(fineweb_line_punctuation=False)) == ""
    assert quality.fineweb("a" * 45 + ".\n" + "b" * 44 + "\nccccc\nccccc", LOOSE) == ""  # 5 / 100, half of the lines
    assert (
        quality.fineweb("a" * 29 + ".\n" + "b" * 9 + "\nccccc\nccccc", LOOSE) == "fineweb_duplicate_line_chars"
    )  # 5/49
    assert quality.fineweb("short.\nlines.\n" + long_line, LOOSE) == ""  # 2 / 3 = 0.667 < 0.67
    assert quality.fineweb("short.\nlines.\nhere", LOOSE) == "fineweb_short_lines"
