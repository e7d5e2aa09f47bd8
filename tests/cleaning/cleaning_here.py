"""Whole cleaning in this process: the tasks of every step as plain calls, so that a run takes a tenth of a second."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cleaning.clean_inputs import write_json_lines
from tinyllama import document_files
from tinyllama.cleaning import clean_documents, extract_documents
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.clean_run import clean
from tinyllama.workers import worker_pool


class NoLimits:
    """In place of `worker_process.Progress`: notes where a step says that it is."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bool, float]] = []

    def at(self, row: int, *, singly: bool, cpu_seconds: float) -> None:
        self.said.append((row, singly, cpu_seconds))

    def past(self) -> None:
        self.said.append((-1, False, 0.0))


def tasks_here(function: str, tasks: list[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """`worker_pool.run_tasks` without processes; tasks and answers pass through JSON as they do there."""
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(f"tinyllama.{module}"), name)
    for task in tasks:
        yield json.loads(json.dumps(call(json.loads(json.dumps(task)), NoLimits())))


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (worker_pool, clean_documents, extract_documents):
        monkeypatch.setattr(module, "run_tasks", tasks_here)


@dataclass(frozen=True)
class Cleaned:
    """What a run left."""

    summary: dict[str, Any]
    kept: dict[str, dict[str, Any]]  # by id, with the split
    dropped: dict[str, dict[str, Any]]  # by id
    funnel: dict[str, Any]

    @property
    def texts(self) -> dict[str, str]:
        return {name: row["text"] for name, row in self.kept.items()}

    @property
    def reasons(self) -> dict[str, str]:
        return {name: row["reason"] for name, row in self.dropped.items()}


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [row for path in document_files.document_paths(folder) for row in pq.read_table(path).to_pylist()]


def clean_rows(folder: Path, rows: list[dict[str, Any]], config: CleanConfig) -> Cleaned:
    """JSON Lines of these rows through all of cleaning."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [write_json_lines(folder / "input.jsonl", rows)]
    summary = clean(config, inputs, folder / "documents", folder / "clean")
    return read_cleaned(folder / "clean", summary)


def read_cleaned(clean_folder: Path, summary: dict[str, Any]) -> Cleaned:
    kept = {row["id"]: row | {"split": s} for s in ("train", "validation") for row in rows_in(clean_folder / s)}
    dropped = {row["id"]: row for row in rows_in(clean_folder / "dropped")}
    return Cleaned(summary, kept, dropped, json.loads((clean_folder / "funnel.json").read_text()))
