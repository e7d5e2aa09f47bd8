"""Cleaning's second part: documents into training documents, every drop with its reason.

    clean/train/*.parquet  clean/validation/*.parquet    the documents that stay, with their scores
    clean/dropped/*.parquet                              id, reason and detail of all others, those of extraction too
    clean/funnel.json                                    documents and bytes through each step

Steps, each a list of tasks (`worker_pool`): lines that sites repeat, each document by its own merits (`judge`), duplicates
over all documents (`find_duplicates`), then the files (`write_documents`). What tasks have written is kept in `clean/work`
until the end: a killed run goes on with it.
"""

import shutil
from pathlib import Path
from typing import Any

from tinyllama import document_files, log
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.decontaminate import TASKS_FILE, build_index
from tinyllama.cleaning.funnel import Tally, write_funnel
from tinyllama.cleaning.safety_model import open_safety_model
from tinyllama.dedup.duplicate_tasks import KEYS
from tinyllama.dedup.find_duplicates import JUDGED, find_duplicates
from tinyllama.dedup.hash_records import RECORD_BYTES, CorpusIndex, ranges_of
from tinyllama.errors import InputError
from tinyllama.files import read_json, sweep_temporary
from tinyllama.workers.worker_pool import Task, run_missing, run_tasks, worker_count


def clean_documents(config: CleanConfig, documents: Path, out: Path) -> dict[str, Any]:
    """Apply every rule that is on to `documents/*.parquet`; write the splits, the drops and the funnel to `out`.

    Returns documents_in, documents_out, train_documents, validation_documents, text_bytes_in, text_bytes_out, dropped
    (reason: count), masked (kind: count), site_lines, unsafe_paragraphs, contaminated_paragraphs and copied_paragraphs
    (taken out of what stays), contaminated (task: documents), clustered (near-duplicates in and out). documents_in is
    always documents_out and all drops together. Raises InputError when there is no document, or when none stays.
    """
    documents, out = documents.absolute(), out.absolute()
    found = document_files.document_paths(documents)
    if not found:
        raise InputError(f"{documents}: no documents (*.parquet); extract some first")
    work = out / document_files.WORK
    if config.safety != "off":  # a bad model is one line here, not a traceback from a process
        open_safety_model(Path(config.safety_model) if config.safety_model else None)
    with document_files.removed_on_bad_input(out):
        work.mkdir(parents=True, exist_ok=True)
        sweep_temporary(out)
        lines = _find_site_lines(config, found, work) if config.site_lines else None
        _judge(config, found, work, lines)
        drop_codes = find_duplicates(config, work)
        tally = _write(config, work, out, drop_codes)
        _refuse_empty(tally, documents)
    _copy_extraction_drops(config, documents, out)
    summary = write_funnel(out, documents, tally)
    if not summary["validation_documents"] and config.validation_fraction:
        log.warn(
            "the validation split is empty: the corpus is small; more documents or clean.validation_fraction mend it"
        )
    shutil.rmtree(work)
    return summary


def _find_site_lines(config: CleanConfig, found: list[Path], work: Path) -> Path:
    """The folder of the lines that sites repeat."""
    folder, lines = work / "lines", work / "site_lines"
    tasks: list[Task] = [
        {"documents": str(path), "out": str(folder / f"{path.stem}.npy"), "min_words": config.site_line_words}
        for path in found
    ]
    run_missing("cleaning.boilerplate_lines:file_lines", tasks, config.workers, "read lines of sites")
    starts = [0] * (len(found) + 1)  # documents need no number here
    CorpusIndex([path.stem for path in found], starts).save(folder)
    records = sum(path.stat().st_size for path in folder.glob("*.npy")) // RECORD_BYTES
    spans = ranges_of(records, config.max_memory_bytes, worker_count(config.workers))
    tasks = [
        {"folder": str(folder), "out": str(lines / span.name), "range": [span.part, span.parts],
         "min_documents": config.site_line_documents}
        for span in spans
    ]  # fmt: skip
    run_missing("cleaning.boilerplate_lines:range_lines", tasks, config.workers, "find boilerplate")
    return lines


def _judge(config: CleanConfig, found: list[Path], work: Path, lines: Path | None) -> None:
    index = _contamination_index(config, work)
    common = {"config": config.model_dump(), "index": str(index or ""), "lines": str(lines or "")}
    tasks = [
        {**common, "documents": str(path), "out": str(work / JUDGED / path.name),
         "keys": str(work / KEYS / f"{path.stem}.npy")}
        for path in found
    ]  # fmt: skip
    missing = [task for task in tasks if not Path(task["out"]).exists()]
    counts = {task["out"]: document_files.row_count(Path(task["documents"])) for task in tasks}
    with log.progress("judge documents", sum(counts.values())) as line:
        done = sum(counts.values()) - sum(counts[task["out"]] for task in missing)
        for answer in run_tasks("cleaning.document_filters:filter_file", missing, config.workers):
            done += answer["documents"]
            line.update(done)


def _contamination_index(config: CleanConfig, work: Path) -> Path | None:
    """Where the index of evaluation data is, built unless a killed run has left it; None when there is none to be."""
    if not config.decontaminate:
        return None
    folder = work / "contamination"
    if not (folder / TASKS_FILE).exists():
        build_index(Path(config.decontaminate)).save(folder)
    return folder


def _write(config: CleanConfig, work: Path, out: Path, drop_codes: str) -> Tally:
    """All parts' rows to the splits and the drops."""
    tasks = [
        {"config": config.model_dump(), "work": str(work), "out": str(out), "drop_codes": drop_codes, "name": name,
         "tally": str(work / "tallies" / f"{name}.json")}
        for name in CorpusIndex.load(work).names
    ]  # fmt: skip
    run_missing("cleaning.write_documents:write_task", tasks, config.workers, "write clean documents", sign="tally")
    tally = Tally()
    for task in tasks:
        tally.merge(read_json(Path(task["tally"])))
    return tally


def _refuse_empty(tally: Tally, documents: Path) -> None:
    if tally.documents[""]:
        return
    reason, count = max(tally.documents.items(), key=lambda item: (item[1], item[0]))
    raise InputError(
        f"{documents}: all {tally.documents.total()} documents were dropped, {count} of them as {reason}; "
        f"relax {key_of_reason(reason)}"
    )


def key_of_reason(reason: str) -> str:
    """The recipe key that makes drops of this reason fewer."""
    if reason in _KEYS:
        return f"clean.{_KEYS[reason]}"
    if reason.startswith("gopher_top_"):
        return "clean.max_top_ngram_chars"
    if reason.endswith("grams"):
        return "clean.max_duplicate_ngram_chars"
    return "clean"


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
    "gopher_duplicate_lines": "max_duplicate_lines",
    "gopher_duplicate_line_chars": "max_duplicate_line_chars",
    "gopher_duplicate_paragraphs": "max_duplicate_paragraphs",
    "gopher_duplicate_paragraph_chars": "max_duplicate_paragraph_chars",
    "c4_curly_bracket": "c4_curly_bracket",
    "c4_lorem_ipsum": "c4_boilerplate",
    "c4_no_lines": "c4_terminal_punctuation",
    "c4_sentences": "c4_min_sentences",
    "fineweb_line_punctuation": "fineweb_line_punctuation",
    "fineweb_duplicate_line_chars": "max_fineweb_duplicate_chars",
    "fineweb_short_lines": "fineweb_short_lines",
    "safety_hate": "max_hate",
    "safety_sexual": "max_sexual",
    "contaminated": "decontaminate_drops",
    "personal_information": "personal_information",
    "exact_duplicate": "exact_duplicates",
    "near_duplicate": "near_duplicates",
    "duplicate_paragraphs": "max_copied_chars",
    "step_too_slow": "document_cpu_seconds",
}


def _copy_extraction_drops(config: CleanConfig, documents: Path, out: Path) -> None:
    """The drops of extraction belong to a document's fate too."""
    for path in document_files.document_paths(documents / document_files.DROPPED):
        rows = document_files.read_document_file(path)
        if len(rows):
            target = out / document_files.DROPPED / f"extraction-{path.name}"
            document_files.write_dropped(target, rows.to_pylist(), with_text=config.keep_dropped_text)
