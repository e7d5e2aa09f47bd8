"""Cleaning's first step: converts every input file to `documents/*.parquet`, one row per document.

    documents/00000-00000.parquet            documents of the first records of the first input file
    documents/dropped/00000-00000.parquet    id and reason of the records that gave no document
    documents/extraction.json                the counts, written last

A document file is the unit of resume. Where one ends depends on the records alone, so a killed run leaves the same files
as an uninterrupted one, only fewer. On a Ray cluster each input file is a task.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama import document_files, log
from tinyllama.cleaning.clean_config import CleanConfig, ExtractConfig
from tinyllama.cleaning.extract import ExtractPool
from tinyllama.errors import InputError
from tinyllama.files import sweep_temporary, write_json
from tinyllama.sources.document import document_id
from tinyllama.sources.read_inputs import SUFFIXES, Record, find_inputs, read_records
from tinyllama.sources.remote_inputs import RemoteFile, find_remote, local_copy, remote_url
from tinyllama.workers.worker_pool import run_tasks, worker_count
from tinyllama.workers.worker_process import Progress

EXTRACTION = "extraction.json"
FILE_RECORDS = 10_000
FILE_CHARS = 64 << 20  # of raw HTML or text
_SMALL_FILES, _SMALLER = 8, 8  # the first ones are smaller, so that the cores share a small corpus evenly
_PAGES_AHEAD = 8  # for each worker


@dataclass
class _DocumentFile:
    documents: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    raw_chars: int = 0

    def is_full(self, number: int) -> bool:
        """Whether this, the input's document file of that number, has enough records."""
        small = _SMALLER if number < _SMALL_FILES else 1
        records = len(self.documents) + len(self.dropped)
        return records >= -(-FILE_RECORDS // small) or self.raw_chars >= FILE_CHARS // small


def extract_documents(config: ExtractConfig, inputs: list[Path], out: Path) -> dict[str, Any]:
    """Read `inputs` (WARC, parquet, JSON Lines; folders recursively) into `out/*.parquet`; existing document files are kept.

    Returns documents_in, documents_out, dropped (reason: count), input_files. Raises InputError when an input is
    missing, damaged or of another kind, or when no document comes out at all.
    """
    found = _find(inputs)
    out = out.absolute()
    for folder in (out, out / document_files.DROPPED):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(folder)
    tasks: list[dict[str, Any]] = [
        {"config": config.model_dump(), "number": number, "out": str(out), **_as_json(source)}
        for number, source in enumerate(found)
    ]
    with document_files.removed_on_bad_input(out), log.progress("extract documents") as line:
        if os.environ.get("DAFT_RUNNER") == "ray":
            done = 0
            for answer in run_tasks("cleaning.extract_documents:extract_task", tasks, config.workers):
                done += answer["records"]
                line.update(done)
        else:  # one file after another, its pages distributed over all cores
            done = 0
            for task in tasks:
                done += _extract_one(task, worker_count(config.workers), line, done)
        return _finish(out, found)


def _find(inputs: list[Path]) -> list[Path | RemoteFile]:
    """Local and remote files, in a stable order."""
    on_disk = [path for path in inputs if remote_url(path) is None]
    urls = [url for path in inputs if (url := remote_url(path))]
    remote = [file for url in urls for file in find_remote(url, SUFFIXES)]
    return [*(find_inputs(on_disk) if on_disk or not remote else []), *remote]


def _as_json(source: Path | RemoteFile) -> dict[str, Any]:
    return {"remote": asdict(source)} if isinstance(source, RemoteFile) else {"path": str(source.absolute())}


def extract_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: all document files of one input file. `config`; `number`: of the file; `out`; `path` or `remote`."""
    return {"records": _extract_one(task, 1, None, 0)}


def _extract_one(task: dict[str, Any], workers: int, line: log.ProgressLine | None, done: int) -> int:
    config, out = CleanConfig(**task["config"]), Path(task["out"])
    with ExitStack() as stack:
        if "remote" in task:
            path = stack.enter_context(local_copy(RemoteFile(**task["remote"]), out))
        else:
            path = Path(task["path"])
        pool = stack.enter_context(ExtractPool(config.page_cpu_seconds))
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        records = read_records(path, config.max_page_bytes)
        return _extract_file(
            records, task["number"], out, lambda window: _texts(window, pool, threads, workers), line, done
        )


def _extract_file(
    records: Iterator[Record], number: int, out: Path, texts: Any, line: log.ProgressLine | None, done: int
) -> int:
    """Write one input file's document files; returns its number of records. Records of existing files are skipped."""
    file_number = count = 0
    while (out / _file_name(number, file_number)).exists():
        name = _file_name(number, file_number)
        there = document_files.row_count(out / name) + document_files.row_count(out / document_files.DROPPED / name)
        count += sum(1 for _ in islice(records, there))
        file_number += 1
    document_file = _DocumentFile()
    for record, text, reason in texts(records):
        _add(document_file, record, text, reason)
        count += 1
        if document_file.is_full(file_number):
            _write(document_file, out, _file_name(number, file_number))
            document_file, file_number = _DocumentFile(), file_number + 1
        if line is not None:
            line.update(done + count)
    if document_file.documents or document_file.dropped:
        _write(document_file, out, _file_name(number, file_number))
    return count


def _file_name(input_number: int, file_number: int) -> str:
    return f"{input_number:05d}-{file_number:05d}.parquet"


def _texts(
    records: Iterable[Record], pool: ExtractPool, threads: ThreadPoolExecutor, workers: int
) -> Iterator[tuple[Record, str, str]]:
    """(record, text, reason) in the order of `records`, with a few pages ahead in the workers."""
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


def _add(document_file: _DocumentFile, record: Record, text: str, reason: str) -> None:
    document_file.raw_chars += len(record.body)
    if reason:
        document_file.dropped.append({"id": record.id or document_id(record.source, text), "reason": reason})
        return
    document_file.documents.append(
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


def _write(document_file: _DocumentFile, out: Path, name: str) -> None:
    """The dropped records first: the document file marks both as complete."""
    document_files.write_dropped(out / document_files.DROPPED / name, document_file.dropped)
    ordered = sorted(document_file.documents, key=lambda row: (row["id"], row["text"]))
    document_files.write_document_file(out / name, pa.Table.from_pylist(ordered, schema=document_files.DOCUMENT_SCHEMA))


def _finish(out: Path, inputs: list[Path | RemoteFile]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    for path in document_files.document_paths(out / document_files.DROPPED):
        dropped.update(document_files.read_document_file(path, ["reason"]).column("reason").to_pylist())
    documents = sum(map(document_files.row_count, document_files.document_paths(out)))
    if not documents:
        why = f"; most often {dropped.most_common(1)[0][0]}" if dropped else ""
        others = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
        first = inputs[0].url if isinstance(inputs[0], RemoteFile) else inputs[0]
        raise InputError(f"{first}{others}: no document came out{why}; give files that hold text")
    summary = {
        "documents_in": documents + dropped.total(),
        "documents_out": documents,
        "dropped": dict(sorted(dropped.items())),
        "input_files": len(inputs),
    }
    write_json(out / EXTRACTION, summary)
    return summary
