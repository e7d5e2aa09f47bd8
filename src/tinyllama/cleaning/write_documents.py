"""Last step of cleaning: writes each file's documents to the splits and the drops, without copied paragraphs."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama import document_files
from tinyllama.cleaning.clean_config import CleanConfig, SplitConfig
from tinyllama.cleaning.funnel import Tally
from tinyllama.dedup import duplicate_tasks
from tinyllama.dedup.dedup_config import DedupConfig
from tinyllama.dedup.hash_records import CorpusIndex, read_array
from tinyllama.document_files import paragraphs_in
from tinyllama.files import write_json
from tinyllama.hashing import is_validation
from tinyllama.workers.worker_process import Progress


def write_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: write the rows of one filtered file to `out`, and then their counts, a Tally, to the file `tally`.

    `config`; `work`; `drop_codes`: name of the last ones; `name`: of the file.
    """
    config, work, out, name = CleanConfig(**task["config"]), Path(task["work"]), Path(task["out"]), task["name"]
    index = CorpusIndex.load(work)
    first, last = index.starts[index.names.index(name) :][:2]
    rows = document_files.read_document_file(work / duplicate_tasks.FILTERED / f"{name}.parquet").to_pylist()
    drop_codes = read_array(work / f"drop_codes-{task['drop_codes']}.npy")[first:last].tolist()
    _add_clusters(rows, work, first, last)
    copies: dict[int, set[int]] = {}
    for number, paragraph in duplicate_tasks.rows_of(work / duplicate_tasks.PARAGRAPHS, first, last).tolist():
        copies.setdefault(number - first, set()).add(paragraph)
    tally = Tally()
    for number, (row, drop_code) in enumerate(zip(rows, drop_codes, strict=True)):
        row["reason"] = row["reason"] or duplicate_tasks.DROP_REASONS[drop_code]
        row["copied_paragraphs"] = 0
        if not row["reason"] and number in copies:
            _without_copies(row, copies[number], config)
        row["split"] = _split_of(row, config)
        tally.add(row)
    for split in ("train", "validation"):
        kept = [row for row in rows if row["split"] == split]
        if kept:
            columns = {name: [row[name] for row in kept] for name in document_files.CLEAN_SCHEMA.names}
            table = pa.table(columns, document_files.CLEAN_SCHEMA)
            document_files.write_document_file(out / split / f"{name}.parquet", table)
    dropped = [row for row in rows if row["reason"]]
    if dropped:
        path = out / document_files.DROPPED / f"{name}.parquet"
        document_files.write_dropped(path, dropped, with_text=config.keep_dropped_text)
    write_json(Path(task["tally"]), tally.as_json())
    return {}


def _add_clusters(rows: list[dict[str, Any]], work: Path, first: int, last: int) -> None:
    """Set each row's cluster (the hash of the kept document's id) and the number of documents in it."""
    for row in rows:
        row |= {"cluster": "", "cluster_size": 1}
    members = duplicate_tasks.rows_of(work / duplicate_tasks.CLUSTERS, first, last)
    if len(members):
        names = read_array(work / duplicate_tasks.ID_HASHES)[members[:, 1]].tolist()
        for (number, _, size), name in zip(members.tolist(), names, strict=True):
            rows[number - first] |= {"cluster": f"{name:016x}", "cluster_size": size}


def _without_copies(row: dict[str, Any], copies: set[int], config: DedupConfig) -> None:
    """Remove the paragraphs with these numbers from a row's text, or drop the row when too little would be left."""
    text = row["text"]
    paragraphs = paragraphs_in(text)
    kept = [paragraph for number, paragraph in enumerate(paragraphs) if number not in copies]
    removed_chars = sum(len(paragraphs[number]) for number in copies)
    if removed_chars > config.max_copied_chars * sum(map(len, paragraphs)):
        detail = f"{len(copies)} of {len(paragraphs)} paragraphs stand in other documents"
        row |= {"reason": "duplicate_paragraphs", "detail": detail}
        return
    text = ("\n\n" if "\n\n" in text else "\n").join(kept)
    row |= {"text": text, "bytes": len(text.encode("utf-8")), "copied_paragraphs": len(copies)}


def _split_of(row: dict[str, Any], config: SplitConfig) -> str:
    """`train` or `validation`, "" for a dropped document. Kept near-duplicates are all in one split."""
    if row["reason"]:
        return ""
    name = row["cluster"] if row["cluster"] and config.keep_near_duplicates else row["id"]
    return "validation" if is_validation(name, config.validation_fraction) else "train"
