"""Second stage of cleaning: filters and deduplicates the extracted documents.

    clean/train/*.parquet  clean/validation/*.parquet    kept documents with their scores
    clean/dropped/*.parquet                              id, reason and detail of all dropped ones, those of extraction too
    clean/funnel.json                                    documents and bytes after each step

Each step is a list of tasks (`worker_pool`): boilerplate lines, filters of single documents (`document_filters`),
duplicates (`find_duplicates`), output (`write_documents`). The tasks' files stay in `clean/work` until the end, so a
killed run resumes with the tasks whose files are missing.
"""

import shutil
from pathlib import Path
from typing import Any

from tinyllama import document_files, log
from tinyllama.cleaning.clean_config import CleanConfig, DecontaminateConfig
from tinyllama.cleaning.decontaminate import TASKS_FILE, build_index
from tinyllama.cleaning.explain import key_of_reason
from tinyllama.cleaning.funnel import Tally, write_funnel
from tinyllama.cleaning.safety_model import open_safety_model
from tinyllama.dedup.duplicate_tasks import FILTERED, KEYS
from tinyllama.dedup.find_duplicates import find_duplicates
from tinyllama.dedup.hash_records import RECORD_BYTES, CorpusIndex, ranges_of
from tinyllama.errors import InputError
from tinyllama.files import read_json, sweep_temporary
from tinyllama.workers.worker_pool import Task, run_missing, run_tasks, worker_count


def clean_documents(config: CleanConfig, documents: Path, out: Path) -> dict[str, Any]:
    """Apply every enabled step to `documents/*.parquet`; write the splits, the drops and the funnel to `out`.

    Returns documents_in, documents_out, train_documents, validation_documents, text_bytes_in, text_bytes_out, dropped
    (reason: count), masked (kind: count), site_lines, unsafe_paragraphs, contaminated_paragraphs and copied_paragraphs
    (removed from kept documents), contaminated (task: documents), clustered (near-duplicates in and out). documents_in is
    always documents_out plus all drops. Raises InputError when there is no document, or all are dropped.
    """
    documents, out = documents.absolute(), out.absolute()
    found = document_files.document_paths(documents)
    if not found:
        raise InputError(f"{documents}: no documents (*.parquet); extract some first")
    work = out / document_files.WORK
    if config.safety != "off":  # report a bad model here, not from a worker process
        open_safety_model(config.safety_model)
    with document_files.removed_on_bad_input(out):
        work.mkdir(parents=True, exist_ok=True)
        sweep_temporary(out)
        lines = _find_boilerplate(config, found, work) if config.site_lines else None
        _filter(config, found, work, lines)
        drop_codes = find_duplicates(config, work)
        tally = _write(config, work, out, drop_codes)
        _refuse_empty(tally, documents)
    for path in document_files.document_paths(documents / document_files.DROPPED):
        if rows := document_files.read_document_file(path).to_pylist():
            target = out / document_files.DROPPED / f"extraction-{path.name}"
            document_files.write_dropped(target, rows, with_text=config.keep_dropped_text)
    summary = write_funnel(out, documents, tally)
    if not summary["validation_documents"] and config.validation_fraction:
        log.warn(
            f"No document is in the validation split ({summary['documents_out']} documents x "
            f"{config.validation_fraction:g}). Raise clean.validation_fraction or add documents."
        )
    shutil.rmtree(work)
    return summary


def _find_boilerplate(config: CleanConfig, found: list[Path], work: Path) -> Path:
    """Find the lines that documents of a site share; return the folder of their hashes."""
    folder, lines = work / "lines", work / "boilerplate_lines"
    tasks: list[Task] = [
        {"documents": str(path), "out": str(folder / f"{path.stem}.npy"), "min_words": config.site_line_words}
        for path in found
    ]
    run_missing("cleaning.boilerplate_lines:file_lines", tasks, config.workers, "hash lines")
    CorpusIndex([path.stem for path in found], [0] * (len(found) + 1)).save(folder)  # document numbers are not needed
    records = sum(path.stat().st_size for path in folder.glob("*.npy")) // RECORD_BYTES
    tasks = [
        {"folder": str(folder), "out": str(lines / span.name), "range": [span.number, span.count],
         "min_documents": config.site_line_documents}
        for span in ranges_of(records, config.max_memory_bytes, worker_count(config.workers))
    ]  # fmt: skip
    run_missing("cleaning.boilerplate_lines:range_lines", tasks, config.workers, "find boilerplate lines")
    return lines


def _filter(config: CleanConfig, found: list[Path], work: Path, lines: Path | None) -> None:
    """Filter each file of documents into `work/filtered`, with its hash records in `work/keys`."""
    index = _contamination_index(config, work)
    common = {"config": config.model_dump(), "index": str(index or ""), "lines": str(lines or "")}
    tasks = [
        {**common, "documents": str(path), "out": str(work / FILTERED / path.name),
         "keys": str(work / KEYS / f"{path.stem}.npy")}
        for path in found
    ]  # fmt: skip
    missing = [task for task in tasks if not Path(task["out"]).exists()]
    counts = {task["out"]: document_files.row_count(Path(task["documents"])) for task in tasks}
    with log.progress("filter documents", sum(counts.values())) as line:
        done = sum(counts.values()) - sum(counts[task["out"]] for task in missing)
        for answer in run_tasks("cleaning.document_filters:filter_file", missing, config.workers):
            done += answer["documents"]
            line.update(done)


def _contamination_index(config: DecontaminateConfig, work: Path) -> Path | None:
    """The folder of the index of evaluation data, built unless a killed run left it complete; None: nothing to find."""
    if not config.decontaminate:
        return None
    folder = work / "contamination"
    if not (folder / TASKS_FILE).exists():
        build_index(Path(config.decontaminate)).save(folder)
    return folder


def _write(config: CleanConfig, work: Path, out: Path, drop_codes: str) -> Tally:
    """Write all rows to the splits and the drops; return their counts."""
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
