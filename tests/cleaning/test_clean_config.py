"""The keys of `[clean]`: defaults as the papers and docs/ state them, and the first value on each side of every bound."""

from typing import Any

import pytest
from pydantic import ValidationError

from tinyllama.cleaning.clean_config import CleanConfig

LITTLE = 1e-9
# key: default, values at the ends that are allowed, values just outside that are refused
SHARES = {
    "min_language_confidence": 0.65, "max_bullet_lines": 0.9, "max_ellipsis_lines": 0.3, "min_alphabetic_words": 0.8,
    "max_duplicate_lines": 0.30, "max_duplicate_paragraphs": 0.30, "max_duplicate_line_chars": 0.20,
    "max_duplicate_paragraph_chars": 0.20, "min_punctuated_lines": 0.12, "max_fineweb_duplicate_chars": 0.10,
    "max_short_lines": 0.67, "max_hate": 0.65, "max_sexual": 0.97, "max_unsafe_chars": 0.3, "max_copied_chars": 0.5,
}  # fmt: skip
COUNTS = {
    "max_page_bytes": (5_000_000, 1), "max_document_chars": (2_000_000, 1), "workers": (0, 0),
    "max_memory_bytes": (2_000_000_000, 4096), "site_line_documents": (20, 2), "site_line_words": (3, 1),
    "language_chars": (2000, 1), "min_words": (50, 0), "max_words": (100_000, 1), "min_stop_words": (2, 0),
    "c4_min_line_words": (3, 0), "c4_min_sentences": (5, 0), "short_line_chars": (30, 1), "minhash_ngram_words": (5, 1),
    "minhash_bands": (14, 1), "minhash_rows": (8, 1), "min_paragraph_chars": (80, 1),
}  # fmt: skip
MOST = {"min_stop_words": 8, "minhash_bands": 1000, "minhash_rows": 1000}
ON = (
    "site_lines", "gopher_quality", "gopher_repetition", "c4_terminal_punctuation", "c4_curly_bracket",
    "c4_boilerplate", "fineweb", "fineweb_line_punctuation", "fineweb_short_lines", "mask_email", "mask_phone",
    "mask_ip", "mask_iban", "mask_card", "mask_national_id", "mask_secret", "mask_credentials", "exact_duplicates",
    "near_duplicates", "duplicate_paragraphs",
)  # fmt: skip
OFF = ("keep_dropped_text", "keep_near_duplicates")
OTHERS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "page_cpu_seconds": (10.0, [LITTLE], [0.0]),
    "document_cpu_seconds": (10.0, [LITTLE], [0.0]),
    "min_mean_word_length": (3.0, [0.0], [-LITTLE]),
    "max_mean_word_length": (10.0, [0.0], [-LITTLE]),
    "max_symbols_per_word": (0.1, [0.0, 7.0], [-LITTLE]),
    "validation_fraction": (0.01, [0.0, 1 - LITTLE], [-LITTLE, 1.0]),
    "languages": (["en"], [[], ["de", "haw"]], [["e"], ["engl"], ["EN"], ["e1"], ["en", "E"]]),
    "max_top_ngram_chars": (
        [0.20, 0.18, 0.16],
        [[0.0, 1.0, 0.5]],
        [[0.2, 0.2], [0.2] * 4, [0.2, 0.2, 1 + LITTLE], [-LITTLE, 0.2, 0.2]],
    ),
    "max_duplicate_ngram_chars": (
        [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
        [[0.0, 1.0, 0.5, 0.1, 0.1, 0.1]],
        [[0.1] * 5, [0.1] * 7, [0.1] * 5 + [1 + LITTLE], [-LITTLE] + [0.1] * 5],
    ),
    "safety": ("paragraph", ["document", "score", "off"], ["none"]),
    "safety_model": ("", ["folder"], [0]),
    "decontaminate": ("", ["folder"], [0]),
    "decontaminate_drops": ("document", ["paragraph"], ["score"]),
    "personal_information": ("mask", ["drop", "keep"], ["off"]),
}


def table() -> dict[str, tuple[Any, list[Any], list[Any]]]:
    rows: dict[str, tuple[Any, list[Any], list[Any]]] = dict(OTHERS)
    rows |= {key: (default, [0.0, 1.0], [-LITTLE, 1 + LITTLE]) for key, default in SHARES.items()}
    for key, (default, least) in COUNTS.items():
        most = MOST.get(key)
        rows[key] = (default, [least] + ([most] if most else []), [least - 1] + ([most + 1] if most else []))
    rows |= dict.fromkeys(ON, (True, [False], [])) | dict.fromkeys(OFF, (False, [True], []))
    return rows


def test_every_key_is_in_the_table() -> None:
    assert set(table()) == set(CleanConfig.model_fields)


@pytest.mark.parametrize("key", sorted(table()))
def test_the_default_and_both_sides_of_every_bound(key: str) -> None:
    default, allowed, refused = table()[key]
    assert getattr(CleanConfig(), key) == default
    for value in allowed:
        assert getattr(CleanConfig.model_validate({key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError, match=key):
            CleanConfig.model_validate({key: value})


def test_only_what_says_how_the_result_is_reached_leaves_the_fingerprint() -> None:
    assert set(CleanConfig.model_fields) - set(CleanConfig().result_values()) == {"workers", "max_memory_bytes"}


def test_the_kinds_that_are_looked_for() -> None:
    every = {"email", "phone", "ip", "iban", "card", "national_id", "secret", "credentials"}
    assert set(CleanConfig().personal_kinds()) == every
    assert set(CleanConfig(personal_information="drop").personal_kinds()) == every
    assert CleanConfig(personal_information="keep").personal_kinds() == ()
    for kind in every:
        assert set(CleanConfig.model_validate({f"mask_{kind}": False}).personal_kinds()) == every - {kind}
