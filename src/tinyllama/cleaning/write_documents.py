"""The last step: one part's documents into the splits and the drops, without the paragraphs that stand elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tinyllama import document_files
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.funnel import Tally
from tinyllama.dedup import duplicate_tasks
from tinyllama.dedup.hash_records import CorpusIndex, read_array
from tinyllama.document_files import paragraphs_in
from tinyllama.files import write_json
from tinyllama.hashing import is_validation
from tinyllama.workers.worker_process import Progress


def write_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: one judged part's rows to `out`; what they count, as a Tally, to the file `tally`, last.

    `config`; `work`; `drop_codes`: name of the last ones; `name`: of the part.
    """
    config, work, out, name = CleanConfig(**task["config"]), Path(task["work"]), Path(task["out"]), task["name"]
    layout = CorpusIndex.load(work)
    first, last = layout.starts[layout.names.index(name) :][:2]
    rows = document_files.read_document_file(work / "judged" / f"{name}.parquet").to_pylist()
    drop_codes = np.array(read_array(work / f"drop_codes-{task['drop_codes']}.npy")[first:last])
    _name_clusters(rows, work, first, last)
    copies: dict[int, set[int]] = {}
    for number, place in duplicate_tasks.rows_of(work / "paragraphs", first, last).tolist():
        copies.setdefault(number - first, set()).add(place)
    tally = Tally()
    for number, (row, fate) in enumerate(zip(rows, drop_codes.tolist(), strict=True)):
        row["reason"] = row["reason"] or duplicate_tasks.DROP_REASONS[fate]
        row["copied_paragraphs"] = 0
        if not row["reason"] and number in copies:
            _without_copies(row, copies[number], config)
        row["split"] = _split_of(row, config)
        tally.add(row)
    for split in ("train", "validation"):
        kept = [row for row in rows if row["split"] == split]
        if kept:
            columns = {name: [row[name] for row in kept] for name in document_files.CLEAN_SCHEMA.names}
            document_files.write_document_file(
                out / split / f"{name}.parquet", pa.table(columns, document_files.CLEAN_SCHEMA)
            )
    dropped = [row for row in rows if row["reason"]]
    if dropped:
        path = out / document_files.DROPPED / f"{name}.parquet"
        document_files.write_dropped(path, dropped, with_text=config.keep_dropped_text)
    write_json(Path(task["tally"]), tally.as_json())
    return {}


def _name_clusters(rows: list[dict[str, Any]], work: Path, first: int, last: int) -> None:
    """Give each row its cluster: the hash of the id of the document that stays, and how many documents it has."""
    for row in rows:
        row |= {"cluster": "", "cluster_size": 1}
    members = duplicate_tasks.rows_of(work / "clusters", first, last)
    if len(members):
        names = read_array(work / duplicate_tasks.ID_HASHES)[members[:, 1]].tolist()
        for (number, _, size), name in zip(members.tolist(), names, strict=True):
            rows[number - first] |= {"cluster": f"{name:016x}", "cluster_size": size}


def _without_copies(row: dict[str, Any], copies: set[int], config: CleanConfig) -> None:
    """Take the paragraphs of these numbers out of a row's text, or give it a reason when little would be left."""
    text = row["text"]
    paragraphs = paragraphs_in(text)
    kept = [paragraph for number, paragraph in enumerate(paragraphs) if number not in copies]
    gone = sum(len(paragraphs[number]) for number in copies)
    if gone > config.max_copied_chars * sum(map(len, paragraphs)):
        detail = f"{len(copies)} of {len(paragraphs)} paragraphs stand in other documents"
        row |= {"reason": "duplicate_paragraphs", "detail": detail}
        return
    text = ("\n\n" if "\n\n" in text else "\n").join(kept)
    row |= {"text": text, "bytes": len(text.encode("utf-8")), "copied_paragraphs": len(copies)}


def _split_of(row: dict[str, Any], config: CleanConfig) -> str:
    """`train` or `validation`, "" for a document that goes. A cluster that is kept is wholly on one side."""
    if row["reason"]:
        return ""
    name = row["cluster"] if row["cluster"] and config.keep_near_duplicates else row["id"]
    return "validation" if is_validation(name, config.validation_fraction) else "train"
