"""Reads a task's examples from JSON Lines files and checks that each row has what the task needs. No network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama.errors import InputError
from tinyllama.tokenizer.document_text import first_line, open_lines

MAX_LINE_BYTES = 50_000_000
Row = dict[str, Any]


def read_rows(
    folder: Path,
    names: list[str],
    fields: list[str],
    rows: tuple[int, int] | None = None,
    allowed: dict[str, list[Any]] | None = None,
) -> list[Row]:
    """Rows of the files `names` under `folder`, in order, with only `fields`; `rows`: [first, last + 1] of them.

    `a.b` in `fields` is the field b of an object a. `allowed`: the permitted values of some fields. A row that occurs in
    an earlier file is skipped. Raises InputError that names file and line when a file is missing, empty or not JSON Lines,
    or a row has no such field, null, or a value that is not permitted.
    """
    found: list[Row] = []
    for name in names:
        path = _find_file(folder, name)
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
            raise InputError(f"{folder / names[0]}: {len(found)} examples; the task starts at number {first + 1}")
        found = found[first:last]
    return found


def _find_file(folder: Path, name: str) -> Path:
    """The file, or its uncompressed or zstd-compressed form."""
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
            raise InputError(f"{path}, line {number}: {type(row).__name__} instead of an object")
        for name in fields:
            _check_field(row, name, f"{path}, line {number}")
        for name, values in allowed.items():
            if row[name] not in values:
                raise InputError(f"{path}, line {number}: {name!r} is {row[name]!r}; permitted are {values}")
        yield {name: row[name] for name in (field.partition(".")[0] for field in fields)}


def _check_field(row: Row, name: str, where: str) -> None:
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            has = f"it has {', '.join(map(repr, value))}" if isinstance(value, dict) else f"{value!r} is not an object"
            raise InputError(f"{where}: no field {name!r}; {has}")
        value = value[key]
    if value is None:
        raise InputError(f"{where}: field {name!r} is null")


def _lines(path: Path) -> Iterator[str]:
    try:
        with open_lines(path) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}: a line of more than {MAX_LINE_BYTES:,} bytes")
                yield line.decode()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged compression ({first_line(error)})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
