"""Every key of `[clean]` that changes the result does so: one corpus, one key changed at a time, what differs and how."""

from pathlib import Path
from typing import Any

import pytest

from tests.cleaning.clean_inputs import prose, write_json_lines
from tests.cleaning.cleaning_here import Cleaned, clean_rows, in_this_process
from tinyllama.cleaning.clean_config import CleanConfig

RUDE = "Shut up, you stupid fucking idiot, you are a worthless piece of shit."
LEAK = "The keeper who had lost his only key to the old tower asked the children to climb in by the window."
OLD = "Der alte Turm am Hafen wurde von den Leuten des Dorfes nie vergessen, und sie sprachen oft von ihm."
FOOTER = "This page belongs to the harbour manual."
# Only what a row of the table turns on runs.
BASE: dict[str, Any] = {
    "workers": 1, "site_lines": False, "languages": [], "gopher_quality": False, "gopher_repetition": False,
    "c4_terminal_punctuation": False, "c4_min_line_words": 0, "c4_curly_bracket": False, "c4_boilerplate": False,
    "c4_min_sentences": 0, "fineweb": False, "safety": "off", "personal_information": "keep",
    "exact_duplicates": False, "near_duplicates": False, "duplicate_paragraphs": False, "validation_fraction": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)


def cleaned(folder: Path, texts: list[str], **changes: Any) -> Cleaned:
    """Texts of the site a.org with the ids 0, 1, ...; a good text stands beside them, so that none is empty."""
    rows = [{"id": str(number), "text": text, "domain": "a.org"} for number, text in enumerate(texts)]
    rows.append({"id": "good", "text": prose(900)})
    return clean_rows(folder, rows, CleanConfig(**{**BASE, **changes}))


LONG = prose(1, 40)
NEAR = LONG.replace(" the ", " this ", 1)
FAR = "\n".join(LONG.split("\n")[:30]) + "\n" + prose(2, 10)
LEFT, RIGHT, SHARED = (prose(seed, 6).replace("\n", " ") for seed in (31, 32, 33))
BOTH = f"{prose(5)}\n\n{OLD} {OLD}"

# key, settings before, the key's two values, texts, what each value gives: reasons of drops, or (id, text) of one kept
ROWS: list[tuple[str, dict[str, Any], Any, Any, list[str], Any, Any]] = [
    ("max_document_chars", {}, len(LONG) - 1, len(LONG), [LONG], {"0": "too_long"}, {}),
    ("language_chars", {"languages": ["en"]}, 60, 2000, [OLD + "\n" + prose(3)], {"0": "language_other"}, {}),
    ("languages", {}, ["de"], ["en", "de"], [OLD], {"good": "language_other"}, {}),
    ("min_language_confidence", {"languages": ["en", "fr"]}, 0.9, 0.5, ["le the la of un a"],
     {"0": "language_unknown"}, {}),
    ("site_lines", {"site_line_documents": 2}, True, False, [f"{prose(1)}\n{FOOTER}", f"{prose(2)}\n{FOOTER}"],
     ("0", prose(1)), ("0", f"{prose(1)}\n{FOOTER}")),
    ("site_line_documents", {"site_lines": True}, 2, 3, [f"{prose(1)}\n{FOOTER}", f"{prose(2)}\n{FOOTER}"],
     ("1", prose(2)), ("1", f"{prose(2)}\n{FOOTER}")),
    ("site_line_words", {"site_lines": True, "site_line_documents": 2}, 7, 8,
     [f"{prose(1)}\n{FOOTER}", f"{prose(2)}\n{FOOTER}"], ("1", prose(2)), ("1", f"{prose(2)}\n{FOOTER}")),
    ("gopher_quality", {}, True, False, ["too short"], {"0": "gopher_short"}, {}),
    ("gopher_repetition", {}, True, False, ["again and again and again and again"], {"0": "gopher_top_2gram"}, {}),
    ("fineweb", {}, True, False, ["no full stop"], {"0": "fineweb_line_punctuation"}, {}),
    ("c4_curly_bracket", {}, True, False, ["a { b"], {"0": "c4_curly_bracket"}, {}),
    ("safety_model", {"safety": "document"}, "", "MODEL", [RUDE], {"0": "safety_hate"}, {}),
    ("safety", {}, "document", "score", [RUDE], {"0": "safety_hate"}, {}),
    ("safety", {}, "paragraph", "document", [f"{LONG}\n\n{RUDE}"], ("0", LONG), {"0": "safety_hate"}),
    ("max_hate", {"safety": "document"}, 0.5, 1.0, [RUDE], {"0": "safety_hate"}, {}),
    ("max_sexual", {"safety": "document", "max_hate": 1.0}, 0.2, 1.0, [RUDE],
     {"good": "safety_sexual"}, {}),
    ("max_unsafe_chars", {"safety": "paragraph"}, 0.0, 1.0, [f"{LONG}\n\n{RUDE}"], {"0": "safety_hate"}, ("0", LONG)),
    ("decontaminate", {}, "EVAL", "", [f"{LONG}\n\n{LEAK}"], {"0": "contaminated"}, {}),
    ("decontaminate_drops", {"decontaminate": "EVAL"}, "document", "paragraph", [f"{LONG}\n\n{LEAK}"],
     {"0": "contaminated"}, ("0", LONG)),
    ("personal_information", {}, "drop", "mask", ["Write to a@b.org."], {"0": "personal_information"},
     ("0", "Write to [email].")),
    ("personal_information", {}, "keep", "mask", ["Write to a@b.org."], ("0", "Write to a@b.org."),
     ("0", "Write to [email].")),
    ("mask_email", {"personal_information": "mask"}, True, False, ["Write to a@b.org."], ("0", "Write to [email]."),
     ("0", "Write to a@b.org.")),
    ("exact_duplicates", {}, True, False, [LONG, LONG.upper()], {"1": "exact_duplicate"}, {}),
    ("near_duplicates", {}, True, False, [LONG + " Indeed.", NEAR], {"1": "near_duplicate"}, {}),
    ("keep_near_duplicates", {"near_duplicates": True}, False, True, [LONG + " Indeed.", NEAR],
     {"1": "near_duplicate"}, {}),
    ("minhash_bands", {"near_duplicates": True, "minhash_rows": 4}, 1000, 1, [LONG, FAR], {"0": "near_duplicate"}, {}),
    ("minhash_rows", {"near_duplicates": True}, 2, 1000, [LONG, FAR], {"0": "near_duplicate"}, {}),
    ("minhash_ngram_words", {"near_duplicates": True}, 1, 2000, [LONG + " Indeed.", NEAR],
     {"1": "near_duplicate", "good": "near_duplicate"}, {}),
    ("duplicate_paragraphs", {}, True, False, [f"{LONG}\n\n{SHARED}", f"{prose(34, 50)}\n\n{SHARED}"],
     ("0", LONG), ("0", f"{LONG}\n\n{SHARED}")),
    ("min_paragraph_chars", {"duplicate_paragraphs": True}, 12, 13,
     [f"{LEFT}\n\nTwelve chars\n\nx", f"{RIGHT}\n\nTwelve chars\n\nlonger end {LEFT}"],
     ("0", f"{LEFT}\n\nx"), ("0", f"{LEFT}\n\nTwelve chars\n\nx")),
    ("max_copied_chars", {"duplicate_paragraphs": True}, 0.2, 0.9, [f"{LEFT}\n\n{SHARED}", f"{LONG}\n\n{SHARED}"],
     {"0": "duplicate_paragraphs"}, ("0", LEFT)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "settings", "one", "other", "texts", "first", "second"),
    ROWS,
    ids=[f"{row[0]}-{row[2]}-{row[3]}" for row in ROWS],
)
def test_the_key_decides(
    tmp_path: Path, key: str, settings: dict[str, Any], one: Any, other: Any, texts: list[str], first: Any, second: Any
) -> None:
    (tmp_path / "eval" / "towers").mkdir(parents=True)
    write_json_lines(tmp_path / "eval" / "towers" / "test.jsonl", [{"question": LEAK}])
    places = {"EVAL": str(tmp_path / "eval"), "MODEL": str(tmp_path / "model")}
    if other == "MODEL":
        blind_model(tmp_path / "model")

    def placed(values: dict[str, Any]) -> dict[str, Any]:
        return {name: places.get(value, value) if isinstance(value, str) else value for name, value in values.items()}

    for number, (value, expected) in enumerate(((one, first), (other, second))):
        found = cleaned(tmp_path / str(number), texts, **placed({**settings, key: value}))
        if isinstance(expected, tuple):
            assert found.texts[expected[0]] == expected[1], (key, value)
        else:
            assert found.reasons == expected, (key, value)


def blind_model(folder: Path) -> None:
    """A model to which every text has the probability 0.5."""
    import numpy as np

    from tinyllama.cleaning.safety_features import SLOTS
    from tinyllama.cleaning.safety_train import write_model

    weights = {head: np.zeros(SLOTS, np.float16) for head in ("hate", "sexual")}
    write_model(folder, weights, {"hate": 0.0, "sexual": 0.0}, {})


def test_dropped_texts_are_kept_on_request_those_of_extraction_without(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "eleven char"}, {"id": "b", "text": LONG}, {"id": "c"}, {"id": "d", "text": LONG}]
    config = {**BASE, "exact_duplicates": True, "c4_curly_bracket": True}
    rows.append({"id": "e", "text": "The { bracket"})
    for keep in (True, False):
        found = clean_rows(tmp_path / str(keep), rows, CleanConfig(**{**config, "keep_dropped_text": keep}))
        texts = {name: row.get("text") for name, row in found.dropped.items()}
        copy = "b" if "b" in texts else "d"
        expected = {copy: LONG, "e": "The { bracket", "input.jsonl:3": ""}
        assert texts == (expected if keep else dict.fromkeys(expected))


def test_the_validation_share_is_that_of_the_recipe(tmp_path: Path) -> None:
    texts = [f"{n} {prose(n, 1)}" for n in range(60)]
    for share, fewest, most in ((0.0, 0, 0), (0.5, 18, 42), (0.999999, 61, 61)):
        found = cleaned(tmp_path / str(share), texts, validation_fraction=share)
        assert fewest <= found.summary["validation_documents"] <= most
        assert found.summary["train_documents"] + found.summary["validation_documents"] == 61
