"""Reading at its edges: lines at the limit, pieces of any size, skipped pages counted once, remote files fetched on."""

import gzip
import io
import json
import urllib.error
from collections import Counter
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pyarrow import fs
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tinyllama import document_files
from tinyllama.cleaning import extract
from tinyllama.cleaning.extract import ExtractPool
from tinyllama.document_files import document_batches
from tinyllama.errors import InputError
from tinyllama.sources import read_inputs, remote_inputs
from tinyllama.sources.read_inputs import find_inputs, read_lines, read_records
from tinyllama.sources.remote_inputs import RemoteFile, find_remote, local_copy

LINES = [b"first", b"", b"x" * 9, b"y" * 10, b"z" * 11, b"w" * 40, b"last"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_come_whole_whatever_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, end: bytes
) -> None:
    data = b"\n".join(LINES) + end
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix](data))
    assert list(read_lines(path)) == LINES
    for piece in (1, 2, 7, 100):
        monkeypatch.setattr(
            read_inputs, "_chunks", lambda path, p=piece: (data[n : n + p] for n in range(0, len(data), p))
        )
        monkeypatch.setattr(read_inputs, "MAX_LINE_BYTES", 10)
        assert list(read_lines(path)) == [line[:11] for line in LINES]
        monkeypatch.setattr(read_inputs, "MAX_LINE_BYTES", 1 << 20)
        assert list(read_lines(path)) == LINES


def test_a_line_at_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"id": "a", "text": "x" * 20}).encode()
    monkeypatch.setattr(read_inputs, "MAX_LINE_BYTES", len(line))
    path = tmp_path / "x.jsonl"
    path.write_bytes(line + b"\n" + line.replace(b"xx", b"xxx", 1) + b"\n\n" + line.replace(b'"a"', b'"b"'))
    found = [(record.id, record.reason) for record in read_records(path, 1)]
    assert found == [("a", ""), ("x.jsonl:2", "line_too_long"), ("b", "")]


def test_what_a_record_may_say_of_itself(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": True, "text": "t"}, {"id": 1.5, "text": "t"}, {"id": 0, "text": "t"}, {"id": "é", "text": "é", "kind": "web"},
        {"text": "t", "source": 5, "kind": None, "licence": ["x"], "domain": "d", "fetched_at": "f"},
        {"text": "t", "domain": "\ud800"}, {"id": "\udc00", "text": "t"}, {"text": 5}, {"text": ""},
    ]  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = list(read_records(path, 1))
    assert [(record.id, record.reason) for record in found] == [
        ("", ""), ("", ""), ("0", ""), ("é", ""), ("", ""), ("x.jsonl:6", "invalid_unicode"),
        ("x.jsonl:7", "invalid_unicode"), ("x.jsonl:8", "no_text"), ("", ""),
    ]  # fmt: skip
    odd = found[4]
    assert (odd.source, odd.kind, odd.licence, odd.domain, odd.fetched_at) == ("", "web", "", "d", "f")


def test_one_good_line_saves_a_file_and_the_first_fault_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"a": 1}\n[]\n')
    with pytest.raises(InputError, match=r"\(line 2: no_text\)"):
        list(read_records(path, 1))
    path.write_text('{"a": 1}\n{"text": "good"}\n{"b": 1}')
    assert [record.reason for record in read_records(path, 1)] == ["no_text", "", "no_text"]
    path.write_text("\n \n")
    assert list(read_records(path, 1)) == []


def test_parquet_rows_are_numbered_over_batches(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    texts = [None if n in (0, 256, 599) else f"t{n}" for n in range(600)]
    columns = {"text": texts, "licence": ["CC0"] * 600, "id": [f"i{n}" for n in range(600)], "other": [1] * 600}
    pq.write_table(pa.table(columns), path)
    found = list(read_records(path, 1))
    assert [record.id for record in found if record.reason] == ["x.parquet:1", "x.parquet:257", "x.parquet:600"]
    assert (found[5].id, found[5].body, found[5].licence, found[5].kind) == ("i5", "t5", "CC0", "web")


def warc_of(path: Path, pages: list[tuple[str, bytes, str]]) -> Path:
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for url, body, status in pages:
            headers = StatusAndHeaders(status, [("Content-Type", "text/html")], protocol="HTTP/1.1")
            writer.write_record(
                writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=headers)
            )
    return path


def test_skipped_pages_are_counted_once_in_their_place(tmp_path: Path) -> None:
    large = b"x" * 2000
    pages = [
        ("http://a.org/1", large, "200 OK"),
        ("http://a.org/2", b"two", "200 OK"),
        ("", b"none", "200 OK"),
        ("http://a.org/3", large, "200 OK"),
        ("http://a.org/4", large, "200 OK"),
        ("http://a.org/5", b"five", "299 X"),
        ("http://a.org/6", b"six", "300 X"),
        ("http://a.org/7", b"seven", "199 X"),
        ("http://a.org/8", large, "200 OK"),
    ]
    found = list(read_records(warc_of(tmp_path / "x.warc.gz", pages), 1000))
    assert [(record.source or record.id, record.reason) for record in found if "too_large" not in record.reason] == [
        ("http://a.org/2", ""), ("x.warc.gz:no_url:1", "page_no_url"), ("http://a.org/5", ""),
        ("http://a.org/6", "page_http_status"), ("http://a.org/7", "page_http_status"),
    ]  # fmt: skip
    too_large = [record.id for record in found if record.reason == "page_too_large"]
    assert too_large == [f"x.warc.gz:too_large:{n}" for n in (1, 2, 3, 4)]
    skipped, told = Counter({"b": 2, "a": 1}), Counter({"b": 1})
    assert [record.id for record in read_inputs._skipped_pages(Path("f"), skipped, told)] == ["f:a:1", "f:b:2"]
    assert list(read_inputs._skipped_pages(Path("f"), skipped, told)) == []


def test_files_of_our_own_are_no_documents_unless_they_are_named(tmp_path: Path) -> None:
    names = (
        "funnel.json",
        "extraction.json",
        "unfinished.json",
        "manifest.json",
        "x.manifest.json",
        "b.json",
        "a.jsonl",
    )
    for name in names:
        (tmp_path / name).write_text("{}")
    assert [path.name for path in find_inputs([tmp_path])] == ["a.jsonl", "b.json"]
    (tmp_path / "link.json").symlink_to(tmp_path / "b.json")
    assert len(find_inputs([tmp_path, tmp_path / "b.json", tmp_path / "funnel.json"])) == 3


# -- parts


@pytest.mark.parametrize(
    ("rows", "chars", "sizes"),
    [
        (2, 1 << 30, [2, 2, 1]),
        (9, 10, [2, 1, 2]),
        (9, 9, [1, 1, 1, 2]),
        (1, 100, [1] * 5),
        (5, 100, [5]),
        (4, 21, [3, 2]),
    ],
)
def test_batches_of_a_part_keep_to_rows_and_characters(tmp_path: Path, rows: int, chars: int, sizes: list[int]) -> None:
    texts = ["x" * 4, "é" * 6, "x" * 11, "x", "x" * 2]
    path = tmp_path / "p.parquet"
    document_files.write_document_file(path, pa.table({"text": texts, "id": list("abcde"), "other": [1] * 5}))
    batches = list(document_batches(path, ["id", "text"], rows, chars))
    assert [len(batch) for batch in batches] == sizes
    assert [row for batch in batches for row in batch.column("text").to_pylist()] == texts
    assert batches[0].column_names == ["id", "text"]
    assert document_files.row_count(path) == 5


def test_parts_have_row_groups_of_a_thousand_and_drops_are_sorted(tmp_path: Path) -> None:
    document_files.write_document_file(
        tmp_path / "b.parquet", pa.table({"text": ["t"] * 2001}).replace_schema_metadata({"a": "b"})
    )
    file = pq.ParquetFile(tmp_path / "b.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [1000, 1000, 1]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert not (file.schema_arrow.metadata or {}).get(b"a")
    rows = [
        {"id": "b", "reason": "r"},
        {"id": "a", "reason": "z", "text": "t"},
        {"id": "a", "reason": "r", "detail": None},
    ]
    for with_text in (False, True):
        document_files.write_dropped(tmp_path / "a.parquet", rows, with_text=with_text)
        found = document_files.read_document_file(tmp_path / "a.parquet").to_pylist()
        assert [(row["id"], row["reason"], row["detail"], row["cluster"]) for row in found] == [
            ("a", "r", "", ""), ("a", "z", "", ""), ("b", "r", "", ""),
        ]  # fmt: skip
        assert [row.get("text") for row in found] == (["", "t", ""] if with_text else [None] * 3)
    (tmp_path / ".c.parquet").touch()
    assert [path.name for path in document_files.document_paths(tmp_path)] == ["a.parquet", "b.parquet"]


# -- remote files


class Web:
    """`urlopen` that gives the bytes of a file from a start, a piece at a time, then breaks off."""

    def __init__(self, data: bytes, piece: int, fault: Exception | None = None, ranges: bool = True) -> None:
        self.data, self.piece, self.fault, self.ranges, self.asked = data, piece, fault, ranges, []

    @contextmanager
    def __call__(self, request: Any, timeout: float) -> Any:
        self.asked.append((request.get_method(), request.headers.get("Range"), timeout))
        if self.fault:
            raise self.fault
        start = int(request.headers.get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        body = io.BytesIO(self.data[start : start + self.piece])
        status = 206 if start else 200
        yield SimpleNamespace(read=body.read, status=status, headers=Message())


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seen: list[float] = []
    monkeypatch.setattr(remote_inputs.time, "sleep", seen.append)
    return seen


def test_a_file_that_breaks_off_is_fetched_on_five_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    file = RemoteFile("http://a.org/d/x%20y.jsonl", 50, "v")
    assert (file.name, RemoteFile("s3://b/k%20/z.gz", 1, "").name) == ("x y.jsonl", "z.gz")
    web = Web(b"0123456789" * 5, 10)
    monkeypatch.setattr(remote_inputs.urllib.request, "urlopen", web)
    with local_copy(file, tmp_path) as path:
        assert (path.name, path.read_bytes()) == ("x y.jsonl", b"0123456789" * 5)
    assert [row[1] for row in web.asked] == [None, "bytes=10-", "bytes=20-", "bytes=30-", "bytes=40-"]
    assert naps == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert {row[2] for row in web.asked} == {60.0}
    assert list(tmp_path.iterdir()) == []
    web.data = b"0123456789" * 6
    with (
        pytest.raises(InputError, match=r"cannot be fetched \(50 of 60 bytes came\)"),
        local_copy(RemoteFile(file.url, 60, ""), tmp_path),
    ):
        pass
    assert len(web.asked) == 10
    whole = Web(b"0123456789", 10, ranges=False)  # a server that always begins again
    monkeypatch.setattr(remote_inputs.urllib.request, "urlopen", whole)
    with local_copy(RemoteFile(file.url, -1, ""), tmp_path) as path:
        assert path.read_bytes() == b"0123456789"


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (499, 1), (500, 5), (503, 5)])
def test_only_a_servers_own_errors_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float], code: int, tries: int
) -> None:
    web = Web(b"", 1, urllib.error.HTTPError("u", code, "no", Message(), None))
    monkeypatch.setattr(remote_inputs.urllib.request, "urlopen", web)
    with (
        pytest.raises(InputError, match=f"HTTP Error {code}"),
        local_copy(RemoteFile("http://a.org/x", 5, ""), tmp_path),
    ):
        pass
    assert (len(web.asked), len(naps)) == (tries, tries - 1)


@pytest.mark.parametrize(
    ("headers", "size", "version"),
    [({"Content-Length": "12", "ETag": "e", "Last-Modified": "m"}, 12, "e"), ({"Last-Modified": "m"}, -1, "m"),
     ({"Content-Length": "many"}, -1, "")],
)  # fmt: skip
def test_what_a_web_server_says_of_a_file(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], size: int, version: str
) -> None:
    asked: list[str] = []

    @contextmanager
    def urlopen(request: Any, timeout: float) -> Any:
        asked.append(request.get_method())
        assert timeout == 60.0
        yield SimpleNamespace(headers=headers)

    monkeypatch.setattr(remote_inputs.urllib.request, "urlopen", urlopen)
    assert find_remote("http://a.org/x.jsonl", (".jsonl",)) == [RemoteFile("http://a.org/x.jsonl", size, version)]
    assert remote_inputs.remote_versions(Path("http:/a.org/x.jsonl")) == [["http://a.org/x.jsonl", size, version]]
    for url in ("http://a.org/x.txt", "http://a.org/.x.jsonl"):
        with pytest.raises(InputError, match="no file there that ends in"):
            find_remote(url, (".jsonl",))
    assert set(asked) == {"HEAD"}


def info(path: str, kind: fs.FileType, size: int = 7) -> Any:
    return SimpleNamespace(path=path, type=kind, size=size, mtime_ns=5)


def test_a_prefix_on_s3_is_all_files_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket:
        def get_file_info(self, place: Any) -> Any:
            if isinstance(place, fs.FileSelector):
                assert (place.base_dir, place.recursive) == ("b/d", True)
                return [info("b/d/z.jsonl", fs.FileType.File), info("b/d/e", fs.FileType.Directory),
                        info("b/d/e/a.jsonl", fs.FileType.File, 9)]  # fmt: skip
            return info(place, fs.FileType.Directory if place == "b/d" else fs.FileType.File)

    monkeypatch.setattr(remote_inputs, "_s3", Bucket)
    assert find_remote("s3://b/d/", (".jsonl",)) == [
        RemoteFile("s3://b/d/e/a.jsonl", 9, "5"), RemoteFile("s3://b/d/z.jsonl", 7, "5"),
    ]  # fmt: skip
    assert find_remote("s3://b/one.jsonl", (".jsonl",)) == [RemoteFile("s3://b/one.jsonl", 7, "5")]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (False, None, None, None)),
        ({"AWS_NO_SIGN_REQUEST": "TRUE", "AWS_DEFAULT_REGION": "eu"}, (True, "eu", None, None)),
        ({"AWS_NO_SIGN_REQUEST": "no", "AWS_REGION": "us", "AWS_DEFAULT_REGION": "eu",
          "AWS_ENDPOINT_URL": "http://h:1"}, (False, "us", "h:1", "http")),
    ],
)  # fmt: skip
def test_s3_is_reached_as_the_variables_say(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[Any, ...]
) -> None:
    for name in ("AWS_NO_SIGN_REQUEST", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_inputs.fs, "S3FileSystem", lambda **options: options)
    remote_inputs._s3.cache_clear()
    found: Any = remote_inputs._s3()
    remote_inputs._s3.cache_clear()
    names = ("anonymous", "region", "endpoint_override", "scheme")
    assert tuple(found[name] for name in names) == expected


# -- the process that reads pages


def test_a_page_has_a_limit_of_time_and_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    limits: list[float] = []
    progress: Any = SimpleNamespace(limit=limits.append)
    texts = [
        extract.page_task({"html": html, "cpu_seconds": 3.5}, progress) for html in ("<p>zwölf</p>", "<p>\ud800</p>")
    ]
    assert (texts, limits) == (["zwölf", "?"], [3.5, 3.5])


def test_a_child_is_kept_for_its_thread_until_a_page_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Child:
        def __init__(self, **options: Any) -> None:
            self.options, self.asked, self.closed = options, [], []
            self.answers = [{"done": "one"}, {"done": " \n"}, {"done": "three"}, {}]
            made.append(self)

        def last_answer(self, function: str, task: Any) -> dict[str, Any]:
            self.asked.append((function, task))
            return self.answers.pop(0)

        def close(self, *, patience_seconds: float) -> None:
            self.closed.append(patience_seconds)

    monkeypatch.setattr(extract, "ChildProcess", Child)
    with ExtractPool(2.5) as pool:
        found = [pool.text_of("x") for _ in range(4)]
        assert found == [("one", ""), ("", "html_no_text"), ("three", ""), ("", "html_too_hard")]
        assert (made[0].closed, pool.text_of("y")) == ([0], ("one", ""))
    assert [child.closed for child in made] == [[0], [0]]
    assert [child.options for child in made] == [{"memory_bytes": 4 << 30}] * 2
    assert made[1].asked == [("cleaning.extract:page_task", {"html": "y", "cpu_seconds": 2.5})]
