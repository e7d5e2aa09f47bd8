"""WARC files at the edges: limits of size, what is skipped, charsets, file changes, and what is brought to disk when."""

import gzip
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tinyllama.errors import InputError
from tinyllama.sources import warc, warc_writer
from tinyllama.sources.warc import decode_html, read_warc
from tinyllama.sources.warc_writer import WarcFiles


def record(
    body: bytes, kind: str = "response", url: str = "http://a.org/", status: str = "200 OK", **headers: str
) -> bytes:
    """One uncompressed record."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=False)
    given = list(({"Content-Type": "text/html"} | {name.replace("_", "-"): headers[name] for name in headers}).items())
    http = StatusAndHeaders(status, given, protocol="HTTP/1.1") if kind == "response" else None
    made = writer.create_warc_record(url, kind, payload=io.BytesIO(body), http_headers=http,
                                     warc_headers_dict={"WARC-Date": "2024-05-06T07:08:09Z"})  # fmt: skip
    writer.write_record(made)
    return buffer.getvalue()


def read(tmp_path: Path, data: bytes, **options: Any) -> tuple[list[bytes], Counter[str]]:
    path = tmp_path / "x.warc"
    path.write_bytes(data)
    skipped: Counter[str] = Counter()
    return [page.html for page in read_warc(path, skipped=skipped, **options)], skipped


def test_a_page_at_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    head = len(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    data = record(b"x" * 100) + record(b"y" * 101) + record(b"z" * 300) + record(b"w")
    assert read(tmp_path, data, max_page_bytes=head + 100) == ([b"x" * 100, b"w"], {"too_large": 2})
    packed = gzip.compress(b"x" * 1000)
    data = record(packed, Content_Encoding="gzip") + record(gzip.compress(b"y" * 1001), Content_Encoding="gzip")
    assert read(tmp_path, data, max_page_bytes=1000) == ([b"x" * 1000], {"too_large": 1})
    assert read(tmp_path, record(b"x" * 3_000_000))[0] == [b"x" * 3_000_000]


def test_only_html_responses_with_an_address_are_pages(tmp_path: Path) -> None:
    data = b"".join([
        record(b"resource", "resource"), record(b"image", Content_Type="image/png"), record(b"", url=""),
        record(b"xhtml", Content_Type="Application/XHTML+xml ; charset=x"), record(b"no address", url=""),
        record(b"missing", status="404 Not Found"),
    ])  # fmt: skip
    pages, skipped = read(tmp_path, data)
    assert pages == [b"xhtml", b"missing"]
    assert skipped == {"no_url": 2}


def test_what_a_page_says_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.warc"
    path.write_bytes(
        record(b"<p>gr\xfcn", url="http://b.org/x", status="503 Later", Content_Type="text/html; charset=latin1")
    )
    (page,) = read_warc(path)
    assert (page.url, page.status, page.date) == ("http://b.org/x", 503, "2024-05-06T07:08:09Z")
    assert page.content_type == "text/html; charset=latin1"
    assert page.text() == "<p>grün"


@pytest.mark.parametrize(
    ("body", "header", "text"),
    [
        (b"a\xe9" * 2, "text/html; boundary=x; charset='iso-8859-1'", "aé" * 2),
        (b"a\xe9" * 2, "charset=iso-8859-1", None),
        ("\ufeffgrün".encode(), "text/html; charset=utf-8", "grün"),
        ("\ufeffgrün".encode("utf-8"), "", "grün"),
        (b"\xff" + b"a" * 98, "", "\ufffd" + "a" * 98),
        (b"\xff\xff" + b"a" * 98, "", "\ufffd\ufffd" + "a" * 98),
        (b"\xef\xbb\xbf\xff" + b"a" * 50, "", "\ufffd" + "a" * 50),
    ],
)
def test_a_text_that_is_utf_8_but_for_a_few_bytes_stays_utf_8(body: bytes, header: str, text: str | None) -> None:
    """One byte and one more for each hundred characters."""
    found = decode_html(body, header)
    assert found == text if text is not None else found != "aé" * 2


@pytest.mark.parametrize(("bad", "lenient"), [(1, True), (2, True), (3, False), (4, False)])
def test_more_than_one_bad_byte_in_a_hundred_is_another_encoding(
    monkeypatch: pytest.MonkeyPatch, bad: int, lenient: bool
) -> None:
    monkeypatch.setattr(warc, "detect_encoding", lambda body, from_html_meta: "latin-1" if from_html_meta else None)
    body = b"\xe9" * bad + b"a" * (150 - bad)
    assert decode_html(body) == ("\ufffd" if lenient else "é") * bad + "a" * (150 - bad)
    monkeypatch.setattr(warc, "detect_encoding", lambda body, from_html_meta: None)
    assert decode_html(body) == "\ufffd" * bad + "a" * (150 - bad)
    monkeypatch.setattr(warc, "detect_encoding", lambda body, from_html_meta: "no-such-codec")
    assert decode_html(body) == "\ufffd" * bad + "a" * (150 - bad)


def test_where_a_cut_off_file_is_good_to(tmp_path: Path) -> None:
    first, second = record(b"<p>one"), record(b"<p>two" * 40)
    path = tmp_path / "x.warc"
    for end, fault in ((len(first) + 150, len(first)), (len(first) + len(second) - 5, len(first))):
        path.write_bytes((first + second)[:end])
        with pytest.raises(InputError, match=rf"x\.warc: cut off in the record at byte {fault};"):
            list(read_warc(path))
        assert [page.html for page in read_warc(path, tolerant=True)] == [b"<p>one"]
    for cut in range(4, -1, -1):  # the two line ends after a record hold nothing
        path.write_bytes((first + second)[: len(first) + len(second) - cut])
        assert len(list(read_warc(path))) == 2
    members = [gzip.compress(one) for one in (first, second)]
    path = tmp_path / "x.warc.gz"
    path.write_bytes(members[0] + members[1][:-1])
    with pytest.raises(InputError, match=rf"cut off in the record at byte {len(members[0])}"):
        list(read_warc(path))


def test_members_are_followed_over_the_edges_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.warc.gz"
    path.write_bytes(b"".join(gzip.compress(record(bytes([65 + n]) * 500)) for n in range(5)))
    for piece in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(warc, "_CHUNK_BYTES", piece)
        with path.open("rb") as file:
            assert warc._end_of_members(file, 0) == path.stat().st_size
        assert len(list(read_warc(path))) == 5


# -- writing


def written(folder: Path, count: int, bytes_per_file: int, committed: dict[str, int] | None = None) -> WarcFiles:
    files = WarcFiles(folder, committed or {}, bytes_per_file, "a-bot")
    for number in range(count):
        files.write_page(f"http://a.org/{number}", "2024-05-06T07:08:09Z", "9.9.9.9" if number else "", 200,
                         [("Content-Type", "text/html"), ("Content-Encoding", "gzip"), ("content-length", "7"),
                          ("Transfer-Encoding", "chunked")], b"<p>" + b"x" * number)  # fmt: skip
    return files


def test_a_new_file_is_begun_once_one_has_enough(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    one = written(tmp_path / "one", 1, 1)
    lengths = one.sync()
    one.close()
    assert list(lengths) == ["00000.warc.gz", "00001.warc.gz"]  # the file's own first record is enough
    (tmp_path / "many").mkdir()
    many = written(tmp_path / "many", 4, lengths["00001.warc.gz"] - 20)  # sizes differ by a few bytes: ids are random
    found = many.sync()
    assert list(found) == ["00000.warc.gz", "00001.warc.gz", "00002.warc.gz", "00003.warc.gz"]
    assert found == {name: (tmp_path / "many" / name).stat().st_size for name in found}
    assert many.sync() == {}
    many.close()
    (tmp_path / "large").mkdir()
    large = written(tmp_path / "large", 4, 1 << 20)
    assert list(large.sync()) == ["00000.warc.gz"]
    large.close()


def test_a_crawl_goes_on_in_its_last_file_until_that_has_enough(tmp_path: Path) -> None:
    files = written(tmp_path, 2, 1 << 20)
    committed = files.sync()
    files.close()
    size = committed["00000.warc.gz"]
    (tmp_path / "00001.warc.gz").write_bytes(b"not committed")
    with (tmp_path / "00000.warc.gz").open("ab") as file:
        file.write(b"half a record")
    for limit, names in ((size + 1, {"00000.warc.gz"}), (size, {"00001.warc.gz"})):
        again = written(tmp_path, 1, limit, committed)
        assert set(again.sync()) == names
        again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.warc.gz", "00001.warc.gz"]
    again = written(
        tmp_path, 1, size, {"00000.warc.gz": size, "00001.warc.gz": 5}
    )  # the first has enough, the last has not
    assert list(again.sync()) == ["00001.warc.gz"]
    again.close()
    again = WarcFiles(tmp_path, {"00000.warc.gz": size, "00001.warc.gz": 5}, 1, "a-bot")
    assert list(again.sync()) == ["00002.warc.gz"]
    again.close()
    assert (tmp_path / "00000.warc.gz").stat().st_size == size
    assert (tmp_path / "00001.warc.gz").stat().st_size == 5


@pytest.mark.parametrize(("name", "length", "found"), [("00000.warc.gz", 11, 10), ("00001.warc.gz", 1, 0)])
def test_a_file_that_lost_bytes_is_named(tmp_path: Path, name: str, length: int, found: int) -> None:
    (tmp_path / "00000.warc.gz").write_bytes(b"x" * 10)
    with pytest.raises(InputError, match=rf"{name}: {found} bytes, but the frontier records {length}"):
        WarcFiles(tmp_path, {"00000.warc.gz": 10, name: length}, 1, "a-bot")


def test_records_say_what_the_server_said(tmp_path: Path) -> None:
    files = written(tmp_path, 2, 1 << 20)
    files.close()
    with (tmp_path / "00000.warc.gz").open("rb") as file:
        records = [
            (r.rec_type, r.rec_headers, r.http_headers, r.content_stream().read()) for r in ArchiveIterator(file)
        ]
    assert [kind for kind, *_ in records] == ["warcinfo", "response", "response"]
    assert b"software: a-bot\r\n" in records[0][3]
    assert b"robots: obey\r\n" in records[0][3]
    assert [body for *_, body in records[1:]] == [b"<p>", b"<p>x"]
    head, http = records[2][1], records[2][2]
    assert (head["WARC-Target-URI"], head["WARC-Date"]) == ("http://a.org/1", "2024-05-06T07:08:09Z")
    assert (records[1][1]["WARC-IP-Address"], head["WARC-IP-Address"]) == (None, "9.9.9.9")
    assert (http.statusline, http.protocol, head.protocol) == ("200 OK", "HTTP/1.1", "WARC/1.1")
    assert http.headers == [
        ("Content-Type", "text/html"), ("X-Crawl-Content-Encoding", "gzip"), ("X-Crawl-content-length", "7"),
        ("X-Crawl-Transfer-Encoding", "chunked"), ("Content-Length", "4"),
    ]  # fmt: skip


def test_files_are_brought_to_disk_before_they_are_noted_or_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}")[-13:], os.fstat(descriptor).st_size))

    monkeypatch.setattr(warc_writer.os, "fsync", fsync)
    files = written(tmp_path, 1, 1 << 20)
    lengths = files.sync()
    assert synced == [("00000.warc.gz", lengths["00000.warc.gz"])]
    files._bytes_per_file = 1
    files.write_page("http://a.org/", "2024-05-06T07:08:09Z", "", 200, [], b"x")
    assert synced[1:] == [("00000.warc.gz", lengths["00000.warc.gz"])]
    size = files.sync()["00001.warc.gz"]
    files._bytes_per_file = 1 << 20
    files.write_page("http://a.org/2", "2024-05-06T07:08:09Z", "", 200, [], b"x")
    files.close()
    assert synced[2] == ("00001.warc.gz", size)
    assert synced[3:] == [("00001.warc.gz", (tmp_path / "00001.warc.gz").stat().st_size)]
    assert synced[3][1] > size
    assert files._file.closed
