"""Parquet files of documents and of dropped documents: written atomically, equal bytes for equal rows."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinyllama.errors import InputError
from tinyllama.files import atomic_file

_PARAGRAPH_END = re.compile(r"\n\s*\n")

DOCUMENT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "source", "kind", "domain", "language", "licence", "fetched_at")]
)
SCORES = ("language_confidence", "hate", "sexual")
# `cluster`: id of the cluster of near-duplicates, "" for a document without any. `cluster_size`: documents in it.
CLUSTER = pa.schema([("cluster", pa.string()), ("cluster_size", pa.int64())])
CLEAN_SCHEMA = pa.schema([*DOCUMENT_SCHEMA, *((name, pa.float64()) for name in SCORES), *CLUSTER])
DROPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "reason", "detail", "cluster")])
DROPPED_TEXT_SCHEMA = pa.schema([*DROPPED_SCHEMA, ("text", pa.string())])
DROPPED, WORK = "dropped", "work"


def write_document_file(path: Path, table: pa.Table) -> None:
    """Write one document file atomically, in row groups of 1,000 documents so that readers need little memory."""
    with atomic_file(path) as file:
        pq.write_table(table.replace_schema_metadata(None), file, compression="zstd", row_group_size=1000)


def write_dropped(path: Path, rows: list[dict[str, Any]], *, with_text: bool = False) -> None:
    """Write `id`, `reason`, `detail`, `cluster` ("" where there is none) of dropped documents, sorted; `text` if asked."""
    schema = DROPPED_TEXT_SCHEMA if with_text else DROPPED_SCHEMA
    ordered = sorted(
        ({name: row.get(name) or "" for name in schema.names} for row in rows),
        key=lambda row: tuple(row[name] for name in schema.names),
    )
    write_document_file(path, pa.Table.from_pylist(ordered, schema=schema))


def document_paths(folder: Path) -> list[Path]:
    """The document files directly in `folder`, ordered by name."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def row_count(path: Path) -> int:
    """Number of rows by the file's footer. Raises InputError when it is damaged."""
    with _damage_named(path):
        return pq.ParquetFile(path).metadata.num_rows


def read_document_file(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One document file, or some of its columns. Raises InputError when it is damaged."""
    with _damage_named(path):
        return pq.ParquetFile(path).read(columns=columns)


def document_batches(path: Path, columns: list[str], rows: int, chars: int = 1 << 30) -> Iterator[pa.Table]:
    """A document file's columns in batches of at most `rows` rows and `chars` characters of `text` (or one longer row).

    Raises InputError when the file is damaged.
    """
    with _damage_named(path):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1000, columns=columns):
            table = pa.Table.from_batches([batch])
            lengths = pc.call_function("utf8_length", [table.column("text")]).to_pylist()
            start = size = 0
            for row, length in enumerate(lengths):
                if row > start and (row - start == rows or size + length > chars):
                    yield table.slice(start, row - start)
                    start, size = row, 0
                size += length
            if start < len(lengths):
                yield table.slice(start)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:200]})") from None


@contextmanager
def removed_on_bad_input(folder: Path) -> Iterator[None]:
    """Remove our own files from `folder` when the input turns out to be bad, so that the next input starts empty."""
    try:
        yield
    except InputError:
        for path in document_paths(folder):
            path.unlink()
        for name in (DROPPED, WORK):
            shutil.rmtree(folder / name, ignore_errors=True)
        with suppress(OSError):  # not empty: the phase's marker is in it
            folder.rmdir()
        raise


def paragraphs_in(text: str) -> list[str]:
    """The text split at blank lines, or at line ends when it has no blank line; nothing is removed."""
    return _PARAGRAPH_END.split(text) if "\n\n" in text or _PARAGRAPH_END.search(text) else text.split("\n")
