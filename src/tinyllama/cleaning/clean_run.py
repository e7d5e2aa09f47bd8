"""The whole cleaning phase, from raw files to training documents."""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # Daft reads these at import
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

import time
from pathlib import Path
from typing import Any

from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.clean_documents import clean_documents
from tinyllama.cleaning.extract_documents import extract_documents
from tinyllama.workers.worker_pool import close_workers

__all__ = ["clean", "clean_documents", "close_workers", "extract_documents"]


def clean(config: CleanConfig, inputs: list[Path], documents_out: Path, out: Path) -> dict[str, Any]:
    """Extract `inputs` into `documents_out` (`extract_documents`), then clean those into `out` (`clean_documents`).

    Returns the summary of `clean_documents`, which counts the drops of extraction too, and `seconds`. A killed run resumes
    with the files that are not yet written; its result has the same bytes.
    """
    started = time.monotonic()
    extract_documents(config, inputs, documents_out)
    summary = clean_documents(config, documents_out, out)
    return {**summary, "seconds": round(time.monotonic() - started, 3)}
