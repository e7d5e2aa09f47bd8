"""Settings of `[clean]`, one small class for each reader; `CleanConfig` is their sum.

The classes are here, not in the modules that read them, so that loading a recipe imports neither NumPy, Arrow nor Daft.
"""

from typing import Literal, Self

from pydantic import model_validator

from tinyllama.config import Config, setting
from tinyllama.dedup.dedup_config import DedupConfig, WorkConfig


class ExtractConfig(WorkConfig):
    """Read by `extract_documents`."""

    max_page_bytes: int = setting(5_000_000, "Larger HTML pages are dropped without parsing.", ge=1)
    page_cpu_seconds: float = setting(10.0, "CPU time limit of one page; slower pages are dropped.", gt=0)


class DocumentConfig(Config):
    """Limits that hold for every filter, and what is kept of dropped documents."""

    max_document_chars: int = setting(2_000_000, "Longer documents are dropped: they are dumps, not texts.", ge=1)
    document_cpu_seconds: float = setting(10.0, "CPU time limit of one document; slower ones are dropped.", gt=0)
    keep_dropped_text: bool = setting(False, "Write the texts of dropped documents beside the reasons.")


class BoilerplateConfig(Config):
    """Read by `boilerplate_lines`."""

    site_lines: bool = setting(True, "Remove lines that many documents of a site share.")
    site_line_documents: int = setting(20, "Minimum documents of the site that contain such a line.", ge=2)
    site_line_words: int = setting(3, "Minimum words of such a line: headings of one word are kept.", ge=1)


class LanguageConfig(Config):
    """Read by `language` and `document_filters`."""

    languages: list[str] = setting(["en"], "ISO 639-1 codes of the languages to keep; empty: all.")
    min_language_confidence: float = setting(0.65, "Below this probability the language is unknown.", ge=0, le=1)
    language_chars: int = setting(2000, "Characters from the start used for language identification.", ge=1)

    @model_validator(mode="after")
    def _language_codes(self) -> Self:
        for code in self.languages:
            if not (2 <= len(code) <= 3 and code.isalpha() and code.islower()):
                raise ValueError(f"languages: {code!r} is not an ISO 639 code such as 'en'")
        return self


class GopherConfig(Config):
    """Rules of Gopher (Rae et al. 2021, A1.1), read by `quality`."""

    gopher_quality: bool = setting(True, "Gopher's quality rules: words, word length, symbols, bullets, stop words.")
    min_words: int = setting(50, "Gopher: minimum words of a document.", ge=0)
    max_words: int = setting(100_000, "Gopher: maximum words of a document.", ge=1)
    min_mean_word_length: float = setting(3.0, "Gopher: minimum mean characters per word.", ge=0)
    max_mean_word_length: float = setting(10.0, "Gopher: maximum mean characters per word.", ge=0)
    max_symbols_per_word: float = setting(0.1, "Gopher: maximum hashes, and maximum ellipses, per word.", ge=0)
    max_bullet_lines: float = setting(0.9, "Gopher: maximum share of lines that start with a bullet.", ge=0, le=1)
    max_ellipsis_lines: float = setting(0.3, "Gopher: maximum share of lines that end with an ellipsis.", ge=0, le=1)
    min_alphabetic_words: float = setting(0.8, "Gopher: minimum share of words with a letter.", ge=0, le=1)
    min_stop_words: int = setting(2, "Gopher: minimum of the, be, to, of, and, that, have, with.", ge=0, le=8)

    gopher_repetition: bool = setting(True, "Gopher's repetition rules: repeated lines, paragraphs and n-grams.")
    max_duplicate_lines: float = setting(0.30, "Gopher: maximum share of repeated lines.", ge=0, le=1)
    max_duplicate_paragraphs: float = setting(0.30, "Gopher: maximum share of repeated paragraphs.", ge=0, le=1)
    max_duplicate_line_chars: float = setting(0.20, "Gopher: maximum share of characters in such lines.", ge=0, le=1)
    max_duplicate_paragraph_chars: float = setting(0.20, "Gopher: the same of such paragraphs.", ge=0, le=1)
    max_top_ngram_chars: list[float] = setting(
        [0.20, 0.18, 0.16], "Gopher: maximum shares of characters in the most frequent 2-, 3- and 4-gram."
    )
    max_duplicate_ngram_chars: list[float] = setting(
        [0.15, 0.14, 0.13, 0.12, 0.11, 0.10], "Gopher: maximum shares of characters in repeated 5- to 10-grams."
    )

    @model_validator(mode="after")
    def _ngram_thresholds(self) -> Self:
        for key, count in (("max_top_ngram_chars", 3), ("max_duplicate_ngram_chars", 6)):
            shares = getattr(self, key)
            if len(shares) != count or not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"{key}: {shares!r} is not a list of {count} numbers from 0 to 1")
        return self


class C4Config(Config):
    """Rules of C4 (Raffel et al. 2020, 2.2), read by `quality`."""

    c4_terminal_punctuation: bool = setting(True, "C4: keep only lines that end in a terminal punctuation mark.")
    c4_min_line_words: int = setting(3, "C4: keep only lines with at least this many words; 0: off.", ge=0)
    c4_curly_bracket: bool = setting(True, "C4: drop documents that contain a curly bracket.")
    c4_boilerplate: bool = setting(True, "C4: drop lines about javascript and cookies, pages with lorem ipsum.")
    c4_min_sentences: int = setting(5, "C4: drop documents with fewer sentences; 0: off.", ge=0)


class FinewebConfig(Config):
    """Rules of FineWeb (Penedo et al. 2024, 3.6), read by `quality`."""

    fineweb: bool = setting(True, "FineWeb's rules: line punctuation, repeated lines, short lines.")
    fineweb_line_punctuation: bool = setting(True, "FineWeb's rule on the share of lines that end in punctuation.")
    fineweb_short_lines: bool = setting(True, "FineWeb's rule on the share of short lines.")
    min_punctuated_lines: float = setting(0.12, "FineWeb: more lines than this end in punctuation.", ge=0, le=1)
    max_fineweb_duplicate_chars: float = setting(0.10, "FineWeb: maximum share of repeated lines.", ge=0, le=1)
    short_line_chars: int = setting(30, "FineWeb: a line with fewer characters is short.", ge=1)
    max_short_lines: float = setting(0.67, "FineWeb: fewer lines than this share are short.", ge=0, le=1)


class QualityConfig(FinewebConfig, C4Config, GopherConfig):
    """All quality rules."""


class SafetyConfig(Config):
    """Read by `safety_model`. docs/safety.md explains the thresholds."""

    safety: Literal["paragraph", "document", "score", "off"] = setting(
        "paragraph", "What an offensive passage removes: its paragraph, its document, nothing (score, off)."
    )
    safety_model: str = setting("", "A folder that `train-safety` wrote; empty: the packaged model.")
    max_hate: float = setting(0.65, "Passages above this probability of hate are removed.", ge=0, le=1)
    max_sexual: float = setting(0.97, "Passages above this probability of sexual content are removed.", ge=0, le=1)
    max_unsafe_chars: float = setting(0.3, "A document that would lose a larger share is dropped.", ge=0, le=1)


class DecontaminateConfig(Config):
    """Read by `decontaminate`."""

    decontaminate: str = setting("", "Folder of evaluation sets, one folder per task; empty: off.")
    decontaminate_drops: Literal["document", "paragraph"] = setting(
        "document", "What is removed when it shares a 13-gram of words with evaluation data."
    )


class PiiConfig(Config):
    """Read by `pii`."""

    personal_information: Literal["mask", "drop", "keep"] = setting(
        "mask", "Replace personal information with placeholders, drop the document, or keep it."
    )
    mask_email: bool = setting(True, "Find e-mail addresses.")
    mask_phone: bool = setting(True, "Find telephone numbers.")
    mask_ip: bool = setting(True, "Find public IP addresses.")
    mask_iban: bool = setting(True, "Find international bank account numbers.")
    mask_card: bool = setting(True, "Find payment card numbers.")
    mask_national_id: bool = setting(True, "Find national ids (US, UK, Spain, France, Brazil, Poland).")
    mask_secret: bool = setting(True, "Find API keys, access tokens and private keys.")
    mask_credentials: bool = setting(True, "Find user names and passwords in URLs.")

    def personal_kinds(self) -> tuple[str, ...]:
        """The kinds of personal information to find."""
        if self.personal_information == "keep":
            return ()
        masks = [name for name in PiiConfig.model_fields if name.startswith("mask_")]
        return tuple(name.removeprefix("mask_") for name in masks if getattr(self, name))


# Pydantic takes the fields of the last base first: each list of bases is the recipe's order backwards.
class FilterConfig(
    PiiConfig, DecontaminateConfig, SafetyConfig, QualityConfig, LanguageConfig, BoilerplateConfig, DocumentConfig
):
    """All filters of one document, read by `document_filters`."""


class SplitConfig(DedupConfig):
    """Read by `write_documents`: copied paragraphs, and the split, which depends on clusters of near-duplicates."""

    validation_fraction: float = setting(0.01, "Share of documents for validation, by hash of the id.", ge=0, lt=1)


class CleanConfig(SplitConfig, FilterConfig, ExtractConfig):
    """`[clean]`: from raw pages to training documents. Names and defaults of the rules follow their papers."""
