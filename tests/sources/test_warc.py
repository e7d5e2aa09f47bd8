import io
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tinyllama.errors import InputError
from tinyllama.sources.warc import decode_html, read_warc


def warc_bytes(bodies: list[bytes], gzip: bool = True, content_type: str = "text/html") -> bytes:
    """A WARC with one response a body, a request and a picture besides."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=gzip)
    writer.write_record(writer.create_warcinfo_record("x", {"software": "test"}))
    for number, body in enumerate(bodies):
        for kind, content in ((content_type, body), ("image/png", b"\x89PNG")):
            headers = StatusAndHeaders(
                "200 OK", [("Content-Type", content)] if (content := kind) else [], protocol="HTTP/1.1"
            )
            payload = body if kind == content_type else b"\x89PNG"
            writer.write_record(
                writer.create_warc_record(
                    f"http://h/{number}", "response", payload=io.BytesIO(payload), http_headers=headers
                )
            )
    return buffer.getvalue()


def write(tmp_path: Path, data: bytes, name: str = "a.warc.gz") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("gzip", [True, False])
def test_html_responses_come_in_order(tmp_path: Path, gzip: bool):
    bodies = [b"<p>one</p>", b"<p>two</p>" * 1000]
    pages = list(read_warc(write(tmp_path, warc_bytes(bodies, gzip))))
    assert [(page.url, page.html, page.status) for page in pages] == [
        ("http://h/0", bodies[0], 200),
        ("http://h/1", bodies[1], 200),
    ]


TWO_PAGES = {gzip: warc_bytes([b"<p>one</p>" * 20, b"<p>two</p>" * 20], gzip) for gzip in (True, False)}


@pytest.mark.parametrize("gzip", [True, False])
@given(data=st.data())
def test_every_cut_is_noticed_and_what_is_whole_comes_out(gzip: bool, data: st.DataObject):
    whole = TWO_PAGES[gzip]
    cut = data.draw(st.integers(1, len(whole) - (1 if gzip else 5)))  # a record's last two line ends hold nothing
    start = b"\x1f\x8b\x08" if gzip else b"WARC/1."
    starts = [number for number in range(len(whole)) if whole.startswith(start, number)]
    ends_between_records = cut in starts or (not gzip and any(number - 4 <= cut <= number for number in starts))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), whole[:cut])
        pages = list(read_warc(path, tolerant=True))
        assert [page.html for page in pages] == [b"<p>one</p>" * 20, b"<p>two</p>" * 20][: len(pages)]
        if not ends_between_records:
            with pytest.raises(InputError, match=rf"{path}: .*\d+"):
                list(read_warc(path))


def test_a_file_that_is_no_warc_is_refused(tmp_path: Path):
    for data in (b"", b"nothing of the kind" * 50, b"\x1f\x8b\x08\x00garbage"):
        with pytest.raises(InputError, match=r"a\.warc\.gz: "):
            list(read_warc(write(tmp_path, data)))
    with pytest.raises(InputError, match="no such file"):
        list(read_warc(tmp_path / "missing.warc.gz"))


def test_pages_over_the_limit_are_counted(tmp_path: Path):
    skipped: Counter[str] = Counter()
    path = write(tmp_path, warc_bytes([b"x" * 5000, b"<p>small</p>"]))
    assert [page.url for page in read_warc(path, max_page_bytes=1000, skipped=skipped)] == ["http://h/1"]
    assert skipped == {"too_large": 1}


def test_one_gzip_stream_around_all_records_is_read(tmp_path: Path):
    import gzip

    data = gzip.compress(warc_bytes([b"<p>one</p>", b"<p>two</p>"], gzip=False))
    assert len(list(read_warc(write(tmp_path, data)))) == 2
    with pytest.raises(InputError):
        list(read_warc(write(tmp_path, data[:-20])))


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("grün".encode(), "text/html; charset=utf-8", "grün"),
        ("grün".encode("latin-1"), "text/html; charset=ISO-8859-1", "grün"),
        ("grün".encode(), "text/html; charset=nonsense", "grün"),
        ("grün".encode(), "text/html; charset=zlib", "grün"),
        ("\ufeffgrün".encode(), "", "grün"),
        (
            b'<meta charset="windows-1251">' + ("привет " * 9).encode("cp1251"),
            "",
            '<meta charset="windows-1251">' + "привет " * 9,
        ),
        ("grün ".encode() * 40 + b"\xff", "text/html; charset=utf-8", "grün " * 40 + "\ufffd"),
    ],
)
def test_decoding(body: bytes, content_type: str, text: str):
    assert decode_html(body, content_type) == text


@given(st.binary(max_size=300), st.text(max_size=20))
def test_decoding_never_fails(body: bytes, charset: str):
    decode_html(body, f"text/html; charset={charset}").encode("utf-8", "surrogatepass")
