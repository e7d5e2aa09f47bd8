"""Every threshold of the quality rules exactly at, just below and just above a figure that was counted by hand."""

from typing import Any

import pytest

from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.quality import quality_reasons

OFF: dict[str, Any] = {
    "gopher_quality": False, "gopher_repetition": False, "fineweb": False, "c4_terminal_punctuation": False,
    "c4_min_line_words": 0, "c4_curly_bracket": False, "c4_boilerplate": False, "c4_min_sentences": 0,
}  # fmt: skip
GOPHER: dict[str, Any] = {
    "gopher_quality": True, "min_words": 0, "min_stop_words": 0, "min_mean_word_length": 0.0,
    "max_mean_word_length": 99.0, "max_symbols_per_word": 9.0, "min_alphabetic_words": 0.0, "max_bullet_lines": 1.0,
    "max_ellipsis_lines": 1.0,
}  # fmt: skip
REPEAT: dict[str, Any] = {"gopher_repetition": True}
FINEWEB: dict[str, Any] = {
    "fineweb": True, "fineweb_line_punctuation": False, "fineweb_short_lines": False, "max_fineweb_duplicate_chars": 0.0,
}  # fmt: skip
ALL_SHARES: dict[str, Any] = {
    "max_duplicate_lines": 1.0, "max_duplicate_line_chars": 1.0, "max_duplicate_paragraphs": 1.0,
    "max_duplicate_paragraph_chars": 1.0, "max_top_ngram_chars": [1.0] * 3, "max_duplicate_ngram_chars": [1.0] * 6,
}  # fmt: skip


def reason(text: str, **changes: Any) -> str:
    """The reason of a text among others: a rule that mixes texts up is seen."""
    config = CleanConfig(**{**OFF, **changes})
    return quality_reasons(["Two words", text, "a b c d."], config)[1][1]


# rule, settings, text, key, the text's own figure, the step to either side, whether the figure is the most or the least
LIMITS: list[tuple[str, dict[str, Any], str, str, float, float, str]] = [
    ("gopher_short", GOPHER, "one two three four", "min_words", 4, 1, "least"),
    ("gopher_long", GOPHER, "one two three four", "max_words", 4, 1, "most"),
    # 3 + 4 + 5 + 4 = 16 characters, 4 words
    ("gopher_word_length", GOPHER, "one four fifth four", "max_mean_word_length", 4.0, 0.01, "most"),
    ("gopher_word_length", GOPHER, "one four fifth four", "min_mean_word_length", 4.0, 0.01, "least"),
    # 8 words; 2 hashes; 2 ellipses ("...." is one, "…" another)
    ("gopher_symbols", GOPHER, "one #two three# four five six seven eight", "max_symbols_per_word", 0.25, 0.01, "most"),
    ("gopher_symbols", GOPHER, "one.... two three… four five six .. seven . eight.", "max_symbols_per_word", 0.2, 0.01,
     "most"),
    ("gopher_symbols", GOPHER, "one...... two three four", "max_symbols_per_word", 0.5, 0.01, "most"),
    ("gopher_bullets", GOPHER, "- one word\n\n* two words\nthree words\nfour - words", "max_bullet_lines", 0.5, 0.01,
     "most"),
    ("gopher_ellipsis", GOPHER, "one word...\ntwo words…\nthree words..\nfour ... words",
     "max_ellipsis_lines", 0.5, 0.01, "most"),
    ("gopher_alphabetic", GOPHER, "one 22 three3 4-4 five", "min_alphabetic_words", 0.6, 0.01, "least"),
    ("gopher_stop_words", GOPHER, "The BE of of them and thee", "min_stop_words", 4, 1, "least"),
    # lines: 2 of 5 come again; 5 + 5 of 25 characters
    ("gopher_duplicate_lines", REPEAT | ALL_SHARES, "aaaaa\naaaaa\nbbbbb\naaaaa\nccccc", "max_duplicate_lines", 0.4, 0.01,
     "most"),
    ("gopher_duplicate_line_chars", REPEAT | ALL_SHARES, "aaa\naaa\nbbbbbb\naaa\nc", "max_duplicate_line_chars", 6 / 16,
     0.01, "most"),
    ("gopher_duplicate_paragraphs", REPEAT | ALL_SHARES, "aa\nx\n\naa\nx\n\nbb\n \ncc", "max_duplicate_paragraphs", 0.25,
     0.01, "most"),
    # "aa\nx" has 4 characters, the others 3 and 1: 4 of 12
    ("gopher_duplicate_paragraph_chars", REPEAT | ALL_SHARES, "aa\nx\n\naa\nx\n\nbbb\n\nc", "max_duplicate_paragraph_chars",
     4 / 12, 0.01, "most"),
    # lines that end in a mark: 1 of 4; it must be above the limit
    ("fineweb_line_punctuation", FINEWEB | {"fineweb_line_punctuation": True}, "a.\nb\nc\nd,", "min_punctuated_lines",
     0.25, 0.01, "more than"),
    ("fineweb_duplicate_line_chars", FINEWEB, "aaa\naaa\nbbbbbb\nc\nd\nf", "max_fineweb_duplicate_chars", 3 / 15, 0.01,
     "less than"),
    ("fineweb_short_lines", FINEWEB | {"fineweb_short_lines": True, "short_line_chars": 4}, "aaaa\nbbb\nccccc\nd",
     "max_short_lines", 0.5, 0.01, "less than"),
    ("fineweb_short_lines", FINEWEB | {"fineweb_short_lines": True, "max_short_lines": 0.5}, "aaaa\nbbbb\nccccccc\nddddddd",
     "short_line_chars", 4, 1, "least"),
    ("c4_sentences", {}, 'One. Two! Three? "Four." Five', "c4_min_sentences", 4, 1, "least"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "settings", "text", "key", "figure", "step", "sort"), LIMITS)
def test_a_text_at_its_threshold(
    rule: str, settings: dict[str, Any], text: str, key: str, figure: float, step: float, sort: str
) -> None:
    stays_at = sort in ("most", "least")
    stays_below = sort in ("least", "more than")  # a limit below the figure
    for limit, stays in ((figure, stays_at), (figure - step, stays_below), (figure + step, not stays_below)):
        assert reason(text, **{**settings, key: limit}) == ("" if stays else rule), (key, limit)


NGRAM_WORDS = ["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh", "ii", "jj"]


@pytest.mark.parametrize("n", range(5, 11))
def test_each_size_of_repeated_ngrams_has_its_own_threshold(n: int) -> None:
    """The first n words come again after one of ten characters: n of 2n + 5 pairs of characters."""
    text = " ".join([*NGRAM_WORDS[:n], "x" * 10, *NGRAM_WORDS[:n]])
    share = 2 * n / (4 * n + 10)
    for limit, expected in ((share, ""), (share - 0.001, f"gopher_duplicate_{n}grams"), (share + 0.001, "")):
        limits = [1.0] * 6
        limits[n - 5] = limit
        assert reason(text, **{**REPEAT, **ALL_SHARES, "max_duplicate_ngram_chars": limits}) == expected


@pytest.mark.parametrize("n", range(2, 5))
def test_each_size_of_the_commonest_ngram_has_its_own_threshold(n: int) -> None:
    """The first n words three times, others between: 3n of 3n + 6 words of two characters."""
    words = NGRAM_WORDS[:n]
    text = " ".join([*words, "pp", "qq", *words, "rr", "ss", *words, "tt", "uu"])
    share = 3 * n / (3 * n + 6)
    for limit, expected in ((share, ""), (share - 0.001, f"gopher_top_{n}gram"), (share + 0.001, "")):
        limits = [1.0] * 3
        limits[n - 2] = limit
        assert reason(text, **{**REPEAT, **ALL_SHARES, "max_top_ngram_chars": limits}) == expected


@pytest.mark.parametrize(
    ("changes", "text", "kept", "why"),
    [
        (
            {"c4_min_line_words": 3},
            "one two three\none two\nfour words are here",
            "one two three\nfour words are here",
            "",
        ),
        ({"c4_min_line_words": 4}, "one two three\none two\nfour words are here", "four words are here", ""),
        ({"c4_min_line_words": 5}, "one two three\none two\nfour words are here", "", "c4_no_lines"),
        ({"c4_terminal_punctuation": True}, 'a.\nb!\nc?\nd"\ne,\nf”\ng…\nh...\ni..', 'a.\nb!\nc?\nd"\ni..', ""),
        ({"c4_curly_bracket": True}, "a { b", "a { b", "c4_curly_bracket"),
        ({"c4_curly_bracket": True}, "a } b", "a } b", ""),
        ({"c4_boilerplate": True}, "Some Lorem ipsum here", "Some Lorem ipsum here", "c4_lorem_ipsum"),
        ({"c4_boilerplate": True}, "We like it\nUse of Cookies\n\n\n \nThe end", "We like it\n\nThe end", ""),
        ({}, " We use cookies\n\n\n and lorem ipsum {\n", " We use cookies\n\n\n and lorem ipsum {\n", ""),
        ({"c4_boilerplate": True, "c4_min_sentences": 1}, "One. Cookie Policy.\nNo end", "No end", "c4_sentences"),
    ],
)
def test_what_c4_takes_out_and_drops(changes: dict[str, Any], text: str, kept: str, why: str) -> None:
    found = quality_reasons(["A b c d.", text, "E f g h!"], CleanConfig(**{**OFF, **changes}))
    assert found[1] == (kept, why)


@pytest.mark.parametrize(
    ("text", "hashes_or_dots"),
    [
        ("# a\n#b ##", 4),
        ("a... b.... c...... d.. e… .", 5),
        (".........", 3),
        ("… …", 2),
        ("...\n...", 2),
        (". . .", 0),
    ],
)
def test_symbols_are_counted_one_by_one(text: str, hashes_or_dots: int) -> None:
    words = len(text.split())
    most = hashes_or_dots / words
    assert reason(text, **GOPHER | {"max_symbols_per_word": most}) == ""
    if hashes_or_dots:
        assert reason(text, **GOPHER | {"max_symbols_per_word": most - 0.01}) == "gopher_symbols"


def test_the_first_rule_that_holds_gives_the_reason_and_the_groups_come_in_order() -> None:
    on = {
        **OFF,
        **GOPHER,
        "min_words": 9,
        "max_symbols_per_word": 0.0,
        "c4_curly_bracket": True,
        "c4_boilerplate": True,
    }
    order = [
        ("min_words", 0, "gopher_short"), ("max_symbols_per_word", 9.0, "gopher_symbols"),
        ("gopher_repetition", False, "gopher_top_2gram"), ("c4_curly_bracket", False, "c4_curly_bracket"),
        ("c4_boilerplate", False, "c4_lorem_ipsum"), ("fineweb", False, "fineweb_line_punctuation"),
    ]  # fmt: skip
    text = "word word word word #\n{ lorem ipsum"
    on |= {"gopher_repetition": True, "fineweb": True}
    for key, off, expected in order:
        assert quality_reasons([text], CleanConfig(**on))[0][1] == expected
        on[key] = off
    assert quality_reasons([text], CleanConfig(**on)) == [(text, "")]


def test_a_text_that_fineweb_drops_comes_back_as_c4_left_it() -> None:
    config = CleanConfig(
        **{**OFF, **FINEWEB, "c4_min_line_words": 2, "fineweb_short_lines": True, "short_line_chars": 9}
    )
    texts = ["one\nsome words here", "one\na b", "longer words are here", "x"]
    assert quality_reasons(texts, config) == [
        ("some words here", ""),
        ("a b", "fineweb_short_lines"),
        ("longer words are here", ""),
        ("", "c4_no_lines"),
    ]


def test_a_text_without_a_line_is_short_for_fineweb() -> None:
    assert reason("", **FINEWEB) == "fineweb_short_lines"
    assert reason("a", **FINEWEB) == ""


@pytest.mark.parametrize("mark", ["-", "*", "•", "‣", "▪", "●", "○", "–"])
def test_every_bullet_counts(mark: str) -> None:
    assert reason(f"{mark} one\ntwo", **GOPHER | {"max_bullet_lines": 0.4}) == "gopher_bullets"


@pytest.mark.parametrize("mark", [".", "!", "?", '"', "'", "”", "’", "…", "。", "！", "？"])
def test_every_terminal_mark_counts(mark: str) -> None:
    settings = FINEWEB | {"fineweb_line_punctuation": True, "min_punctuated_lines": 0.4}
    assert reason(f"one{mark}\ntwo", **settings) == ""
    assert reason("one,\ntwo", **settings) == "fineweb_line_punctuation"


@pytest.mark.parametrize("word", ["the", "be", "to", "of", "and", "that", "have", "with", "THAT", "Be"])
def test_every_stop_word_counts_alone(word: str) -> None:
    assert reason(f"it is {word} x", **{**GOPHER, "min_stop_words": 1}) == ""
    assert reason(f"it is {word}s x", **{**GOPHER, "min_stop_words": 1}) == "gopher_stop_words"
    assert reason(f"it is x{word[1:]} x", **{**GOPHER, "min_stop_words": 1}) == "gopher_stop_words"
