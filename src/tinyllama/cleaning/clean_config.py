"""Settings of cleaning: which rules run, their thresholds, and the split."""

from typing import Literal, Self

from pydantic import model_validator

from tinyllama.config import setting
from tinyllama.dedup.dedup_config import DedupConfig


class CleanConfig(DedupConfig):
    """`[clean]`: from raw pages to training documents. Names and defaults of the rules follow their papers."""

    # -- extraction
    max_page_bytes: int = setting(5_000_000, "A larger HTML page is dropped, unread.", ge=1)
    page_cpu_seconds: float = setting(10.0, "A page whose extraction takes more processor time is dropped.", gt=0)
    max_document_chars: int = setting(2_000_000, "Longer documents are dropped: they are dumps, not texts.", ge=1)

    document_cpu_seconds: float = setting(
        10.0, "A document that takes more processor time in cleaning is dropped.", gt=0
    )
    keep_dropped_text: bool = setting(False, "Keep the texts of dropped documents beside their reasons.")

    # -- boilerplate of sites
    site_lines: bool = setting(True, "Take out lines that come again in many documents of a site.")
    site_line_documents: int = setting(20, "Such a line is in so many documents of its site.", ge=2)
    site_line_words: int = setting(3, "Such a line has so many words: headings of one word stay.", ge=1)

    # -- language
    languages: list[str] = setting(["en"], "ISO 639-1 codes of the languages that are kept; empty: all.")
    min_language_confidence: float = setting(0.65, "Below this the language counts as unknown.", ge=0, le=1)
    language_chars: int = setting(2000, "The language is judged by so many characters from the start.", ge=1)

    # -- quality (Gopher: Rae et al. 2021, A1.1; C4: Raffel et al. 2020, 2.2; FineWeb: Penedo et al. 2024, 3.6)
    gopher_quality: bool = setting(
        True, "Gopher's quality rules: word counts, word length, symbols, bullets, stop words."
    )
    min_words: int = setting(50, "Gopher: fewest words of a document.", ge=0)
    max_words: int = setting(100_000, "Gopher: most words of a document.", ge=1)
    min_mean_word_length: float = setting(3.0, "Gopher: least mean characters of a word.", ge=0)
    max_mean_word_length: float = setting(10.0, "Gopher: most mean characters of a word.", ge=0)
    max_symbols_per_word: float = setting(0.1, "Gopher: most hashes, and most ellipses, for each word.", ge=0)
    max_bullet_lines: float = setting(0.9, "Gopher: largest share of lines that start with a bullet.", ge=0, le=1)
    max_ellipsis_lines: float = setting(0.3, "Gopher: largest share of lines that end with an ellipsis.", ge=0, le=1)
    min_alphabetic_words: float = setting(0.8, "Gopher: least share of words with a letter.", ge=0, le=1)
    min_stop_words: int = setting(
        2, "Gopher: fewest of the stop words the, be, to, of, and, that, have, with.", ge=0, le=8
    )

    gopher_repetition: bool = setting(True, "Gopher's repetition rules: repeated lines, paragraphs and n-grams.")
    max_duplicate_lines: float = setting(0.30, "Gopher: largest share of lines that occurred before.", ge=0, le=1)
    max_duplicate_paragraphs: float = setting(
        0.30, "Gopher: largest share of paragraphs that occurred before.", ge=0, le=1
    )
    max_duplicate_line_chars: float = setting(0.20, "Gopher: largest share of characters in such lines.", ge=0, le=1)
    max_duplicate_paragraph_chars: float = setting(
        0.20, "Gopher: largest share of characters in such paragraphs.", ge=0, le=1
    )
    max_top_ngram_chars: list[float] = setting(
        [0.20, 0.18, 0.16], "Gopher: largest shares of characters in the commonest 2-, 3- and 4-gram."
    )
    max_duplicate_ngram_chars: list[float] = setting(
        [0.15, 0.14, 0.13, 0.12, 0.11, 0.10], "Gopher: largest shares of characters in repeated 5- to 10-grams."
    )

    c4_terminal_punctuation: bool = setting(True, "C4: keep only lines that end in a terminal punctuation mark.")
    c4_min_line_words: int = setting(3, "C4: keep only lines of so many words; 0: off.", ge=0)
    c4_curly_bracket: bool = setting(True, "C4: drop a page that contains a curly bracket.")
    c4_boilerplate: bool = setting(True, "C4: drop lines about javascript and cookies, pages with lorem ipsum.")
    c4_min_sentences: int = setting(5, "C4: drop a page with fewer sentences; 0: off.", ge=0)

    fineweb: bool = setting(True, "FineWeb's rules: line punctuation, duplicated line characters, short lines.")
    fineweb_line_punctuation: bool = setting(True, "FineWeb's rule on the share of lines that end in punctuation.")
    fineweb_short_lines: bool = setting(True, "FineWeb's rule on the share of short lines.")
    min_punctuated_lines: float = setting(
        0.12, "FineWeb: the share of lines that end in punctuation is above this.", ge=0, le=1
    )
    max_fineweb_duplicate_chars: float = setting(
        0.10, "FineWeb: largest share of characters in repeated lines.", ge=0, le=1
    )
    short_line_chars: int = setting(30, "FineWeb: a line with fewer characters is short.", ge=1)
    max_short_lines: float = setting(0.67, "FineWeb: the share of short lines is below this.", ge=0, le=1)

    # -- safety (thresholds: docs/safety.md)
    safety: Literal["paragraph", "document", "score", "off"] = setting(
        "paragraph", "What goes when a passage is offensive: its paragraph, its document, nothing (score, off)."
    )
    safety_model: str = setting("", "A folder that `train-safety` wrote; empty: the packaged model.")
    max_hate: float = setting(0.65, "A passage goes above this probability of hate or offence.", ge=0, le=1)
    max_sexual: float = setting(0.97, "A passage goes above this probability of sexual content.", ge=0, le=1)
    max_unsafe_chars: float = setting(
        0.3, "A document with a larger share of characters in such paragraphs goes whole.", ge=0, le=1
    )

    # -- evaluation data
    decontaminate: str = setting(
        "", "Folder of evaluation sets, a folder for each task; what shares text with one goes."
    )
    decontaminate_drops: Literal["document", "paragraph"] = setting(
        "document", "What goes when it shares a run of 13 words with evaluation data."
    )

    # -- personal information
    personal_information: Literal["mask", "drop", "keep"] = setting(
        "mask", "Replace what is found with placeholders, drop the document, or keep it as it is."
    )
    mask_email: bool = setting(True, "Look for e-mail addresses.")
    mask_phone: bool = setting(True, "Look for telephone numbers.")
    mask_ip: bool = setting(True, "Look for public IP addresses.")
    mask_iban: bool = setting(True, "Look for international bank account numbers.")
    mask_card: bool = setting(True, "Look for numbers of payment cards.")
    mask_national_id: bool = setting(True, "Look for national ids (US, UK, Spain, France, Brazil, Poland).")
    mask_secret: bool = setting(True, "Look for keys and tokens of services, and private keys.")
    mask_credentials: bool = setting(True, "Look for names and passwords in URLs.")

    # -- split
    validation_fraction: float = setting(
        0.01, "Share of documents that go to validation, chosen by hash of the id.", ge=0, lt=1
    )

    @model_validator(mode="after")
    def _language_codes(self) -> Self:
        for code in self.languages:
            if not (2 <= len(code) <= 3 and code.isalpha() and code.islower()):
                raise ValueError(f"languages: {code!r} is not an ISO 639 code such as 'en'")
        return self

    @model_validator(mode="after")
    def _ngram_thresholds(self) -> Self:
        for key, count in (("max_top_ngram_chars", 3), ("max_duplicate_ngram_chars", 6)):
            shares = getattr(self, key)
            if len(shares) != count or not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"{key}: {shares!r} is not a list of {count} numbers from 0 to 1")
        return self

    def personal_kinds(self) -> tuple[str, ...]:
        """The kinds of personal information that are looked for."""
        if self.personal_information == "keep":
            return ()
        masks = [name for name in type(self).model_fields if name.startswith("mask_")]
        return tuple(name.removeprefix("mask_") for name in masks if getattr(self, name))
