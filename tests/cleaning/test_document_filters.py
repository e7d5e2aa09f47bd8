"""The filters of one document: their order, each threshold from both sides, what is counted, and batches that fail."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.cleaning.cleaning_here import NoLimits
from tinyllama import document_files
from tinyllama.cleaning import document_filters
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.document_filters import FilterModels, filter_documents, filter_file, language_reason
from tinyllama.cleaning.pii import KINDS
from tinyllama.dedup import hash_records

BASE: dict[str, Any] = {
    "gopher_quality": False, "gopher_repetition": False, "c4_terminal_punctuation": False, "c4_min_line_words": 0,
    "c4_curly_bracket": False, "c4_boilerplate": False, "c4_min_sentences": 0, "fineweb": False,
}  # fmt: skip
BEGINNINGS = {"DE": ("de", 0.9), "VAGUE": ("en", 0.3)}


def detect(text: str) -> tuple[str, float]:
    return BEGINNINGS.get(text.split(" ")[0], ("en", 0.8))


class FakeSafety:
    """Probabilities written in the text: a paragraph "h9 s2 ..." has hate 0.9 and sexual 0.2."""

    def probabilities_of(self, texts: list[str]) -> list[Any]:
        def numbers(paragraph: str) -> list[float]:
            found = {word[0]: float(word[1:]) / 10 for word in paragraph.split() if word[1:].isdecimal()}
            return [found.get("h", 0.0), found.get("s", 0.0)]

        return [np.array([numbers(paragraph) for paragraph in text.split("\n\n")]) for text in texts]


class FakeIndex:
    def tasks_of(self, text: str) -> dict[str, int]:
        return {"boolq": 2, "piqa": 1} if "LEAK" in text else {}


def filtered(texts: list[str], *, scored: bool = False, index: bool = False, **changes: Any) -> list[dict[str, Any]]:
    tools: Any = SimpleNamespace(
        detector=SimpleNamespace(detect=detect),
        safety=FakeSafety() if scored else None,
        contamination=FakeIndex() if index else None,
        boilerplate=None,
    )
    return filter_documents(texts, [""] * len(texts), CleanConfig(**{**BASE, **changes}), tools)


@pytest.mark.parametrize(
    ("language", "confidence", "languages", "least", "expected"),
    [
        ("en", 0.65, ["en"], 0.65, ""),
        ("en", 0.6499, ["en"], 0.65, "language_unknown"),
        ("en", 0.6501, ["en"], 0.65, ""),
        ("de", 0.65, ["en"], 0.65, "language_other"),
        ("de", 0.64, ["en"], 0.65, "language_unknown"),
        ("de", 0.65, ["en", "de"], 0.65, ""),
        ("de", 0.0, [], 0.65, ""),
        ("", 0.0, ["en"], 0.0, "language_other"),
    ],
)
def test_the_language_and_its_confidence_decide(
    language: str, confidence: float, languages: list[str], least: float, expected: str
) -> None:
    config = CleanConfig(languages=languages, min_language_confidence=least)
    assert language_reason(language, confidence, config) == expected


def test_a_document_is_too_long_above_the_limit_and_that_comes_before_its_language() -> None:
    found = filtered(["four", "fives", "DE four", "VAGUE", "DE 7"], max_document_chars=5)
    assert [row["reason"] for row in found] == ["", "", "too_long", "language_unknown", "language_other"]
    assert [(row["language"], row["language_confidence"]) for row in found[2:4]] == [("de", 0.9), ("en", 0.3)]


def test_bytes_and_characters_of_a_document() -> None:
    kept, dropped = filtered(["grün a@b.org c@d.org 8.8.8.8", "DE grün"])
    assert kept["text"] == "grün [email] [email] [ip]"
    assert (kept["raw_bytes"], kept["text_chars"], kept["bytes"]) == (29, 25, 26)
    assert {kind: kept[f"masked_{kind}"] for kind in KINDS if kept[f"masked_{kind}"]} == {"email": 2, "ip": 1}
    assert (dropped["raw_bytes"], dropped["text_chars"], dropped["bytes"], dropped["text"]) == (8, 0, 0, "")
    assert filtered(["DE grün"], keep_dropped_text=True)[0]["text"] == "DE grün"


def test_each_head_has_its_own_threshold() -> None:
    texts = ["h6 s6", "h5 s9", "h8 s1", "h7 s1"]
    changes: dict[str, Any] = {"max_hate": 0.7, "max_sexual": 0.8, "safety": "document"}
    found = filtered(texts, scored=True, **changes)
    assert [row["reason"] for row in found] == ["", "safety_sexual", "safety_hate", ""]
    assert [(row["hate"], row["sexual"]) for row in found] == [(0.6, 0.6), (0.5, 0.9), (0.8, 0.1), (0.7, 0.1)]
    assert found[1]["detail"] == "sexual 0.900, 1 of 1 paragraphs"


def test_bad_paragraphs_are_counted_and_a_large_share_takes_the_document() -> None:
    text = "h9 four\n\nh8 five\n\nh1 six 6\n\nh2 sevens"  # 7 + 7 of 31 characters
    for share, expected in ((14 / 32, "safety_hate"), (14 / 31, ""), (14 / 30, "")):
        row = filtered([text, "plain"], scored=True, max_unsafe_chars=share)[0]
        assert (row["reason"], row["unsafe_paragraphs"]) == (expected, 0 if expected else 2)
        assert row["text"] == ("" if expected else "h1 six 6\n\nh2 sevens")
        assert row["hate"] == (0.9 if expected else 0.2)


def test_evaluation_data_is_named_and_dropped_or_taken_out() -> None:
    leak = "one\n\nLEAK here\n\ntwo"
    whole, plain = filtered([leak, "plain"], index=True)
    assert (whole["reason"], whole["detail"], whole["tasks"]) == ("contaminated", "boolq 2, piqa 1", "boolq piqa")
    assert (plain["reason"], plain["tasks"]) == ("", "")
    part = filtered([leak], index=True, decontaminate_drops="paragraph")[0]
    assert (part["reason"], part["text"], part["contaminated_paragraphs"]) == ("", "one\n\ntwo", 1)
    assert part["tasks"] == "boolq piqa"
    only = filtered(["LEAK a@b.org"], index=True, decontaminate_drops="paragraph")[0]
    assert (only["reason"], only["masked_email"]) == ("contaminated", 0)


def test_personal_information_that_is_dropped_is_described() -> None:
    bad, good = filtered(["a@b.org c@d.org 8.8.8.8", "none"], personal_information="drop")
    assert (bad["reason"], bad["detail"]) == ("personal_information", "email 2, ip 1")
    assert (bad["masked_email"], bad["text"]) == (0, "")
    assert good["reason"] == ""


def test_a_document_is_dropped_by_the_first_filter_that_applies() -> None:
    changes: dict[str, Any] = {"c4_curly_bracket": True, "personal_information": "drop", "languages": ["en"]}
    texts = ["DE { h9 LEAK a@b.org", "{ h9 LEAK a@b.org", "h9 LEAK a@b.org", "LEAK a@b.org", "a@b.org", "good"]
    found = filtered(texts, scored=True, index=True, **changes)
    expected = ["language_other", "c4_curly_bracket", "safety_hate", "contaminated", "personal_information", ""]
    assert [row["reason"] for row in found] == expected
    assert [row["hate"] for row in found] == [None, None, 0.9, 0.0, 0.0, 0.0]


def test_models_are_opened_as_the_recipe_says() -> None:
    off = FilterModels.open(CleanConfig(safety="off", language_chars=7))
    assert (off.safety, off.contamination, off.boilerplate) == (None, None, None)
    assert off.detector._max_chars == 7
    assert FilterModels.open(CleanConfig(safety="score")).safety is not None


def write_documents(tmp_path: Path, texts: list[str]) -> dict[str, Any]:
    rows = [
        dict.fromkeys(document_files.DOCUMENT_SCHEMA.names, "") | {"id": str(9 - n), "text": t}
        for n, t in enumerate(texts)
    ]
    document_files.write_document_file(
        tmp_path / "in.parquet", pa.Table.from_pylist(rows, schema=document_files.DOCUMENT_SCHEMA)
    )
    config = CleanConfig(**{**BASE, "safety": "off", "languages": [], "near_duplicates": False})
    return {
        "config": config.model_dump(), "documents": str(tmp_path / "in.parquet"), "out": str(tmp_path / "out.parquet"),
        "keys": str(tmp_path / "keys.npy"), "index": "", "lines": "",
    }  # fmt: skip


def test_a_file_reports_its_progress_and_sorts_its_rows_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_filters, "_BATCH_ROWS", 2)
    task, progress = write_documents(tmp_path, ["a", "b", "c", "d", "e"]), NoLimits()
    assert filter_file(task, progress) == {"documents": 5}  # pyright: ignore[reportArgumentType]
    assert progress.said == [(0, False, 10.0), (2, False, 10.0), (4, False, 10.0), (-1, False, 0.0)]
    table = document_files.read_document_file(tmp_path / "out.parquet")
    assert table.column("id").to_pylist() == ["5", "6", "7", "8", "9"]
    assert table.column("text").to_pylist() == ["e", "d", "c", "b", "a"]
    records = hash_records.read_array(tmp_path / "keys.npy")
    assert (records["key"] >> np.uint64(52)).tolist() == [1] * 5 + [2] * 5


def test_a_batch_that_fails_is_filtered_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(document_filters, "_BATCH_ROWS", 3)
    plain = document_filters.mask_personal_information

    def fails(text: str, kinds: tuple[str, ...]) -> Any:
        if text == "FAILS":
            raise ValueError("no  such\nthing" + "x" * 300)
        return plain(text, kinds)

    monkeypatch.setattr(document_filters, "mask_personal_information", fails)
    task, progress = write_documents(tmp_path, ["a", "FAILS", "c", "d", "e", "f", "g"]), NoLimits()
    task |= {"singly": [3], "broken": {"4": "step_crashed"}}
    filter_file(task, progress)  # pyright: ignore[reportArgumentType]
    assert [where[:2] for where in progress.said] == [
        (0, False), (0, True), (1, True), (2, True), (3, True), (5, True), (6, False), (-1, False),
    ]  # fmt: skip
    rows = document_files.read_document_file(tmp_path / "out.parquet").to_pylist()
    assert {row["id"]: row["reason"] for row in rows if row["reason"]} == {"8": "step_failed", "5": "step_crashed"}
    detail = next(row["detail"] for row in rows if row["id"] == "8")
    assert detail.startswith("ValueError('no such\\nthingxx")
    assert len(detail) == 200
    assert {row["raw_bytes"] for row in rows if row["reason"]} == {1, 5}
    assert "row 0 or later failed" in capsys.readouterr().err
