"""Settings of cleaning: which rules run, their thresholds, and the split."""

from typing import Self

from pydantic import model_validator

from tinyllama.config_base import Config, setting


class CleanConfig(Config):
    """`[clean]`: from raw pages to training documents. Names and defaults of the rules follow their papers."""

    # -- language
    languages: list[str] = setting(["en"], "ISO 639-1 codes of the languages that are kept; empty: all.")
    min_language_confidence: float = setting(0.65, "Below this the language counts as unknown.", ge=0, le=1)

    # -- quality (Gopher: Rae et al. 2021, table A1; C4: Raffel et al. 2020, 2.2; FineWeb: Penedo et al. 2024, 3.6)
    gopher_quality: bool = setting(True, "Gopher's quality rules: word counts, word length, symbols, bullets, stop words.")
    gopher_repetition: bool = setting(True, "Gopher's repetition rules: repeated lines, paragraphs and n-grams.")
    c4_terminal_punctuation: bool = setting(True, "C4: keep only lines that end in a terminal punctuation mark.")
    c4_curly_bracket: bool = setting(True, "C4: drop a page that contains a curly bracket.")
    c4_boilerplate: bool = setting(True, "C4: drop lines about javascript and cookies, pages with lorem ipsum.")
    c4_min_sentences: int = setting(5, "C4: drop a page with fewer sentences; 0: off.", ge=0)
    fineweb: bool = setting(True, "FineWeb's rules: line punctuation, duplicated line characters, short lines.")
    fineweb_line_punctuation: bool = setting(True, "FineWeb's rule on the share of lines that end in punctuation.")
    min_words: int = setting(50, "Gopher: fewest words of a document.", ge=0)
    max_words: int = setting(100_000, "Gopher: most words of a document.", ge=1)

    # -- duplicates
    exact_duplicates: bool = setting(True, "Drop documents whose normalised text occurred before.")
    near_duplicates: bool = setting(True, "Drop near-duplicates found by MinHash-LSH.")
    minhash_ngram_words: int = setting(5, "Words in a shingle.", ge=1)
    minhash_bands: int = setting(14, "Bands of the MinHash signature.", ge=1)
    minhash_rows: int = setting(8, "Hashes in a band.", ge=1)

    # -- personal information
    mask_email: bool = setting(True, "Replace e-mail addresses with a placeholder.")
    mask_phone: bool = setting(True, "Replace telephone numbers with a placeholder.")
    mask_ip: bool = setting(True, "Replace public IP addresses with a placeholder.")

    # -- split
    validation_fraction: float = setting(0.01, "Share of documents that go to validation, chosen by hash of the id.", ge=0, lt=1)
    max_document_chars: int = setting(2_000_000, "Longer documents are dropped: they are dumps, not texts.", ge=1)

    @model_validator(mode="after")
    def _language_codes(self) -> Self:
        for code in self.languages:
            if not (2 <= len(code) <= 3 and code.isalpha() and code.islower()):
                raise ValueError(f"languages: {code!r} is not an ISO 639 code such as 'en'")
        return self
