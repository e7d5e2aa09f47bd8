"""Parquet files of documents and of drops: the same rows always give the same bytes, and a file is whole or not there."""

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
# `cluster`: of near-duplicates, equal ones are one cluster; "" for a document without any. `cluster_size`: its documents.
CLUSTER = pa.schema([("cluster", pa.string()), ("cluster_size", pa.int64())])
CLEAN_SCHEMA = pa.schema([*DOCUMENT_SCHEMA, *((name, pa.float64()) for name in SCORES), *CLUSTER])
DROPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "reason", "detail", "cluster")])
DROPPED_TEXT_SCHEMA = pa.schema([*DROPPED_SCHEMA, ("text", pa.string())])
DROPPED, WORK = "dropped", "work"


def write_document_file(path: Path, table: pa.Table) -> None:
    """Write one part atomically, in row groups of 1,000 documents so that readers need little memory."""
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
    """The parts that lie in `folder` itself, in order of their names."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def row_count(path: Path) -> int:
    """How many rows a part has, by its footer. Raises InputError when it is damaged."""
    with _damage_named(path):
        return pq.ParquetFile(path).metadata.num_rows


def read_document_file(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One part, or some of its columns. Raises InputError when it is damaged."""
    with _damage_named(path):
        return pq.ParquetFile(path).read(columns=columns)


def document_batches(path: Path, columns: list[str], rows: int, chars: int = 1 << 30) -> Iterator[pa.Table]:
    """One part's columns, so many rows at a time, and so many characters of `text` unless one row has more.

    Raises InputError when the part is damaged.
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
    """Leave nothing of our own in `folder` when the input turns out to be bad: another input starts from nothing."""
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
    """What blank lines part; in a text without one, its lines. None is left out."""
    return _PARAGRAPH_END.split(text) if "\n\n" in text or _PARAGRAPH_END.search(text) else text.split("\n")
