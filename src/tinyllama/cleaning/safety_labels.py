"""Reads labelled texts for training a safety model.

Input is JSON Lines or parquet with `text` and `label`. A label is `hate` (hate and offensive language), `sexual` or
`none`, a list of them, 1 (hate) or 0 (none); `names` maps the labels of other data sets. Optional fields: `source` (default:
the file's name), `licence`, `group` (rows of one group are in the same part), `part` (`train` or `test`; default: by hash),
`weight`.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllama.errors import InputError
from tinyllama.files import input_files
from tinyllama.sources.read_inputs import JSON_SUFFIXES, read_lines

HEADS = ("hate", "sexual")
NONE = "none"
MAX_LINE_BYTES = 8_000_000
TEST_SHARE, CALIBRATION_SHARE = 0.2, 0.1
_KNOWN = {
    **dict.fromkeys(("hate", "hateful", "offensive", "toxic", "1", "true"), "hate"),
    **dict.fromkeys(("sexual", "pornography"), "sexual"),
    **dict.fromkeys((NONE, "nohate", "neither", "non-hateful", "ok", "0", "false"), NONE),
}


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One row. `labels` is empty for `none`; `part` is `train`, `calibration` or `test`; `weight` None: balanced."""

    text: str
    labels: frozenset[str]
    source: str
    licence: str
    part: str
    weight: float | None


def read_labels(inputs: list[Path], names: Mapping[str, str], seed: int) -> list[LabelledText]:
    """All rows of the files and folders. Raises InputError for the first that cannot be used."""
    for old, new in names.items():
        if new not in (*HEADS, NONE):
            raise InputError(f"--label {old}={new}: {new!r} is unknown; map to hate, sexual or none")
    known = {name.lower(): label for name, label in (_KNOWN | dict(names)).items()}
    rows = []
    for path in input_files(inputs, (*JSON_SUFFIXES, ".parquet")):
        read = _parquet_rows if path.name.endswith(".parquet") else _json_rows
        rows += [_row(row, where, path, known, seed) for where, row in read(path)]
    _refuse_one_class(rows, ", ".join(map(str, inputs)))
    return rows


def _refuse_one_class(rows: list[LabelledText], inputs: str) -> None:
    counts = Counter(label for row in rows for label in row.labels or (NONE,))
    found = [head for head in HEADS if counts[head]]
    if not found or not counts[NONE]:
        missing = "none" if found else "hate or sexual"
        all_have = f"all {len(rows):,} rows have the label {', '.join(found) or NONE}"
        raise InputError(f"{inputs}: {all_have}; add rows labelled {missing}")


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{where}: longer than {MAX_LINE_BYTES:,} bytes; label shorter texts")
        if not line.strip():
            continue
        try:
            row, fault = json.loads(line), "not a JSON object"
        except (ValueError, RecursionError):
            row, fault = None, "not JSON"
        if not isinstance(row, dict):
            raise InputError(f'{where}: {fault}; write {{"text": "...", "label": "hate"}}')
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, row in enumerate(pq.read_table(path).to_pylist(), 1):
            yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:200]})") from None


def _row(row: dict[str, Any], where: str, path: Path, known: Mapping[str, str], seed: int) -> LabelledText:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        what = "missing" if text is None else '"" (empty)' if isinstance(text, str) else f"{_shown(text)}, not a text"
        raise InputError(f"{where}: text is {what}; give each row a text, or remove it")
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8
    given, labels = row.get("label"), set()
    for value in given if isinstance(given, list) else [given]:
        name = str(int(value)) if isinstance(value, bool | int | float) and float(value).is_integer() else str(value)
        if value is None or name.lower() not in known:
            advice = f"use hate, sexual or none, or map it: --label {name[:40]}=none"
            raise InputError(f"{where}: label = {_shown(value)} is unknown; {advice}")
        labels.add(known[name.lower()])
    weight = row.get("weight")
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if weight is not None and not (is_number and 0 < weight < math.inf):
        raise InputError(f"{where}: weight = {_shown(weight)} is not a number above 0; correct it or leave it out")
    source = row.get("source") if isinstance(row.get("source"), str) else path.name.split(".")[0]
    return LabelledText(
        text=text,
        labels=frozenset(labels - {NONE}),
        source=str(source),
        licence=str(row.get("licence") or ""),
        part=_part(row, where, text, seed),
        weight=None if weight is None else float(weight),
    )


def _part(row: dict[str, Any], where: str, text: str, seed: int) -> str:
    """`train`, `calibration` or `test`: as the row says, else by the hash of its group or text."""
    given = row.get("part")
    if given not in (None, "train", "test"):
        raise InputError(f"{where}: part = {_shown(given)} is unknown; use train or test, or leave it out")
    if given:
        return given
    key = f"{seed}\0{row.get('group') or text}".encode("utf-8", "replace")
    uniform = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
    if uniform < TEST_SHARE:
        return "test"
    return "calibration" if uniform < TEST_SHARE + CALIBRATION_SHARE else "train"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)[:60]
