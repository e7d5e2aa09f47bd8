"""Filters of one document: boilerplate lines, language, quality, safety, evaluation data, personal information.

A task filters one file of documents and writes the hashes by which duplicates are found later.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama import document_files, log
from tinyllama.cleaning.boilerplate_lines import BoilerplateLines
from tinyllama.cleaning.clean_config import CleanConfig, FilterConfig, LanguageConfig
from tinyllama.cleaning.decontaminate import ContaminationIndex, remove_evaluation_data
from tinyllama.cleaning.language import LanguageDetector
from tinyllama.cleaning.pii import KINDS, mask_personal_information
from tinyllama.cleaning.quality import quality_reasons
from tinyllama.cleaning.safety_model import SafetyModel, open_safety_model, remove_unsafe
from tinyllama.dedup import duplicate_tasks, hash_records
from tinyllama.workers.worker_process import Progress

_BATCH_ROWS, _BATCH_CHARS = 64, 1_000_000
_COPIED = ("id", "source", "kind", "domain", "licence", "fetched_at")
_COUNTS = ("unsafe_paragraphs", "contaminated_paragraphs", "site_lines", "text_chars", "raw_bytes", "bytes")

RESULT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("text", "language", "reason", "detail", "tasks")),
        *((name, pa.float64()) for name in document_files.SCORES),
        *((name, pa.int64()) for name in (*_COUNTS, *(f"masked_{kind}" for kind in KINDS))),
    ]
)
FILTERED_SCHEMA = pa.schema([*((name, pa.string()) for name in _COPIED), *RESULT_SCHEMA])


@dataclass(frozen=True)
class FilterModels:
    """Models and indexes of the filters, loaded once per process. None: the filter is off."""

    detector: LanguageDetector
    safety: SafetyModel | None = None
    contamination: ContaminationIndex | None = None
    boilerplate: BoilerplateLines | None = None

    @classmethod
    def open(cls, config: FilterConfig, index: str = "", lines: str = "") -> "FilterModels":
        """`index`, `lines`: folders of `ContaminationIndex.save` and of `boilerplate_lines.range_lines`; empty: none."""
        return cls(
            LanguageDetector(config.language_chars),
            open_safety_model(config.safety_model) if config.safety != "off" else None,
            ContaminationIndex.load(Path(index)) if index else None,
            BoilerplateLines(Path(lines)) if lines else None,
        )


def filter_documents(
    texts: list[str], domains: list[str], config: FilterConfig, models: FilterModels
) -> list[dict[str, Any]]:
    """Apply the filters to a batch and return the fields of `RESULT_SCHEMA` for each document.

    A dropped document has a reason, and no text unless `keep_dropped_text`. The quality rules and the safety model are
    several times faster on a batch than on one document.
    """
    rows = [_new_row(text) for text in texts]
    if models.boilerplate:
        edited, counts = models.boilerplate.removed(texts, domains, config.site_line_words)
        for row, text, count in zip(rows, edited, counts, strict=True):
            row |= {"text": text, "site_lines": count}
    for row in rows:
        language, confidence = models.detector.detect(row["text"])
        is_long = len(row["text"]) > config.max_document_chars
        reason = "too_long" if is_long else language_reason(language, confidence, config)
        row |= {"language": language, "language_confidence": confidence, "reason": reason}
    kept, kept_texts = _kept(rows)
    for row, (text, reason) in zip(kept, quality_reasons(kept_texts, config), strict=True):
        row |= {"text": text, "reason": reason}
    kept, kept_texts = _kept(rows)
    if models.safety:
        for row, probabilities in zip(kept, models.safety.probabilities_of(kept_texts), strict=True):
            row |= asdict(remove_unsafe(row["text"], probabilities, config))
    for row in _kept(rows)[0]:
        _filter_content(row, config, models)
    for row, original in zip(rows, texts, strict=True):
        if row["reason"]:
            row["text"] = original if config.keep_dropped_text else ""
        else:
            text = row["text"]
            row |= {"text_chars": len(text), "bytes": len(text.encode("utf-8"))}
    return rows


def _new_row(text: str) -> dict[str, Any]:
    row = dict.fromkeys(RESULT_SCHEMA.names, 0) | dict.fromkeys(("language", "reason", "detail", "tasks"), "")
    return row | dict.fromkeys(document_files.SCORES) | {"text": text, "raw_bytes": len(text.encode("utf-8"))}


def _kept(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows without a reason so far, and their texts."""
    kept = [row for row in rows if not row["reason"]]
    return kept, [row["text"] for row in kept]


def _filter_content(row: dict[str, Any], config: FilterConfig, models: FilterModels) -> None:
    """Remove evaluation data and mask personal information, or set the row's reason."""
    if models.contamination:
        text, shared, paragraphs = remove_evaluation_data(row["text"], models.contamination, config.decontaminate_drops)
        row |= {"text": text, "tasks": " ".join(shared), "contaminated_paragraphs": paragraphs}
        if shared and not text:
            row |= {"reason": "contaminated", "detail": _listed(shared)}
            return
    masked = mask_personal_information(row["text"], config.personal_kinds())
    if masked.counts and config.personal_information == "drop":
        row |= {"reason": "personal_information", "detail": _listed(masked.counts)}
        return
    row |= {"text": masked.text, **{f"masked_{kind}": count for kind, count in masked.counts.items()}}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def language_reason(language: str, confidence: float, config: LanguageConfig) -> str:
    """`language_unknown` below the minimum confidence, `language_other` for an unwanted language, else ""."""
    if not config.languages:
        return ""
    if confidence < config.min_language_confidence:
        return "language_unknown"
    return "" if language in config.languages else "language_other"


def filter_file(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: filter one file of documents. Writes rows sorted by id and text, and their hash records.

    `config`; `documents`, `out`, `keys`: files; `index`, `lines`: see `FilterModels.open`. `singly`: first rows of
    batches that ended a worker; `broken`: reasons of rows that ended one.
    """
    config = CleanConfig(**task["config"])
    models = _models(config.model_dump_json(), task["index"], task["lines"])
    found = [FILTERED_SCHEMA.empty_table()]
    start = 0
    columns = [*_COPIED, "text"]
    for batch in document_files.document_batches(Path(task["documents"]), columns, _BATCH_ROWS, _BATCH_CHARS):
        rows = _filter_batch(batch, start, config, models, task, progress)
        results = pa.Table.from_pylist(rows, RESULT_SCHEMA)
        found.append(pa.table([*(batch.column(name) for name in _COPIED), *results.columns], FILTERED_SCHEMA))
        start += len(rows)
    progress.past()
    order = [(name, "ascending") for name in ("id", "text", "reason", "raw_bytes", "source")]
    table, records = duplicate_tasks.with_keys(pa.concat_tables(found).sort_by(order), config)
    hash_records.write_records(Path(task["keys"]), records)
    document_files.write_document_file(Path(task["out"]), table)
    return {"documents": len(table)}


@lru_cache(maxsize=1)
def _models(config: str, index: str, lines: str) -> FilterModels:
    return FilterModels.open(CleanConfig.model_validate_json(config), index, lines)


def _filter_batch(
    batch: pa.Table,
    start: int,
    config: FilterConfig,
    models: FilterModels,
    task: dict[str, Any],
    progress: Progress,
) -> list[dict[str, Any]]:
    """`filter_documents`; a document that raises an error, or ended a worker before, only gets a reason itself."""
    texts, domains = batch.column("text").to_pylist(), batch.column("domain").to_pylist()
    if start not in task.get("singly", []):
        progress.at(start, singly=False, cpu_seconds=config.document_cpu_seconds)
        try:
            return filter_documents(texts, domains, config, models)
        except Exception as error:
            log.warn(
                f"{task['documents']}: a document at row {start} or later failed ({error!r}); "
                "filtering its batch one by one"
            )
    rows = []
    for number, (text, domain) in enumerate(zip(texts, domains, strict=True), start):
        row = _new_row(text) | {"text": "", "reason": task.get("broken", {}).get(str(number), "")}
        if not row["reason"]:
            progress.at(number, singly=True, cpu_seconds=config.document_cpu_seconds)
            try:
                row = filter_documents([text], [domain], config, models)[0]
            except Exception as error:
                row |= {"reason": "step_failed", "detail": " ".join(repr(error).split())[:200]}
        rows.append(row)
    return rows
