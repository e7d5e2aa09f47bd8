"""Why a document was kept or dropped, read from the files of a finished cleaning."""

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tinyllama import document_files
from tinyllama.errors import InputError

_SHOWN = ("source", "kind", "domain", "language", *document_files.SCORES)
_KEYS = {
    "too_long": "max_document_chars",
    "language_unknown": "min_language_confidence",
    "language_other": "languages",
    "gopher_short": "min_words",
    "gopher_long": "max_words",
    "gopher_word_length": "max_mean_word_length",
    "gopher_symbols": "max_symbols_per_word",
    "gopher_bullets": "max_bullet_lines",
    "gopher_ellipsis": "max_ellipsis_lines",
    "gopher_alphabetic": "min_alphabetic_words",
    "gopher_stop_words": "min_stop_words",
    "c4_lorem_ipsum": "c4_boilerplate",
    "c4_no_lines": "c4_terminal_punctuation",
    "c4_sentences": "c4_min_sentences",
    "fineweb_duplicate_line_chars": "max_fineweb_duplicate_chars",
    "safety_hate": "max_hate",
    "safety_sexual": "max_sexual",
    "contaminated": "decontaminate_drops",
    "exact_duplicate": "exact_duplicates",
    "near_duplicate": "near_duplicates",
    "duplicate_paragraphs": "max_copied_chars",
    "step_too_slow": "document_cpu_seconds",
    "c4_curly_bracket": "c4_curly_bracket",
    "fineweb_line_punctuation": "fineweb_line_punctuation",
    "fineweb_short_lines": "fineweb_short_lines",
    "personal_information": "personal_information",
    "gopher_duplicate_lines": "max_duplicate_lines",
    "gopher_duplicate_line_chars": "max_duplicate_line_chars",
    "gopher_duplicate_paragraphs": "max_duplicate_paragraphs",
    "gopher_duplicate_paragraph_chars": "max_duplicate_paragraph_chars",
    **{f"gopher_top_{n}gram": "max_top_ngram_chars" for n in range(2, 5)},
    **{f"gopher_duplicate_{n}grams": "max_duplicate_ngram_chars" for n in range(5, 11)},
}


def explain_document(run_dir: Path, document_id: str) -> dict[str, Any]:
    """id, `fate` (`train`, `validation` or `dropped`) and file; then reason, detail and the recipe key that decided, or the
    document's source and scores.

    Duplicates share an id: then the kept document is described, else the last drop in the order of files.
    Raises InputError when the folder has no finished cleaning or no such document.
    """
    clean = run_dir / "clean" if (run_dir / "clean").is_dir() else run_dir
    if not (clean / "funnel.json").is_file():
        raise InputError(f"{run_dir}: contains no finished cleaning (clean/funnel.json); run `tinyllama clean` first")
    for split in ("train", "validation"):
        for path in document_files.document_paths(clean / split):
            if row := _row(path, ["id", *_SHOWN], document_id):
                return {"id": document_id, "fate": split, "file": str(path), **row}
    for path in reversed(document_files.document_paths(clean / document_files.DROPPED)):
        if row := _row(path, document_files.DROPPED_SCHEMA.names, document_id):
            return {"id": document_id, "fate": "dropped", "file": str(path), **row, "key": key_of_reason(row["reason"])}
    raise InputError(
        f"{clean}: no document with the id {document_id[:80]!r}; look up ids in the `id` column of its parquet files"
    )


def key_of_reason(reason: str) -> str:
    """The recipe key that decides about drops with this reason; `clean` when there is none."""
    return f"clean.{_KEYS[reason]}" if reason in _KEYS else "clean"


def _row(path: Path, columns: list[str], document_id: str) -> dict[str, Any] | None:
    table = document_files.read_document_file(path, columns)
    found = table.filter(pc.field("id") == document_id).to_pylist()
    return {name: value for name, value in found[0].items() if name != "id"} if found else None
