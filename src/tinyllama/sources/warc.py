"""Reads web pages from any WARC file on disk, compressed or not, with bounded memory."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from tinyllama import log
from tinyllama.errors import InputError

HTML_TYPES = frozenset(("text/html", "application/xhtml+xml"))
WARC_SUFFIXES = (".warc.gz", ".warc", ".warc.zst")
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WebPage:
    """An HTML response. `html` is decoded of transfer and content encodings; `date` is the WARC date (ISO 8601, UTC)."""

    url: str
    html: bytes
    content_type: str
    date: str
    status: int

    def text(self) -> str:
        """The HTML as text (see `decode_html`)."""
        return decode_html(self.html, self.content_type)


def read_warc(
    path: Path, *, max_page_bytes: int = 20_000_000, tolerant: bool = False, skipped: Counter[str] | None = None
) -> Iterator[WebPage]:
    """Every HTML response of a WARC file, in order.

    Pages over `max_page_bytes` and unreadable ones are skipped and counted by reason in `skipped` (too_large, unreadable,
    no_url). Raises InputError that names file and offset where the file is cut off or damaged; when `tolerant`, a warning
    is printed instead and only the whole pages before that point are read.
    """
    skipped = Counter() if skipped is None else skipped
    held: WebPage | None = None  # the last page is yielded only when its record is known to be whole
    last = 0
    fault = ""
    try:
        for record in _records(path):
            last = record.stream_pos
            if held is not None:
                yield held
            held = _page(record, max_page_bytes, skipped)
    except OSError as error:
        fault = f"damaged after byte {last} ({error})"
    if not fault and (end := _cut_off_at(path, last)) is not None:
        fault = f"cut off in the record at byte {end}"
    if not fault:
        if held is not None:
            yield held
        return
    message = f"{path}: {fault}; fetch the file again, or cut it there"
    if not tolerant:
        raise InputError(message)
    log.warn(message)


def decode_html(body: bytes, content_type: str = "") -> str:
    """HTML bytes as text: by the header's charset, else UTF-8, else what the document says or looks like.

    A text that is UTF-8 but for a few bytes stays UTF-8, those bytes becoming U+FFFD. Never fails.
    """
    declared = _charset(content_type)
    for encoding in filter(None, (declared, "utf-8")):
        try:
            return body.decode(encoding).removeprefix("\ufeff")
        except (UnicodeError, LookupError):
            continue
    lenient = body.decode("utf-8", "replace")
    if lenient.count("\ufffd") <= 1 + len(lenient) // 100:
        return lenient.removeprefix("\ufeff")
    try:
        return body.decode(detect_encoding(body, from_html_meta=True) or "utf-8", "replace")
    except LookupError:
        return lenient


def _charset(content_type: str) -> str:
    for part in content_type.split(";")[1:]:
        name, _, value = part.strip().partition("=")
        if name.lower() == "charset" and value.strip("\"' "):
            # Only names of web encodings: Python knows codecs (`zlib`, `rot13`) that are not.
            return map_encoding_to_html5(value.strip("\"' "), False) or ""
    return ""


def _records(path: Path) -> Iterator[Any]:
    """All records, so that the last offset is known. Raises InputError for a missing file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        yield from ArchiveIterator(file, record_types=WarcRecordType.any_type, parse_http=False, auto_decode="all")


def _page(record: Any, max_page_bytes: int, skipped: Counter[str]) -> WebPage | None:
    if record.record_type != WarcRecordType.response or not record.is_http:
        return None
    if record.content_length > max_page_bytes:
        skipped["too_large"] += 1
        return None
    try:
        record.parse_http(auto_decode="all")
        status = record.http_headers.status_code if record.http_headers else None
        content_type = record.http_headers.get("Content-Type", "") if record.http_headers else ""
        if content_type.split(";")[0].strip().lower() not in HTML_TYPES:
            return None
        body = record.reader.read(max_page_bytes + 1)  # a compressed body may be larger than its record
    except (OSError, ValueError, zlib.error):
        skipped["unreadable"] += 1
        return None
    if len(body) > max_page_bytes:
        skipped["too_large"] += 1
        return None
    url = record.headers.get("WARC-Target-URI", "").strip("<>")
    if not url:
        skipped["no_url"] += 1
        return None
    return WebPage(url, body, content_type, record.headers.get("WARC-Date", ""), status or 0)


def _cut_off_at(path: Path, last: int) -> int | None:
    """Byte offset of the record that the file's end cuts off; None for a whole file. `last`: offset of the last record.

    FastWARC does not report a truncated file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic.startswith(_GZIP_MAGIC):
            file.seek(last)
            start = last if file.read(2) == _GZIP_MAGIC else 0  # not one member a record: look at the whole file
            end = _end_of_members(file, start)
            return None if end == size else end
        if magic == b"WARC":
            file.seek(last)
            head, found, _ = file.read(_CHUNK_BYTES).partition(b"\r\n\r\n")
            length = re.search(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$", head)
            whole = found and length and last + len(head) + 4 + int(length[1]) <= size
            return None if whole else last
    return 0 if size == 0 else None  # zstd and lz4 have their own checksums


def _end_of_members(file: Any, start: int) -> int:
    """Offset where the last whole gzip member ends, reading from `start`."""
    file.seek(start)
    end, position, decoder, rest = start, start, zlib.decompressobj(31), b""
    while True:
        if not rest:
            rest = file.read(_CHUNK_BYTES)
            if not rest:
                return end
            position += len(rest)
        try:
            decoder.decompress(rest, _CHUNK_BYTES)
        except zlib.error:
            return end
        if decoder.eof:
            rest = decoder.unused_data
            end = position - len(rest)
            decoder = zlib.decompressobj(31)
        else:
            rest = decoder.unconsumed_tail
