"""Cleaning's second part: documents into training documents, every drop with its reason.

    clean/train/*.parquet  clean/validation/*.parquet    the documents that stay, with their scores
    clean/dropped/*.parquet                              id, reason and detail of all others, those of extraction too
    clean/funnel.json                                    documents and bytes through each step

Three passes: each document by its own merits (`judge.py`), duplicates over all documents, then the files. The first
pass's parts are kept in `clean/work` until the end: a killed run goes on with them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinyllama import log
from tinyllama.clean import dedup
from tinyllama.clean import document_parts as parts
from tinyllama.clean.clean_config import CleanConfig
from tinyllama.clean.decontaminate import TASKS_FILE, build_index
from tinyllama.clean.funnel import Tally, write_funnel
from tinyllama.clean.judge import HASHES, judged_parts
from tinyllama.clean.safety import open_safety_model
from tinyllama.clean.split import is_validation
from tinyllama.errors import InputError
from tinyllama.files import sweep_temporary


@dataclass(frozen=True)
class _Corpus:
    """What the search for duplicates needs of all documents, rows in the order of the judged parts."""

    paths: list[Path]
    reasons: NDArray[np.object_]
    chars: NDArray[np.int64]
    hashes: dict[str, NDArray[np.uint64]]


def clean_documents(config: CleanConfig, documents: Path, out: Path) -> dict[str, Any]:
    """Apply every rule that is on to `documents/*.parquet`; write the splits, the drops and the funnel to `out`.

    Returns documents_in, documents_out, train_documents, validation_documents, text_bytes_in, text_bytes_out, dropped
    (reason: count), masked (kind: count), unsafe_paragraphs and contaminated_paragraphs (taken out of what stays),
    contaminated (task: documents). documents_in is always documents_out and all drops together.
    Raises InputError when there is no document, or when none stays.
    """
    found = parts.part_paths(documents)
    if not found:
        raise InputError(f"{documents}: no documents (*.parquet); extract some first")
    work = out / parts.WORK
    if config.safety != "off":  # a bad model is one line here, not a traceback from a process
        open_safety_model(Path(config.safety_model) if config.safety_model else None)
    with parts.removed_on_bad_input(out):
        _judge(config, found, work)
        corpus = _load(work)
        _mark_duplicates(config, corpus)
        _refuse_empty(corpus, documents)
    tally = Tally()
    with log.progress("write clean documents", len(corpus.paths)) as line:
        start = 0
        for done, path in enumerate(corpus.paths, 1):
            start += _write_part(config, path, corpus.reasons, start, out, tally)
            line.update(done)
    _copy_extraction_drops(documents, out)
    summary = write_funnel(out, documents, tally)
    if not summary["validation_documents"] and config.validation_fraction:
        log.warn(
            "the validation split is empty: the corpus is small; more documents or clean.validation_fraction mend it"
        )
    shutil.rmtree(work)
    return summary


def _judge(config: CleanConfig, found: list[Path], work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    sweep_temporary(work)
    index = _contamination_index(config, work)
    missing = [path for path in found if not (work / path.name).exists()]
    with log.progress("judge documents", sum(map(parts.row_count, found))) as line:
        done = sum(parts.row_count(path) for path in found if path not in missing)
        # parts without a row never come out of the query
        for path in [path for path in missing if not parts.row_count(path)]:
            missing.remove(path)
        for path, table in judged_parts(missing, config, index):
            parts.write_part(work / path.name, table)
            done += len(table)
            line.update(done)


def _contamination_index(config: CleanConfig, work: Path) -> Path | None:
    """Where the index of evaluation data is, built unless a killed run has left it; None when there is none to be."""
    if not config.decontaminate:
        return None
    folder = work / "contamination"
    if not (folder / TASKS_FILE).exists():
        build_index(Path(config.decontaminate)).save(folder)
    return folder


def _load(work: Path) -> _Corpus:
    paths = parts.part_paths(work)
    table = pa.concat_tables([parts.read_part(path, ["reason", "text_chars", *HASHES]) for path in paths])
    return _Corpus(
        paths=paths,
        reasons=np.array(table.column("reason").to_pylist(), object),
        chars=table.column("text_chars").to_numpy(),
        hashes={name: table.column(name).to_numpy() for name in HASHES},
    )


def _mark_duplicates(config: CleanConfig, corpus: _Corpus) -> None:
    """Give `duplicate_id`, `exact_duplicate`, `near_duplicate` to the documents that go, in that order.

    Of a group the longest text stays; among equally long ones that with the least hash of its id, then of its text.
    """
    ids = [corpus.hashes["id_hash_0"], corpus.hashes["id_hash_1"]]
    texts = [corpus.hashes["text_hash_0"], corpus.hashes["text_hash_1"]]
    _drop_all_but_best(corpus, ids, "duplicate_id")
    if config.exact_duplicates:
        _drop_all_but_best(corpus, texts, "exact_duplicate")
    if config.near_duplicates:
        _drop_all_but_best(corpus, [_near_duplicate_labels(config, corpus)], "near_duplicate")


def _drop_all_but_best(corpus: _Corpus, groups: list[NDArray], reason: str) -> None:
    alive = np.flatnonzero(corpus.reasons == "")
    ties = [corpus.hashes[name][alive] for name in HASHES]
    best = dedup.best_of_groups([keys[alive] for keys in groups], corpus.chars[alive], ties)
    corpus.reasons[alive[~best]] = reason


def _near_duplicate_labels(config: CleanConfig, corpus: _Corpus) -> NDArray[np.int64]:
    """The near-duplicate cluster of each document that is still there; all others, and wordless ones, are alone."""

    def band_column(name: str) -> pa.ChunkedArray:
        return pa.chunked_array(
            [chunk for path in corpus.paths for chunk in parts.read_part(path, [name]).column(0).chunks]
        )

    has_words = ~band_column("band_0").is_null().to_numpy()
    members = np.flatnonzero((corpus.reasons == "") & has_words)
    with log.progress("find near-duplicates", config.minhash_bands) as line:

        def bands() -> Any:
            for band in range(config.minhash_bands):
                yield band_column(f"band_{band}").take(members).to_numpy()
                line.update(band + 1)

        clusters = dedup.cluster_labels(bands(), members.size)
    labels = np.arange(corpus.reasons.size, dtype=np.int64)
    labels[members] = clusters + corpus.reasons.size
    return labels


def _refuse_empty(corpus: _Corpus, documents: Path) -> None:
    if (corpus.reasons == "").any():
        return
    reasons, counts = np.unique(corpus.reasons.astype(str), return_counts=True)
    biggest = int(counts.argmax())
    reason = str(reasons[biggest])
    raise InputError(
        f"{documents}: all {corpus.reasons.size} documents were dropped, {counts[biggest]} of them as {reason}; "
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
}


def _write_part(
    config: CleanConfig, path: Path, reasons: NDArray[np.object_], start: int, out: Path, tally: Tally
) -> int:
    """Write one judged part's rows to the splits and the drops; returns how many rows it has."""
    table = parts.read_part(path)
    table = table.set_column(
        table.schema.get_field_index("reason"), "reason", [reasons[start : start + len(table)].tolist()]
    )
    in_validation = [is_validation(identity, config.validation_fraction) for identity in table.column("id").to_pylist()]
    tally.add(table, in_validation)
    kept, validation = reasons[start : start + len(table)] == "", np.array(in_validation, bool)
    for split, chosen in (("train", kept & ~validation), ("validation", kept & validation)):
        if chosen.any():
            rows = table.filter(pa.array(chosen)).select(parts.CLEAN_SCHEMA.names)
            parts.write_part(out / split / path.name, rows.cast(parts.CLEAN_SCHEMA))
    if not kept.all():
        parts.write_dropped(
            out / parts.DROPPED / path.name,
            table.filter(pa.array(~kept)).select(["id", "reason", "detail"]).to_pylist(),
        )
    return len(table)


def _copy_extraction_drops(documents: Path, out: Path) -> None:
    """The drops of extraction belong to a document's fate too."""
    for path in parts.part_paths(documents / parts.DROPPED):
        rows = parts.read_part(path)
        if len(rows):
            parts.write_dropped(out / parts.DROPPED / f"extraction-{path.name}", rows.to_pylist())
