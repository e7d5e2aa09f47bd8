"""From records to parts: where a part ends, what a resumed run reads past, what is dropped, in which order it is written."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.cleaning.clean_inputs import page, prose, write_json_lines, write_warc
from tests.cleaning.cleaning_here import in_this_process, rows_in
from tinyllama import document_files
from tinyllama.cleaning import clean_documents, extract_documents
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.extract_documents import _DocumentFile, _texts
from tinyllama.errors import InputError
from tinyllama.files import read_json
from tinyllama.sources.document import document_id
from tinyllama.sources.read_inputs import Record


def part(documents: int, dropped: int, chars: int = 0) -> _DocumentFile:
    return _DocumentFile([{}] * documents, [{}] * dropped, chars)


@pytest.mark.parametrize(
    ("number", "records", "chars"),
    [(0, 1250, 8 << 20), (7, 1250, 8 << 20), (8, 10_000, 64 << 20), (9, 10_000, 64 << 20)],
)
def test_the_first_eight_parts_of_a_file_are_an_eighth_of_the_others(number: int, records: int, chars: int) -> None:
    assert not part(records - 10, 9).is_full(number)
    assert part(records - 10, 10).is_full(number)
    assert not part(1, 1, chars - 1).is_full(number)
    assert part(1, 1, chars).is_full(number)


def test_a_small_part_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_documents, "FILE_RECORDS", 9)
    assert not part(1, 0).is_full(0)
    assert part(1, 1).is_full(0)
    assert not part(8, 0).is_full(8)


class Line:
    """A progress line that notes how far it came."""

    def __init__(self, *_: object) -> None:
        self.seen: list[int] = []

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, done: int) -> None:
        self.seen.append(done)


def extracted(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return extract_documents.extract_documents(CleanConfig(workers=1, **changes), [tmp_path / "in"], tmp_path / "out")


def write_inputs(folder: Path) -> None:
    folder.mkdir()
    rows: list[dict[str, Any]] = [{"id": f"a{n}", "text": f"text {9 - n}"} for n in range(5)]
    write_json_lines(folder / "a.jsonl", [*rows, {"id": "none"}, {"id": "blank", "text": " \n"}])
    write_json_lines(folder / "b.jsonl", [{"text": "given no id", "source": "s", "kind": "book", "licence": "CC0"}])
    pages = {"http://a.org/1": page(prose(1)).encode(), "http://a.org/2": b"<nav>menu</nav>"}
    write_warc(folder / "c.warc.gz", {**pages, "http://b.org/large": page(prose(1) * 9).encode()})


def test_what_comes_out_of_each_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Line] = []
    monkeypatch.setattr(extract_documents.log, "progress", lambda *words: lines.append(Line()) or lines[-1])
    write_inputs(tmp_path / "in")
    summary = extracted(tmp_path, max_page_bytes=len(page(prose(1))) + 300)
    assert summary == {
        "documents_in": 11, "documents_out": 7, "input_files": 3,
        "dropped": {"html_no_text": 1, "no_text": 2, "page_too_large": 1},
    }  # fmt: skip
    assert read_json(tmp_path / "out" / "extraction.json") == summary
    assert lines[0].seen == list(range(1, 12))
    rows = rows_in(tmp_path / "out")
    book = next(row for row in rows if row["kind"] == "book")
    assert book == {
        "id": document_id("s", "given no id"), "text": "given no id", "source": "s", "kind": "book", "domain": "",
        "language": "", "licence": "CC0", "fetched_at": "",
    }  # fmt: skip
    web = next(row for row in rows if row["source"].startswith("http"))
    assert (web["domain"], web["kind"], web["id"]) == ("a.org", "web", document_id(web["source"], web["text"]))
    dropped = {row["id"]: row["reason"] for row in rows_in(tmp_path / "out" / "dropped")}
    assert dropped == {
        "a.jsonl:6": "no_text", "blank": "no_text", document_id("http://a.org/2", ""): "html_no_text",
        next(name for name in dropped if name.startswith("c.warc.gz")): "page_too_large",
    }  # fmt: skip


def test_parts_end_alike_and_a_resumed_run_reads_past_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_documents, "FILE_RECORDS", 16)  # an eighth: two
    write_inputs(tmp_path / "in")
    first = extracted(tmp_path)
    names = [path.name for path in document_files.document_paths(tmp_path / "out")]
    assert names == [
        "00000-00000.parquet", "00000-00001.parquet", "00000-00002.parquet", "00000-00003.parquet",
        "00001-00000.parquet", "00002-00000.parquet", "00002-00001.parquet",
    ]  # fmt: skip
    whole = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}
    assert rows_in(tmp_path / "out")[0]["text"] == "text 9"
    (tmp_path / "out" / "00000-00002.parquet").unlink()
    (tmp_path / "out" / "dropped" / "00000-00003.parquet").unlink()
    (tmp_path / "out" / "00000-00003.parquet").unlink()
    (tmp_path / "out" / "00002-00001.parquet").unlink()
    stamp = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert extracted(tmp_path) == first
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")} == whole
    for name in ("00000-00000", "00000-00001", "00001-00000", "00002-00000"):
        path = tmp_path / "out" / f"{name}.parquet"
        assert path.stat().st_mtime_ns == stamp[path]


def test_a_parts_drops_are_written_first_and_its_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    plain = document_files.write_document_file

    def write(path: Path, table: Any) -> None:
        written.append(str(path.relative_to(tmp_path)))
        plain(path, table)

    monkeypatch.setattr(document_files, "write_document_file", write)
    rows = [dict.fromkeys(document_files.DOCUMENT_SCHEMA.names, "") | {"id": i, "text": t}
            for i, t in (("b", "1"), ("a", "2"), ("a", "1"))]  # fmt: skip
    extract_documents._write(_DocumentFile(rows, [{"id": "x", "reason": "r"}]), tmp_path, "p.parquet")
    assert written == ["dropped/p.parquet", "p.parquet"]
    assert [(row["id"], row["text"]) for row in rows_in(tmp_path)] == [("a", "1"), ("a", "2"), ("b", "1")]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_few_pages_are_under_way_and_come_back_in_order(workers: int) -> None:
    sent: list[str] = []

    class Threads:
        def submit(self, call: Any, body: str) -> Future[tuple[str, str]]:
            sent.append(body)
            future: Future[tuple[str, str]] = Future()
            future.set_result((f"text of {body}", ""))
            return future

    records = [Record(f"{n}", f"page {n}", is_html=n % 2 == 0, reason="bad" if n == 4 else "") for n in range(40)]
    taken: list[str] = []
    pool: Any = type("Pool", (), {"text_of": None})
    for record, text, reason in _texts(iter(records), pool, Threads(), workers):  # pyright: ignore[reportArgumentType]
        if not taken:
            assert len(sent) == (8 * workers + 1 + 1) // 2 - (1 if 8 * workers >= 4 else 0)
        taken.append(record.id)
        number = int(record.id)
        expected = (
            ("page 4", "bad")
            if number == 4
            else (f"text of page {number}" if number % 2 == 0 else f"page {number}", "")
        )
        assert (text, reason) == expected
    assert taken == [f"{n}" for n in range(40)]
    assert "page 4" not in sent
    assert len(sent) == 19


def test_on_a_cluster_each_file_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    write_inputs(tmp_path / "in")
    here = extracted(tmp_path)
    monkeypatch.setenv("DAFT_RUNNER", "ray")
    lines: list[Line] = []
    monkeypatch.setattr(extract_documents.log, "progress", lambda *words: lines.append(Line()) or lines[-1])
    config = CleanConfig(workers=1)
    assert extract_documents.extract_documents(config, [tmp_path / "in"], tmp_path / "ray") == here
    assert lines[0].seen == [7, 8, 11]
    assert rows_in(tmp_path / "ray") == rows_in(tmp_path / "out")


def test_nothing_that_comes_out_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_json_lines(tmp_path / "in" / "a.jsonl", [{"id": "x", "text": ""}, {"id": "y", "text": " "}])
    write_warc(tmp_path / "in" / "b.warc.gz", {"http://a.org/2": b"<nav>menu</nav>"})
    with pytest.raises(InputError, match=r"a\.jsonl and 1 more: no document came out; most often no_text; give"):
        extracted(tmp_path)
    assert not (tmp_path / "out").exists()


# -- progress of cleaning


def test_the_progress_of_filtering_starts_with_the_finished_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    lines: list[tuple[Any, Line]] = []

    def progress(*words: Any) -> Line:
        lines.append((words, Line()))
        return lines[-1][1]

    monkeypatch.setattr(extract_documents, "FILE_RECORDS", 16)
    write_inputs(tmp_path / "in")
    extracted(tmp_path)
    monkeypatch.setattr(clean_documents.log, "progress", progress)
    found = document_files.document_paths(tmp_path / "out")
    config = CleanConfig(workers=1, languages=[], safety="off", near_duplicates=False)
    clean_documents._filter(config, found, tmp_path / "work", None)
    assert (lines[0][0], lines[0][1].seen) == (("filter documents", 8), [2, 4, 5, 5, 6, 7, 8])
    (tmp_path / "work" / "filtered" / found[1].name).unlink()
    clean_documents._filter(config, found, tmp_path / "work", None)
    assert lines[1][1].seen == [8]


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        ("gopher_top_3gram", "max_top_ngram_chars"), ("gopher_duplicate_7grams", "max_duplicate_ngram_chars"),
        ("gopher_duplicate_lines", "max_duplicate_lines"), ("safety_sexual", "max_sexual"),
        ("too_long", "max_document_chars"),
        ("gopher_long", "max_words"), ("step_too_slow", "document_cpu_seconds"), ("c4_sentences", "c4_min_sentences"),
    ],
)  # fmt: skip
def test_the_key_of_a_reason(reason: str, key: str) -> None:
    assert clean_documents.key_of_reason(reason) == f"clean.{key}"
    assert clean_documents.key_of_reason("step_failed") == "clean"
