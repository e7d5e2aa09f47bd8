"""Reads WARC, parquet and JSON Lines files for cleaning: one stream of records per file, in bounded memory.

An unusable record stays in the stream, with a reason; an unreadable file raises InputError.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tinyllama.errors import InputError
from tinyllama.files import input_files
from tinyllama.sources.warc import WARC_SUFFIXES, read_warc

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst")
SUFFIXES = (*WARC_SUFFIXES, ".parquet", *JSON_SUFFIXES)
MAX_LINE_BYTES = 64 << 20
KINDS = ("web", "book")


@dataclass(slots=True)
class Record:
    """One raw document: HTML or text, or the reason why it is neither. `id` is empty where the input has none."""

    id: str
    body: str
    is_html: bool = False
    source: str = ""
    kind: str = "web"
    domain: str = ""
    licence: str = ""
    fetched_at: str = ""
    reason: str = ""


def find_inputs(inputs: list[Path]) -> list[Path]:
    """The files to read, in a stable order, each once. Raises InputError for what does not exist or is of another kind.

    Manifests and other JSON that this system writes beside its data are not documents and are left out.
    """
    found = [path for path in input_files(inputs, SUFFIXES) if path in inputs or not _is_bookkeeping(path)]
    if not found:
        raise InputError(f"{', '.join(map(str, inputs))}: no file that ends in {', '.join(SUFFIXES)}")
    return list({path.resolve(): path for path in found}.values())


def _is_bookkeeping(path: Path) -> bool:
    return path.name in ("unfinished.json", "extraction.json", "funnel.json") or path.name.endswith("manifest.json")


def read_records(path: Path, max_page_bytes: int) -> Iterator[Record]:
    """Every record of one input file, in file order. Raises InputError when it is damaged or no line of it can be used."""
    if path.name.endswith(WARC_SUFFIXES):
        return _read_pages(path, max_page_bytes)
    if path.name.endswith(".parquet"):
        return _read_parquet(path)
    return _read_json_lines(path)


def _read_pages(path: Path, max_page_bytes: int) -> Iterator[Record]:
    skipped: Counter[str] = Counter()
    reported: Counter[str] = Counter()
    for page in read_warc(path, max_page_bytes=max_page_bytes, skipped=skipped):
        yield from _skipped_pages(path, skipped, reported)
        yield Record(
            id="",
            body=page.text(),
            is_html=True,
            source=page.url,
            domain=urlsplit(page.url).hostname or "",
            fetched_at=page.date,
            reason="" if 200 <= page.status < 300 else "page_http_status",
        )
    yield from _skipped_pages(path, skipped, reported)


def _skipped_pages(path: Path, skipped: Counter[str], reported: Counter[str]) -> Iterator[Record]:
    """A record for each page that the reader has skipped since the last call; such pages have no id but a number."""
    for reason in sorted(skipped):
        while reported[reason] < skipped[reason]:
            reported[reason] += 1
            yield Record(f"{path.name}:{reason}:{reported[reason]}", "", reason=f"page_{reason}")


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise InputError(f"{path}: no column 'text'; the columns are {', '.join(file.schema_arrow.names)}")
        columns = [name for name in file.schema_arrow.names if name in ("id", "text", *_OPTIONAL)]
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _record_of(row, f"{path.name}:{number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable parquet file ({_one_line(error)})") from None


def _read_json_lines(path: Path) -> Iterator[Record]:
    good = number = 0
    first_fault = ""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        record = _parse_line(line, f"{path.name}:{number}")
        good += not record.reason
        first_fault = first_fault or (f"line {number}: {record.reason}" if record.reason else "")
        yield record
    if first_fault and not good:
        raise InputError(f"{path}: no line is a JSON object with a 'text' ({first_fault})")


def _parse_line(line: bytes, position: str) -> Record:
    if len(line) > MAX_LINE_BYTES:
        return Record(position, "", reason="line_too_long")
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Record(position, "", reason="invalid_utf8")
    except (ValueError, RecursionError):
        return Record(position, "", reason="invalid_json")
    return _record_of(row, position) if isinstance(row, dict) else Record(position, "", reason="invalid_json")


_OPTIONAL = ("source", "kind", "domain", "licence", "fetched_at")


def _record_of(row: dict[str, Any], position: str) -> Record:
    """A record from a row's fields; `position` (file and line) is its id when it cannot be used."""
    text = row.get("text")
    if not isinstance(text, str):
        return Record(position, "", reason="no_text")
    values = [value if isinstance(value := row.get(name), str) else "" for name in _OPTIONAL]
    given = row.get("id")
    identity = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
    if any(map(_has_lone_surrogate, (identity, text, *values))):
        return Record(position, "", reason="invalid_unicode")
    source, kind, domain, licence, fetched_at = values
    kind = kind if kind in KINDS else "web"
    return Record(identity, text, False, source, kind, domain, licence, fetched_at)


def _has_lone_surrogate(text: str) -> bool:
    """JSON can spell half a surrogate pair, which no UTF-8 file can hold."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines without their end, decompressed by the file's suffix.

    A line longer than MAX_LINE_BYTES is truncated to one byte more than that, so that it is recognised as too long.
    """
    line_start: list[bytes] = []
    length = 0
    for chunk in _chunks(path):
        first, *rest = chunk.split(b"\n")
        if length <= MAX_LINE_BYTES:
            line_start.append(first[: MAX_LINE_BYTES + 1 - length])
            length += len(line_start[-1])
        for line in rest:
            yield b"".join(line_start)
            line_start, length = [line[: MAX_LINE_BYTES + 1]], min(len(line), MAX_LINE_BYTES + 1)
    if length:
        yield b"".join(line_start)


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, decompressed, in chunks of bounded size. Raises InputError when the file is damaged."""
    # the most that a compressed byte can become: 1,032 bytes in gzip, 32 kB in zstd (a repeated-byte block)
    compressed_bytes = 1 << 16 if path.name.endswith(".gz") else 1 << 10 if path.name.endswith(".zst") else 1 << 20
    decoder = None
    try:
        with path.open("rb") as file:
            while chunk := file.read(compressed_bytes):
                if compressed_bytes == 1 << 20:
                    yield chunk
                    continue
                while chunk:
                    decoder = decoder or _decoder(path)
                    yield decoder.decompress(chunk)
                    chunk = decoder.unused_data if decoder.eof else b""
                    decoder = None if decoder.eof else decoder
    except (OSError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"{path}: cannot be read ({_one_line(error)})") from None
    if decoder is not None:
        raise InputError(f"{path}: ends too early; it was cut off, copy it again")


def _decoder(path: Path) -> Any:
    return zlib.decompressobj(31) if path.name.endswith(".gz") else zstandard.ZstdDecompressor().decompressobj()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
