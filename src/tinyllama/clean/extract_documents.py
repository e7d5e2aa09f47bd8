"""Cleaning's first part: every input file into `documents/*.parquet`, one row a document.

    documents/00000-00000.parquet            documents of the first records of the first input file
    documents/dropped/00000-00000.parquet    id and reason of the records that gave none
    documents/extraction.json                the counts, written last

A part is the unit of resume. Where a part ends depends on the records alone, so a killed run leaves the same parts as
an undisturbed one, only fewer.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama import log
from tinyllama.clean import document_parts as parts
from tinyllama.clean.clean_config import CleanConfig
from tinyllama.clean.cores import worker_count
from tinyllama.clean.extract import ExtractPool
from tinyllama.clean.read_inputs import Record, find_inputs, read_records
from tinyllama.errors import InputError
from tinyllama.files import sweep_temporary, write_json
from tinyllama.sources.document import document_id

EXTRACTION = "extraction.json"
PART_RECORDS = 10_000
PART_CHARS = 64 << 20  # of raw HTML or text
_SMALL_PARTS, _SMALLER = 8, 8  # a file's first parts are smaller, so that the cores share a small corpus evenly
_PAGES_AHEAD = 8  # for each worker


@dataclass
class _Part:
    documents: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    raw_chars: int = 0

    def is_full(self, number: int) -> bool:
        """Whether this, the file's part of that number, has enough."""
        small = _SMALLER if number < _SMALL_PARTS else 1
        records = len(self.documents) + len(self.dropped)
        return records >= -(-PART_RECORDS // small) or self.raw_chars >= PART_CHARS // small


def extract_documents(config: CleanConfig, inputs: list[Path], out: Path) -> dict[str, Any]:
    """Read `inputs` (WARC, parquet, JSON Lines; folders recursively) into `out/*.parquet`; parts already there are kept.

    Returns documents_in, documents_out, dropped (reason: count), input_files. Raises InputError when an input is
    missing, damaged or of another kind, or when no document comes out at all.
    """
    found = find_inputs(inputs)
    for folder in (out, out / parts.DROPPED):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(folder)
    workers = worker_count(config.workers)
    with (
        parts.removed_on_bad_input(out),
        ExtractPool(config.page_cpu_seconds) as pool,
        ThreadPoolExecutor(workers) as threads,
        log.progress("extract documents") as line,
    ):
        done = 0
        for number, path in enumerate(found):
            records = read_records(path, config.max_page_bytes)
            done += _extract_file(
                records, number, out, lambda window: _texts(window, pool, threads, workers), line, done
            )
        return _finish(out, found)


def _extract_file(
    records: Iterator[Record], number: int, out: Path, texts: Any, line: log.ProgressLine, done: int
) -> int:
    """Write one input file's parts; returns how many records it has. Records of parts that are there are read past."""
    part_number = count = 0
    while (out / _part_name(number, part_number)).exists():
        name = _part_name(number, part_number)
        there = parts.row_count(out / name) + parts.row_count(out / parts.DROPPED / name)
        count += sum(1 for _ in islice(records, there))
        part_number += 1
    part = _Part()
    for record, text, reason in texts(records):
        _add(part, record, text, reason)
        count += 1
        if part.is_full(part_number):
            _write(part, out, _part_name(number, part_number))
            part, part_number = _Part(), part_number + 1
        line.update(done + count)
    if part.documents or part.dropped:
        _write(part, out, _part_name(number, part_number))
    return count


def _part_name(file_number: int, part_number: int) -> str:
    return f"{file_number:05d}-{part_number:05d}.parquet"


def _texts(
    records: Iterable[Record], pool: ExtractPool, threads: ThreadPoolExecutor, workers: int
) -> Iterator[tuple[Record, str, str]]:
    """(record, text, reason) in the order of `records`, with a few pages under way in the workers."""
    waiting: deque[tuple[Record, Future[tuple[str, str]] | None]] = deque()
    for record in records:
        html = record.is_html and not record.reason
        waiting.append((record, threads.submit(pool.text_of, record.body) if html else None))
        while len(waiting) > workers * _PAGES_AHEAD:
            yield _result(*waiting.popleft())
    while waiting:
        yield _result(*waiting.popleft())


def _result(record: Record, future: Future[tuple[str, str]] | None) -> tuple[Record, str, str]:
    if future is not None:
        return (record, *future.result())
    if not record.reason and not record.body.strip():
        return record, "", "no_text"
    return record, record.body, record.reason


def _add(part: _Part, record: Record, text: str, reason: str) -> None:
    part.raw_chars += len(record.body)
    if reason:
        part.dropped.append({"id": record.id or document_id(record.source, text), "reason": reason})
        return
    part.documents.append(
        {
            "id": record.id or document_id(record.source, text),
            "text": text,
            "source": record.source,
            "kind": record.kind,
            "domain": record.domain,
            "language": "",
            "licence": record.licence,
            "fetched_at": record.fetched_at,
        }
    )


def _write(part: _Part, out: Path, name: str) -> None:
    """The drops first: a part's documents are the sign that it is whole."""
    parts.write_dropped(out / parts.DROPPED / name, part.dropped)
    ordered = sorted(part.documents, key=lambda row: (row["id"], row["text"]))
    parts.write_part(out / name, pa.Table.from_pylist(ordered, schema=parts.DOCUMENT_SCHEMA))


def _finish(out: Path, inputs: list[Path]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    for path in parts.part_paths(out / parts.DROPPED):
        dropped.update(parts.read_part(path, ["reason"]).column("reason").to_pylist())
    documents = sum(map(parts.row_count, parts.part_paths(out)))
    if not documents:
        why = f"; most often {dropped.most_common(1)[0][0]}" if dropped else ""
        others = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
        raise InputError(f"{inputs[0]}{others}: no document came out{why}; give files that hold text")
    summary = {
        "documents_in": documents + dropped.total(),
        "documents_out": documents,
        "dropped": dict(sorted(dropped.items())),
        "input_files": len(inputs),
    }
    write_json(out / EXTRACTION, summary)
    return summary
