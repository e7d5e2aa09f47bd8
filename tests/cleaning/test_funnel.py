"""The funnel's arithmetic on counts made by hand: documents and bytes in = out + dropped, step by step."""

import json
from pathlib import Path
from typing import Any

from tinyllama import document_files
from tinyllama.cleaning.funnel import STEPS, Tally, write_funnel
from tinyllama.cleaning.pii import KINDS


def row(reason: str, raw: int, **fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "reason": reason, "raw_bytes": raw, "bytes": raw - 1, "split": "" if reason else "train", "cluster": "",
        "tasks": "", "domain": "a.org", "language": "en", "licence": None, "site_lines": 0, "unsafe_paragraphs": 0,
        "contaminated_paragraphs": 0, "copied_paragraphs": 0, **{f"masked_{kind}": 0 for kind in KINDS},
    }  # fmt: skip
    return base | fields


ROWS = [
    row("", 100, split="train", masked_email=2, masked_ip=1, site_lines=3, tasks="boolq piqa", cluster="c1"),
    row("", 200, split="validation", masked_email=5, unsafe_paragraphs=2, copied_paragraphs=4, tasks="piqa"),
    row("", 400, split="train", contaminated_paragraphs=7, site_lines=1, domain="b.org", licence="CC0"),
    row("step_failed", 1), row("step_too_slow", 2), row("too_long", 4), row("language_other", 8, language="de"),
    row("language_other", 16, language="de"), row("language_unknown", 32, language=""), row("gopher_short", 64),
    row("gopher_long", 128), row("c4_sentences", 256), row("fineweb_short_lines", 512), row("safety_hate", 1024),
    row("safety_sexual", 2048, masked_email=9, site_lines=9), row("contaminated", 4096, tasks="boolq boolq"),
    row("personal_information", 8192), row("duplicate_id", 16384), row("exact_duplicate", 32768, domain="b.org"),
    row("near_duplicate", 65536, cluster="c1"), row("near_duplicate", 131072, cluster="c1"),
    row("duplicate_paragraphs", 262144),
]  # fmt: skip


def tally_of(rows: list[dict[str, Any]]) -> Tally:
    tally = Tally()
    for one in rows:
        tally.add(one)
    return tally


def written(tmp_path: Path, tally: Tally) -> tuple[dict[str, Any], dict[str, Any]]:
    documents = tmp_path / "documents"
    for name, reasons in (("a.parquet", ["no_text", "html_no_text", "no_text"]), ("b.parquet", ["no_text"])):
        document_files.write_dropped(
            documents / document_files.DROPPED / name, [{"id": reason, "reason": reason} for reason in reasons]
        )
    (tmp_path / "out").mkdir()
    summary = write_funnel(tmp_path / "out", documents, tally)
    return summary, json.loads((tmp_path / "out" / "funnel.json").read_text())


def test_the_summary_adds_up_extraction_and_filters(tmp_path: Path) -> None:
    summary, funnel = written(tmp_path, tally_of(ROWS))
    assert summary == {
        "documents_in": 26, "documents_out": 3, "train_documents": 2, "validation_documents": 1,
        "text_bytes_in": 700 + 2**19 - 1, "text_bytes_out": 697,
        "dropped": {
            "c4_sentences": 1, "contaminated": 1, "duplicate_id": 1, "duplicate_paragraphs": 1, "exact_duplicate": 1,
            "fineweb_short_lines": 1, "gopher_long": 1, "gopher_short": 1, "html_no_text": 1, "language_other": 2,
            "language_unknown": 1, "near_duplicate": 2, "no_text": 3, "personal_information": 1, "safety_hate": 1,
            "safety_sexual": 1, "step_failed": 1, "step_too_slow": 1, "too_long": 1,
        },
        "masked": {**dict.fromkeys(KINDS, 0), "email": 7, "ip": 1},
        "site_lines": 4, "unsafe_paragraphs": 2, "contaminated_paragraphs": 7, "copied_paragraphs": 4,
        "contaminated": {"boolq": 3, "piqa": 2}, "clustered": {"in": 3, "out": 1},
    }  # fmt: skip
    assert {name: funnel[name] for name in summary} == summary


def test_each_step_takes_its_documents_and_their_bytes(tmp_path: Path) -> None:
    _, funnel = written(tmp_path, tally_of(ROWS))
    taken = {
        "extract": (4, 0), "time_limit": (2, 3), "language": (4, 60), "gopher": (2, 192), "c4": (1, 256),
        "fineweb": (1, 512), "safety": (2, 3072), "decontamination": (1, 4096), "personal_information": (1, 8192),
        "duplicate_id": (1, 16384), "exact_duplicates": (1, 32768), "near_duplicates": (2, 196608),
        "duplicate_paragraphs": (1, 262144), "edit_and_mask": (0, 3), "split": (0, 0),
    }  # fmt: skip
    steps = funnel["steps"]
    assert [step["step"] for step in steps] == list(taken)
    documents, size = 26, 700 + 2**19 - 1
    for step in steps:
        gone, gone_bytes = taken[step["step"]]
        assert (step["documents_in"], step["bytes_in"]) == (documents, size), step["step"]
        documents, size = documents - gone, size - gone_bytes
        assert (step["documents_out"], step["bytes_out"]) == (documents, size), step["step"]
        assert sum(step["dropped"].values()) == gone
    assert steps[0]["dropped"] == {"html_no_text": 1, "no_text": 3}
    assert steps[2]["dropped"] == {"language_other": 2, "language_unknown": 1, "too_long": 1}
    assert (documents, size) == (3, 697)
    assert steps[-1]["splits"] == {
        "train": {"documents": 2, "bytes": 498},
        "validation": {"documents": 1, "bytes": 199},
    }


def test_groups_count_what_came_in_and_what_stayed(tmp_path: Path) -> None:
    _, funnel = written(tmp_path, tally_of(ROWS))
    assert funnel["domain"] == {
        "a.org": {"in": 20, "out": 2, "bytes_out": 298},
        "b.org": {"in": 2, "out": 1, "bytes_out": 399},
    }
    assert funnel["language"] == {
        "en": {"in": 19, "out": 3, "bytes_out": 697},
        "de": {"in": 2, "out": 0, "bytes_out": 0},
        "(none)": {"in": 1, "out": 0, "bytes_out": 0},
    }
    assert funnel["licence"]["CC0"] == {"in": 1, "out": 1, "bytes_out": 399}


def test_the_twenty_first_value_and_all_after_it_are_the_others(tmp_path: Path) -> None:
    """Values with 25, 24, ... 1 documents; equal ones by name."""
    rows = [row("", 11, domain=f"d{count:02d}") for count in range(1, 26) for _ in range(count)]
    rows += [row("gopher_short", 5, domain="d26")] * 2
    _, funnel = written(tmp_path, tally_of(rows))
    table = funnel["domain"]
    assert list(table) == [f"d{count:02d}" for count in range(25, 5, -1)] + ["(others)"]
    assert table["d06"] == {"in": 6, "out": 6, "bytes_out": 60}
    assert table["(others)"] == {"in": 17, "out": 15, "bytes_out": 150}


def test_tallies_of_parts_together_are_the_tally_of_all() -> None:
    merged = Tally()
    for start in range(0, len(ROWS), 5):
        merged.merge(json.loads(json.dumps(tally_of(ROWS[start : start + 5]).as_json())))
    assert merged == tally_of(ROWS)


def test_every_reason_of_a_step_begins_as_the_step_says() -> None:
    beginnings = [beginning for some in STEPS.values() for beginning in some]
    for one in ROWS:
        assert sum(one["reason"].startswith(beginning) for beginning in beginnings) == (1 if one["reason"] else 0)
