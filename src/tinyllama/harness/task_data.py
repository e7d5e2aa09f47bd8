"""A task's examples from files of JSON Lines, each row held against what the task needs. No network."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama.errors import InputError

MAX_LINE_BYTES = 50_000_000
Row = dict[str, Any]


def read_rows(
    folder: Path,
    names: list[str],
    fields: list[str],
    rows: tuple[int, int] | None = None,
    allowed: dict[str, list[Any]] | None = None,
) -> list[Row]:
    """Rows of the files `names` under `folder`, one after another, with `fields` alone; `rows`: [first, last + 1].

    `a.b` in `fields` is the field b of an object a. `allowed`: the values that some fields may have. A row that occurs in
    an earlier file is left out. Raises InputError that names the file, and the line, when a file is missing, empty, no JSON
    Lines, or a row lacks a field, has null there or a value that is not allowed.
    """
    found: list[Row] = []
    for name in names:
        path = _present(folder, name)
        before = {json.dumps(row, sort_keys=True) for row in found}
        new = [
            row
            for row in _rows_of(path, fields, allowed or {})
            if not before or json.dumps(row, sort_keys=True) not in before
        ]
        if not new and not found:
            raise InputError(f"{path}: no example in it")
        found += new
    if rows is not None:
        first, last = rows
        if len(found) <= first:
            raise InputError(f"{folder / names[0]}: {len(found)} examples; those from number {first + 1} on are wanted")
        found = found[first:last]
    return found


def _present(folder: Path, name: str) -> Path:
    """The file, or the same with another compression."""
    stem = name.removesuffix(".gz")
    for path in (folder / name, folder / stem, folder / f"{stem}.zst"):
        if path.is_file():
            return path
    if not folder.is_dir():
        raise InputError(f"--data-dir {folder}: no such folder")
    there = sorted(file.name for file in (folder / name).parent.glob("*")) if (folder / name).parent.is_dir() else []
    has = f"that folder has {', '.join(there)}" if there else f"{folder} has no folder {Path(name).parent}"
    raise InputError(f"{folder / name}: no such file ({has})")


def _rows_of(path: Path, fields: list[str], allowed: dict[str, list[Any]]) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{path}, line {number}: not JSON") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: {type(row).__name__}; an object is wanted")
        for name in fields:
            _check_field(row, name, f"{path}, line {number}")
        for name, values in allowed.items():
            if row[name] not in values:
                raise InputError(f"{path}, line {number}: {name!r} is {row[name]!r}; {values} are possible")
        yield {name: row[name] for name in (field.partition(".")[0] for field in fields)}


def _check_field(row: Row, name: str, where: str) -> None:
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            has = f"it has {', '.join(map(repr, value))}" if isinstance(value, dict) else f"{value!r} is no object"
            raise InputError(f"{where}: no field {name!r}; {has}")
        value = value[part]
    if value is None:
        raise InputError(f"{where}: field {name!r} is null")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                stream: Any = gzip.GzipFile(fileobj=file)
            elif path.suffix == ".zst":
                # Arrow's streams raise at a file that is cut off; zstandard's own reader takes it for whole.
                stream = io.BufferedReader(pa.CompressedInputStream(file, "zstd"))  # type: ignore[arg-type]
            else:
                stream = file
            while line := stream.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}: a line of more than {MAX_LINE_BYTES:,} bytes")
                yield line.decode()
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: damaged compression ({error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
