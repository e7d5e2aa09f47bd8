"""The rules of Gopher, C4 and FineWeb on one text, the obvious way: the reference of `quality.py`.

A rule returns the reason for which it drops the text, or "". The functions `gopher_quality`, `gopher_repetition`, `c4`
and `fineweb` ask their rules in the order written and give the first reason. Words are what blanks separate; lines and
paragraphs are what "\\n" and "\\n\\n" separate, empty ones left out. Languages written without blanks need other
thresholds.

Sources: Gopher, Rae et al. 2021 (arXiv:2112.11446), appendix A1.1; C4, Raffel et al. 2020 (arXiv:1910.10683),
section 2.2; FineWeb, Penedo et al. 2024 (arXiv:2406.17557), section 3.6.
"""

import re
from collections.abc import Iterable

from tests.cleaning.slow_repetition import duplicate_ngram_chars, duplicate_shares, top_ngram_chars
from tinyllama.cleaning.clean_config import CleanConfig

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("-", "*", "•", "‣", "▪", "●", "○", "–")
TERMINAL_MARKS = (".", "!", "?", '"', "'", "”", "’", "…", "。", "！", "？")
C4_TERMINAL_MARKS = (".", "!", "?", '"')
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE_END = re.compile(r"[.!?][\"')\]”’]{0,3}(?:\s|$)|[。！？]")


def quality_reason(text: str, config: CleanConfig) -> tuple[str, str]:
    """Apply every rule that is on; returns (the text with C4's lines taken out, reason or "")."""
    reason = gopher_quality(text, config) if config.gopher_quality else ""
    if not reason and config.gopher_repetition:
        reason = gopher_repetition(text, config)
    if not reason:
        text, reason = c4(text, config)
    if not reason and config.fineweb:
        reason = fineweb(text, config)
    return text, reason


def lines_of(text: str) -> list[str]:
    """Its lines without blanks around them, empty ones left out."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def paragraphs_of(text: str) -> list[str]:
    """Its paragraphs without blanks around them, empty ones left out."""
    return [paragraph for paragraph in map(str.strip, re.split(r"\n\s*\n", text)) if paragraph]


def share(items: Iterable[bool]) -> float:
    """The fraction that is true; 0.0 of nothing."""
    values = list(items)
    return sum(values) / len(values) if values else 0.0


def gopher_quality(text: str, config: CleanConfig) -> str:
    """Gopher's quality rules: `gopher_short`, `gopher_long`, `gopher_word_length`, `gopher_symbols`,
    `gopher_bullets`, `gopher_ellipsis`, `gopher_alphabetic`, `gopher_stop_words`."""
    words = text.split()
    if len(words) < max(config.min_words, 1):
        return "gopher_short"
    if len(words) > config.max_words:
        return "gopher_long"
    mean_length = sum(map(len, words)) / len(words)
    if not config.min_mean_word_length <= mean_length <= config.max_mean_word_length:
        return "gopher_word_length"
    most_symbols = config.max_symbols_per_word * len(words)
    if text.count("#") > most_symbols or text.count("...") + text.count("…") > most_symbols:
        return "gopher_symbols"
    lines = lines_of(text)
    if share(line.startswith(BULLETS) for line in lines) > config.max_bullet_lines:
        return "gopher_bullets"
    if share(line.endswith(("...", "…")) for line in lines) > config.max_ellipsis_lines:
        return "gopher_ellipsis"
    if share(any(map(str.isalpha, word)) for word in words) < config.min_alphabetic_words:
        return "gopher_alphabetic"
    if len(STOP_WORDS.intersection(map(str.lower, words))) < config.min_stop_words:
        return "gopher_stop_words"
    return ""


def gopher_repetition(text: str, config: CleanConfig) -> str:
    """Gopher's repetition rules: `gopher_duplicate_lines`, `gopher_duplicate_line_chars`,
    `gopher_duplicate_paragraphs`, `gopher_duplicate_paragraph_chars`, `gopher_top_<n>gram` for n = 2 to 4,
    `gopher_duplicate_<n>grams` for n = 5 to 10."""
    count, chars = duplicate_shares(lines_of(text))
    if count > config.max_duplicate_lines:
        return "gopher_duplicate_lines"
    if chars > config.max_duplicate_line_chars:
        return "gopher_duplicate_line_chars"
    count, chars = duplicate_shares(paragraphs_of(text))
    if count > config.max_duplicate_paragraphs:
        return "gopher_duplicate_paragraphs"
    if chars > config.max_duplicate_paragraph_chars:
        return "gopher_duplicate_paragraph_chars"
    words = text.split()
    for (n, found), most in zip(top_ngram_chars(words, range(2, 5)), config.max_top_ngram_chars, strict=True):
        if found > most:
            return f"gopher_top_{n}gram"
    for (n, found), most in zip(
        duplicate_ngram_chars(words, range(5, 11)), config.max_duplicate_ngram_chars, strict=True
    ):
        if found > most:
            return f"gopher_duplicate_{n}grams"
    return ""


def c4(text: str, config: CleanConfig) -> tuple[str, str]:
    """C4's rules: page rules `c4_curly_bracket`, `c4_lorem_ipsum`, `c4_sentences`, and the line rules, which edit.

    Returns (the text of the lines that stay, reason). `c4_no_lines`: the line rules left nothing. Blank lines between
    paragraphs stay.
    """
    if config.c4_curly_bracket and "{" in text:
        return text, "c4_curly_bracket"
    if config.c4_boilerplate and "lorem ipsum" in text.lower():
        return text, "c4_lorem_ipsum"
    if config.c4_terminal_punctuation or config.c4_min_line_words or config.c4_boilerplate:
        kept = [line for line in text.split("\n") if not line.strip() or c4_keeps_line(line.strip(), config)]
        text = re.sub(r"\n\s*\n", "\n\n", "\n".join(kept)).strip()
        if not text:
            return text, "c4_no_lines"
    if config.c4_min_sentences and count_sentences(text) < config.c4_min_sentences:
        return text, "c4_sentences"
    return text, ""


def c4_keeps_line(line: str, config: CleanConfig) -> bool:
    """C4's line rules on one line without blanks around it."""
    if config.c4_terminal_punctuation and (not line.endswith(C4_TERMINAL_MARKS) or line.endswith("...")):
        return False
    if config.c4_min_line_words and len(line.split()) < config.c4_min_line_words:
        return False
    if config.c4_boilerplate:
        lowered = line.lower()
        return "javascript" not in lowered and not any(phrase in lowered for phrase in POLICY_PHRASES)
    return True


def count_sentences(text: str) -> int:
    """How many sentence ends there are: a full stop, exclamation or question mark, closing marks, then a blank."""
    return sum(1 for _ in _SENTENCE_END.finditer(text))


def fineweb(text: str, config: CleanConfig) -> str:
    """FineWeb's rules: `fineweb_line_punctuation`, `fineweb_duplicate_line_chars`, `fineweb_short_lines`."""
    lines = lines_of(text)
    if not lines:
        return "fineweb_short_lines"
    if (
        config.fineweb_line_punctuation
        and share(line.endswith(TERMINAL_MARKS) for line in lines) <= config.min_punctuated_lines
    ):
        return "fineweb_line_punctuation"
    if duplicate_shares(lines)[1] >= config.max_fineweb_duplicate_chars > 0:
        return "fineweb_duplicate_line_chars"
    if (
        config.fineweb_short_lines
        and share(len(line) < config.short_line_chars for line in lines) >= config.max_short_lines
    ):
        return "fineweb_short_lines"
    return ""
