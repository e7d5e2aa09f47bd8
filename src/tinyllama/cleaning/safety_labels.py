"""Rows of text and label from which a safety model is trained.

JSON Lines or parquet with `text` and `label`. A label is `hate` (hate and offence), `sexual` or `none`, a list of them,
1 (hate) or 0 (none); `names` maps a data set's own labels. Optional fields: `source` (else the file's name), `licence`,
`group` (rows of one group stay on the same side of the split), `part` (`train` or `test`; else by hash), `weight`.
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
    """Every row of the files, those beside them in folders too. Raises InputError for the first that cannot be used."""
    for old, new in names.items():
        if new not in (*HEADS, NONE):
            raise InputError(f"--label {old}={new}: {new!r} is unknown; map to hate, sexual or none")
    known = {name.lower(): label for name, label in (_KNOWN | dict(names)).items()}
    rows = []
    for path in input_files(inputs, (*JSON_SUFFIXES, ".parquet")):
        read = _parquet_rows if path.name.endswith(".parquet") else _json_rows
        for place, row in read(path):
            rows.append(_row(row, place, path, known, seed))
    _refuse_one_class(rows, ", ".join(map(str, inputs)))
    return rows


def _refuse_one_class(rows: list[LabelledText], place: str) -> None:
    counts = Counter(label for row in rows for label in row.labels or (NONE,))
    if not any(counts[head] for head in HEADS):
        raise InputError(f"{place}: all {len(rows):,} rows have the label none; add rows labelled hate or sexual")
    if not counts[NONE]:
        found = ", ".join(head for head in HEADS if counts[head])
        raise InputError(f"{place}: all {len(rows):,} rows have the label {found}; add rows labelled none")


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{place}: longer than {MAX_LINE_BYTES:,} bytes; label shorter texts")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f'{place}: not JSON; write {{"text": "...", "label": "hate"}}') from None
        if not isinstance(row, dict):
            raise InputError(f'{place}: not a JSON object; write {{"text": "...", "label": "hate"}}')
        yield place, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, row in enumerate(pq.read_table(path).to_pylist(), 1):
            yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:200]})") from None


def _row(row: dict[str, Any], place: str, path: Path, known: Mapping[str, str], seed: int) -> LabelledText:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        shown = (
            "missing" if text is None else f"{_shown(text)}, not a text" if not isinstance(text, str) else '"" (empty)'
        )
        raise InputError(f"{place}: text is {shown}; give each row a text, or remove it")
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8
    given, labels = row.get("label"), set()
    for value in given if isinstance(given, list) else [given]:
        name = str(int(value)) if isinstance(value, bool | int | float) and float(value).is_integer() else str(value)
        if value is None or name.lower() not in known:
            raise InputError(
                f"{place}: label = {_shown(value)} is unknown; use hate, sexual or none, or map it: --label {name[:40]}=none"
            )
        labels.add(known[name.lower()])
    source = row.get("source") if isinstance(row.get("source"), str) else path.name.split(".")[0]
    return LabelledText(
        text=text,
        labels=frozenset(labels - {NONE}),
        source=str(source),
        licence=str(row.get("licence") or ""),
        part=_part(row, place, text, seed),
        weight=_weight(row.get("weight"), place),
    )


def _part(row: dict[str, Any], place: str, text: str, seed: int) -> str:
    given = row.get("part")
    if given not in (None, "train", "test"):
        raise InputError(f"{place}: part = {_shown(given)} is unknown; use train or test, or leave it out")
    if given:
        return given
    key = f"{seed}\0{row.get('group') or text}".encode("utf-8", "replace")
    place_in_unit = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
    return (
        "test"
        if place_in_unit < TEST_SHARE
        else "calibration"
        if place_in_unit < TEST_SHARE + CALIBRATION_SHARE
        else "train"
    )


def _weight(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
        raise InputError(f"{place}: weight = {_shown(value)} is not a number above 0; mend it or leave it out")
    return float(value)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)[:60]
