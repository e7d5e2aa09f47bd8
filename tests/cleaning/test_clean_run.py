"""Cleaning as a whole: what comes out of small corpora, counts that add up, bad input, and kills."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cleaning.clean_inputs import folder_bytes, page, prose, write_json_lines, write_warc
from tinyllama import document_files
from tinyllama.cleaning import extract_documents
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.clean_documents import clean_documents
from tinyllama.cleaning.clean_run import clean
from tinyllama.cleaning.explain import key_of_reason
from tinyllama.errors import InputError
from tinyllama.sources.document import document_id

ONE_WORKER = CleanConfig(workers=1)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in document_files.document_paths(folder) for row in pq.read_table(path).to_pylist()]


def run(tmp_path: Path, inputs: list[Path], config: CleanConfig = ONE_WORKER) -> dict[str, Any]:
    return clean(config, inputs, tmp_path / "documents", tmp_path / "clean")


def check_counts(tmp_path: Path, summary: dict[str, Any]) -> None:
    """What goes in comes out or is dropped with a reason, in the summary, in the files and step by step."""
    assert summary["documents_in"] == summary["documents_out"] + sum(summary["dropped"].values())
    assert summary["documents_out"] == summary["train_documents"] + summary["validation_documents"]
    kept = {split: rows_of(tmp_path / "clean" / split) for split in ("train", "validation")}
    assert {split: len(rows) for split, rows in kept.items()} == {
        "train": summary["train_documents"],
        "validation": summary["validation_documents"],
    }
    assert sum(len(row["text"].encode()) for rows in kept.values() for row in rows) == summary["text_bytes_out"]
    assert Counter(row["reason"] for row in rows_of(tmp_path / "clean" / "dropped")) == summary["dropped"]
    funnel = json.loads((tmp_path / "clean" / "funnel.json").read_text())
    assert funnel["steps"][0]["documents_in"] == summary["documents_in"]
    for step, following in zip(funnel["steps"], funnel["steps"][1:], strict=False):
        assert (
            step["documents_in"] - sum(step["dropped"].values()) == step["documents_out"] == following["documents_in"]
        )
        assert step["bytes_out"] == following["bytes_in"]
    assert funnel["steps"][-1]["documents_out"] == summary["documents_out"]
    assert funnel["steps"][-1]["bytes_out"] == summary["text_bytes_out"]


def mixed_inputs(folder: Path) -> list[Path]:
    """Good texts, and one of most things that are dropped."""
    folder.mkdir(parents=True)
    near = prose(1, 40)
    bad = [
        {"id": "short", "text": "This is far too short a text to be kept by anyone."},
        {"id": "german", "text": "Der alte Turm am Hafen wurde von den Leuten des Dorfes nie vergessen. " * 10},
        {"id": "curly", "text": prose(50) + "\nThe set that is written {a, b} has two members."},
        {"id": "copy", "text": prose(2).upper().lower().replace("the ", "The ")},
        {"id": "near", "text": near.replace(" the ", " this ", 1)},
        {"id": "text-3", "text": prose(60)},
        {"id": "no text"},
        {"id": "mail", "text": prose(61) + "\nWrite to the keeper of the harbour at keeper@harbour.example.org today."},
    ]
    good = [{"id": f"text-{n}", "text": prose(n)} for n in range(2, 40)] + [{"id": "text-1", "text": near + " Indeed."}]
    pages = {f"http://a.org/{n}": page(prose(100 + n)).encode() for n in range(5)}
    pages |= {"http://a.org/empty": b"<html></html>", "http://a.org/nav": b"<nav>menu</nav>"}
    return [
        write_json_lines(folder / "a.jsonl", good + bad),
        write_json_lines(folder / "b.jsonl.gz", [{"text": prose(200)}]),
        write_warc(folder / "c.warc.gz", pages),
    ]


def test_every_drop_has_its_reason_and_counts_add_up(tmp_path: Path) -> None:
    inputs = mixed_inputs(tmp_path / "in")
    summary = run(tmp_path, inputs)
    check_counts(tmp_path, summary)
    assert summary["dropped"] == {
        "c4_curly_bracket": 1,
        "duplicate_id": 1,
        "exact_duplicate": 1,
        "gopher_short": 1,
        "html_no_text": 2,
        "language_other": 1,
        "near_duplicate": 1,
        "no_text": 1,
    }
    assert summary["documents_in"] == 39 + 8 + 1 + 7
    assert {kind: count for kind, count in summary["masked"].items() if count} == {"email": 1}
    reasons = {row["id"]: row["reason"] for row in rows_of(tmp_path / "clean" / "dropped")}
    assert reasons["near"] == "near_duplicate"  # text-1 is longer
    assert reasons["german"] == "language_other"
    kept = {row["id"]: row for split in ("train", "validation") for row in rows_of(tmp_path / "clean" / split)}
    assert kept["mail"]["text"].endswith("at [email] today.")
    web = kept[document_id("http://a.org/3", "Title\n\n" + prose(103).replace("\n", "\n\n"))]
    assert (web["source"], web["domain"], web["kind"], web["language"]) == ("http://a.org/3", "a.org", "web", "en")
    assert list(web) == document_files.CLEAN_SCHEMA.names
    assert not (tmp_path / "clean" / "work").exists()


def test_same_bytes_whatever_the_workers_and_the_parts_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_documents, "FILE_RECORDS", 10)
    inputs = mixed_inputs(tmp_path / "in")
    run(tmp_path / "one", inputs)
    run(tmp_path / "three", inputs, CleanConfig(workers=3))
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "three")
    run(tmp_path / "one", inputs)  # parts that are there are taken
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "three")


def test_the_order_of_pages_does_not_matter(tmp_path: Path) -> None:
    pages = {f"http://a.org/{n}": page(prose(n % 15)).encode() for n in range(20)}  # five exact duplicates
    for name, order in (("a", list(pages)), ("b", list(reversed(pages)))):
        (tmp_path / name).mkdir()
        path = write_warc(tmp_path / name / "x.warc.gz", {url: pages[url] for url in order})
        run(tmp_path / name, [path])
    split = {
        name: [row for split in ("train", "validation") for row in rows_of(tmp_path / name / "clean" / split)]
        for name in "ab"
    }
    for rows in split.values():
        assert len(rows) == 15
        for row in rows:
            row.pop("fetched_at")
    assert split["a"] == split["b"]


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_counts_add_up_for_any_texts(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    texts = st.one_of(st.text(max_size=200), st.integers(0, 5).map(prose))
    ids = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))
    rows = data.draw(st.lists(st.tuples(ids, texts), min_size=1, max_size=12))
    tmp_path = tmp_path_factory.mktemp("any")
    lines = [{"id": "sure", "text": prose(99)}, *({"text": text} | ({"id": i} if i else {}) for i, text in rows)]
    summary = run(tmp_path, [write_json_lines(tmp_path / "x.jsonl", lines)])
    assert summary["documents_in"] == len(lines)
    check_counts(tmp_path, summary)


def test_one_document_goes_to_train_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(tmp_path, [write_json_lines(tmp_path / "x.jsonl", [{"id": "a", "text": prose(1)}])])
    assert (summary["train_documents"], summary["validation_documents"]) == (1, 0)
    assert "is in the validation split" in capsys.readouterr().err


def test_empty_corpora_are_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match="no document came out"):
        run(tmp_path / "a", [empty])
    pages = write_warc(tmp_path / "x.warc.gz", {"http://a.org/": b"<nav>menu</nav>"})
    with pytest.raises(InputError, match="most often html_no_text"):
        run(tmp_path / "b", [pages])
    with pytest.raises(InputError, match=r"no documents \(\*\.parquet\)"):
        clean_documents(CleanConfig(), tmp_path, tmp_path / "c")


def test_all_dropped_names_the_reason_and_the_key(tmp_path: Path) -> None:
    path = write_json_lines(
        tmp_path / "x.jsonl",
        [{"text": "This is far too short a text to be kept by anyone."}, {"text": "Short too, and so it goes."}],
    )
    with pytest.raises(
        InputError, match=r"all 2 documents were dropped, 2 of them as gopher_short; relax clean\.min_words"
    ):
        run(tmp_path, [path], CleanConfig(workers=1, languages=[]))
    assert not (tmp_path / "clean").exists()


def test_every_reason_has_a_key_of_the_recipe() -> None:
    reasons = ["safety_hate", "safety_sexual", "contaminated", "personal_information", "near_duplicate"]
    reasons += ["gopher_top_2gram", "gopher_duplicate_10grams", "too_long", "language_other", "c4_sentences"]
    for reason in reasons:
        section, _, key = key_of_reason(reason).partition(".")
        assert section == "clean"
        assert key in CleanConfig.model_fields


def test_validation_share_and_no_leak(tmp_path: Path) -> None:
    rows = [{"id": f"{n}", "text": prose(n % 60)} for n in range(90)]
    config = CleanConfig(workers=1, validation_fraction=0.4)
    summary = run(tmp_path, [write_json_lines(tmp_path / "x.jsonl", rows)], config)
    train, validation = (rows_of(tmp_path / "clean" / split) for split in ("train", "validation"))
    assert summary["dropped"] == {"exact_duplicate": 30}
    assert 10 < len(validation) < 40
    assert not {row["text"] for row in train} & {row["text"] for row in validation}


def test_a_damaged_document_part_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match=r"x\.parquet: not a readable parquet file"):
        clean_documents(CleanConfig(), tmp_path, tmp_path / "out")
