import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cleaning.clean_inputs import page, prose, write_json_lines, write_warc
from tinyllama.errors import InputError
from tinyllama.sources import read_inputs
from tinyllama.sources.read_inputs import Record, find_inputs, read_records


def records(path: Path) -> list[Record]:
    return list(read_records(path, 1_000_000))


def test_fields_of_a_json_line(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "one", "source": "s", "kind": "book", "licence": "CC0", "unknown": 1},
        {"id": 7, "text": "two", "kind": "film", "source": None},
        {"text": "three"},
    ]
    assert records(write_json_lines(tmp_path / "x.jsonl", rows)) == [
        Record("a", "one", source="s", kind="book", licence="CC0"),
        Record("7", "two"),
        Record("", "three"),
    ]


def test_bad_lines_keep_their_place_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    deep = b'{"text": ' + b"[" * 100_000 + b"}"
    path.write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n\n{"text"\n[1]\n{"id": "n"}\n{"text": "\\ud800"}\n' + deep)
    assert [(record.id, record.reason) for record in records(path)] == [
        ("", ""),
        ("x.jsonl:2", "invalid_utf8"),
        ("x.jsonl:4", "invalid_json"),
        ("x.jsonl:5", "invalid_json"),
        ("x.jsonl:6", "no_text"),
        ("x.jsonl:7", "invalid_unicode"),
        ("x.jsonl:8", "invalid_json"),
    ]


def test_a_file_without_a_good_line_is_an_error(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "x.jsonl", [{"content": "the key has another name"}] * 3)
    with pytest.raises(InputError, match=r"x\.jsonl: no line is a JSON object with a 'text' \(line 1: no_text\)"):
        records(path)


def test_compressed_lines_of_several_members(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {n}"}).encode() + b"\n" for n in range(5000)]
    for name, compress in (("x.jsonl.gz", gzip.compress), ("x.jsonl.zst", zstandard.compress)):
        path = tmp_path / name
        path.write_bytes(compress(b"".join(lines[:2000])) + compress(b"".join(lines[2000:])))
        assert [record.body for record in records(path)] == [f"text {n}" for n in range(5000)]
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        with pytest.raises(InputError, match=f"{name}: ends too early"):
            records(path)
        path.write_bytes(b"\0" * 100)
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            records(path)


def test_a_line_without_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_inputs, "MAX_LINE_BYTES", 50)
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "' + b"a" * 10_000_000 + b'"}\n{"text": "short"}\n'))
    assert [(record.body, record.reason) for record in records(path)] == [("", "line_too_long"), ("short", "")]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_give_records_or_one_line_of_error(tmp_path: Path, data: bytes) -> None:
    for name in ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.warc", "x.warc.gz"):
        path = tmp_path / name
        path.write_bytes(data)
        message = ""
        try:
            records(path)
        except InputError as error:  # anything else fails the test
            message = str(error)
        assert not message or (message.startswith(str(path)) and "\n" not in message)


def test_parquet_rows_and_missing_column(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["one", None], "domain": ["d", "e"], "score": [1.0, 2.0]}), path)
    assert records(path) == [Record("a", "one", domain="d"), Record("x.parquet:2", "", reason="no_text")]
    pq.write_table(pa.table({"id": ["a"], "body": ["one"]}), path)
    with pytest.raises(InputError, match="no column 'text'; the columns are id, body"):
        records(path)


def test_pages_of_a_warc(tmp_path: Path) -> None:
    html = page(prose(1))
    large = b"x" * 1_000_001
    pages = {"http://a.org/1": html.encode(), "http://b.org/2": large, "http://a.org/3": b""}
    path = write_warc(tmp_path / "x.warc.gz", pages)
    found = records(path)
    assert [(record.source, record.domain, record.reason) for record in found] == [
        ("http://a.org/1", "a.org", ""),
        ("", "", "page_too_large"),
        ("http://a.org/3", "a.org", ""),
    ]
    assert found[0].is_html
    assert found[0].body == html
    assert found[0].fetched_at.endswith("Z")


def test_truncated_warc_is_one_line(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "x.warc.gz", {f"http://a.org/{n}": page(prose(n)).encode() for n in range(3)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"x\.warc\.gz: cut off"):
        records(path)


def test_inputs_are_found_once_without_bookkeeping(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    lines = write_json_lines(deep / "x.jsonl", [{"text": "t"}])
    for name in ("manifest.json", "unfinished.json", "evaluation.manifest.json", "notes.txt"):
        (deep / name).write_text("{}")
    assert find_inputs([tmp_path, lines]) == [lines]
    with pytest.raises(InputError, match="missing: no such file or folder"):
        find_inputs([tmp_path / "missing"])
    with pytest.raises(InputError, match="expected a file that ends in"):
        find_inputs([deep / "notes.txt"])
    lines.unlink()
    with pytest.raises(InputError, match="no file that ends in"):
        find_inputs([tmp_path])
