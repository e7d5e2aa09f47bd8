"""Why a document was kept or dropped, read from the files of a finished cleaning."""

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tinyllama import document_files
from tinyllama.cleaning.clean_documents import key_of_reason
from tinyllama.errors import InputError

_SHOWN = ("source", "kind", "domain", "language", *document_files.SCORES)


def explain_document(run_dir: Path, document_id: str) -> dict[str, Any]:
    """id, fate (`train`, `validation` or `dropped`) and the file that says so; then reason, detail and the recipe key
    that decides, or the document's source and scores.

    An id may have several records (duplicates): then the kept one is told, else the last drop in order of files.
    Raises InputError when the folder has no finished cleaning or no such document.
    """
    clean = run_dir / "clean" if (run_dir / "clean").is_dir() else run_dir
    if not (clean / "funnel.json").is_file():
        raise InputError(f"{run_dir}: no finished cleaning in it (clean/funnel.json); run `tinyllama clean` first")
    for split in ("train", "validation"):
        for path in document_files.document_paths(clean / split):
            if row := _row(path, ["id", *_SHOWN], document_id):
                return {"id": document_id, "fate": split, "file": str(path), **row}
    for path in reversed(document_files.document_paths(clean / document_files.DROPPED)):
        if row := _row(path, document_files.DROPPED_SCHEMA.names, document_id):
            return {"id": document_id, "fate": "dropped", "file": str(path), **row, "key": key_of_reason(row["reason"])}
    raise InputError(
        f"{clean}: no document with the id {document_id[:80]!r}; ids stand in the column `id` of its parquet files"
    )


def _row(path: Path, columns: list[str], document_id: str) -> dict[str, Any] | None:
    table = document_files.read_document_file(path, columns)
    found = table.filter(pc.field("id") == document_id).to_pylist()
    return {name: value for name, value in found[0].items() if name != "id"} if found else None
