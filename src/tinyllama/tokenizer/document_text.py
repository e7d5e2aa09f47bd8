"""Reads document texts from Parquet and JSON Lines files, in bounded memory and a fixed order."""

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllama.errors import InputError
from tinyllama.files import input_files

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_LINE_BYTES = 256 * 2**20  # a longer line of JSON means a damaged or hostile file
ROWS_PER_READ = 256


class DocumentText(NamedTuple):
    """What the tokenizer and the shards need of a document; `row` counts from 0 within its file."""

    row: int
    id: str
    kind: str
    text: str


def split_files(inputs: list[Path], split: str) -> list[Path]:
    """Files of one split, in reading order: those in subfolder `split` if the input has a subfolder `train`, else all.

    A validation folder may be missing or empty. Raises InputError for a path that does not exist or holds no documents.
    """
    found: list[Path] = []
    for path in inputs:
        if not has_splits(path):
            found += input_files([path], SUFFIXES)
        elif split == "train" or any((path / split).glob("*")):
            found += input_files([path / split], SUFFIXES)
    return found


def has_splits(path: Path) -> bool:
    """Whether `path` is already divided into splits (it has a subfolder `train/`)."""
    return (path / "train").is_dir()


def read_documents(path: Path, first_row: int = 0) -> Iterator[DocumentText]:
    """Documents of one file from row `first_row` on.

    A document without `id` gets the first 16 hex digits of sha256 over its source and text. Raises InputError with file
    and row for damage, a missing or wrongly typed `text`, and text that is not valid Unicode.
    """
    rows = _parquet_rows(path) if path.name.endswith(".parquet") else _json_rows(path)
    for number, row in enumerate(rows):
        if number >= first_row:
            yield _document(path, number, row)


def _document(path: Path, number: int, row: dict[str, Any]) -> DocumentText:
    text = row.get("text")
    if not isinstance(text, str):
        raise InputError(f"{path}: document {number + 1} has no `text` that is a string; correct or remove it")
    try:
        utf8 = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path}: document {number + 1} is not valid Unicode ({error.reason}); correct or remove it"
        ) from None
    identifier = row.get("id")
    if identifier is None:
        identifier = hashlib.sha256(
            f"{row.get('source') or ''}\0".encode(errors="backslashreplace") + utf8
        ).hexdigest()[:16]
    return DocumentText(number, str(identifier), str(row.get("kind") or "web"), text)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            if "text" not in names:
                raise InputError(f"{path}: no column `text` (columns: {', '.join(sorted(names))})")
            columns = [name for name in ("id", "source", "kind", "text") if name in names]
            for batch in file.iter_batches(batch_size=ROWS_PER_READ, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable parquet file ({first_line(error)})") from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_lines(path) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}: line {number} is longer than {MAX_LINE_BYTES:,} bytes")
                if line.strip():
                    yield _json_row(path, number, line)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read to its end ({first_line(error)})") from None


def _json_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: line {number} is not valid UTF-8 JSON ({first_line(error)})") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}: line {number} is not a JSON object")
    return row


@contextmanager
def open_lines(path: Path) -> Iterator[IO[bytes]]:
    """The lines of a file that may be compressed (`.zst`, `.gz`). Raises ArrowException or OSError if it is damaged."""
    # Arrow's streams raise if the file is truncated; zstandard's own reader does not.
    kind = {".zst": "zstd", ".gz": "gzip"}.get(path.suffix)
    with pa.input_stream(str(path), compression=kind) as stream, io.BufferedReader(stream, 2**20) as lines:
        yield lines


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters."""
    return str(error).strip().split("\n", 1)[0][:200]
