"""One document's own merits: language, quality, safety, evaluation data, personal information; and the hashes by which
duplicates are found.

What is decided here needs no other document but the lines that its site repeats. A task judges one part of documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama import document_files, log
from tinyllama.cleaning.boilerplate_lines import BoilerplateLines
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.decontaminate import ContaminationIndex, clean_of_evaluation
from tinyllama.cleaning.language import LanguageDetector
from tinyllama.cleaning.pii import KINDS, mask_personal_information
from tinyllama.cleaning.quality import quality_reasons
from tinyllama.cleaning.safety_model import Probabilities, SafetyModel, open_safety_model, safe_text
from tinyllama.dedup import duplicate_tasks, hash_records
from tinyllama.workers.worker_process import Progress

_BATCH_ROWS, _BATCH_CHARS = 64, 1_000_000  # documents that are judged together
_COPIED = ("id", "source", "kind", "domain", "licence", "fetched_at")
_COUNTS = ("unsafe_paragraphs", "contaminated_paragraphs", "site_lines", "text_chars", "raw_bytes", "bytes")

VERDICT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("text", "language", "reason", "detail", "tasks")),
        *((name, pa.float64()) for name in document_files.SCORES),
        *((name, pa.int64()) for name in (*_COUNTS, *(f"masked_{kind}" for kind in KINDS))),
    ]
)
JUDGED_SCHEMA = pa.schema([*((name, pa.string()) for name in _COPIED), *VERDICT_SCHEMA])


@dataclass(frozen=True)
class Document:
    """What judging looks at."""

    id: str
    text: str
    domain: str = ""


@dataclass(frozen=True)
class FilterModels:
    """What judging needs beside the recipe; opened once a process. None: the step is off."""

    detector: LanguageDetector
    safety: SafetyModel | None = None
    contamination: ContaminationIndex | None = None
    site_lines: BoilerplateLines | None = None

    @classmethod
    def open(cls, config: CleanConfig, index: Path | None = None, lines: Path | None = None) -> "FilterModels":
        """`index`: where `ContaminationIndex.save` wrote it; `lines`: the folder of `site_lines.range_lines`."""
        model = Path(config.safety_model) if config.safety_model else None
        return cls(
            LanguageDetector(config.language_chars),
            open_safety_model(model) if config.safety != "off" else None,
            ContaminationIndex.load(index) if index else None,
            BoilerplateLines(lines) if lines else None,
        )


def filter_documents(documents: Sequence[Document], config: CleanConfig, models: FilterModels) -> list[dict[str, Any]]:
    """The fields of `VERDICT_SCHEMA` for each document. A dropped one has a reason and no text, unless
    `keep_dropped_text`.

    Documents are taken together: the rules of quality and the safety model are several times as fast so.
    """
    texts = [document.text for document in documents]
    verdicts = [_blank(text) for text in texts]
    if models.site_lines:
        domains = [document.domain for document in documents]
        texts, counts = models.site_lines.removed(texts, domains, config.site_line_words)
        for verdict, count in zip(verdicts, counts, strict=True):
            verdict["site_lines"] = count
    for text, verdict in zip(texts, verdicts, strict=True):
        _first_look(text, config, models, verdict)
    alive = [number for number, verdict in enumerate(verdicts) if not verdict["reason"]]
    judged = quality_reasons([texts[number] for number in alive], config)
    for number, (text, reason) in zip(alive, judged, strict=True):
        texts[number], verdicts[number]["reason"] = text, reason
    alive = [number for number in alive if not verdicts[number]["reason"]]
    if models.safety:
        scored = models.safety.probabilities_of([texts[number] for number in alive])
        for number, probabilities in zip(alive, scored, strict=True):
            texts[number] = _safety(texts[number], probabilities, config, verdicts[number])
    for document, text, verdict in zip(documents, texts, verdicts, strict=True):
        if not verdict["reason"]:
            text = _contents(text, config, models, verdict)
        if not verdict["reason"]:
            verdict |= {"text": text, "text_chars": len(text), "bytes": len(text.encode("utf-8"))}
        elif config.keep_dropped_text:
            verdict["text"] = document.text
    return verdicts


def _blank(text: str) -> dict[str, Any]:
    verdict = dict.fromkeys(("text", "language", "reason", "detail", "tasks"), "")
    counts = dict.fromkeys((*_COUNTS, *(f"masked_{kind}" for kind in KINDS)), 0)
    return verdict | dict.fromkeys(document_files.SCORES) | counts | {"raw_bytes": len(text.encode("utf-8"))}


def _first_look(text: str, config: CleanConfig, models: FilterModels, verdict: dict[str, Any]) -> None:
    """Put the document's language into its verdict, and a reason when that or the length is not wanted."""
    language, confidence = models.detector.detect(text)
    reason = "too_long" if len(text) > config.max_document_chars else language_reason(language, confidence, config)
    verdict |= {"language": language, "language_confidence": confidence, "reason": reason}


def _safety(text: str, probabilities: Probabilities, config: CleanConfig, verdict: dict[str, Any]) -> str:
    """The text without offensive paragraphs; or a reason in its verdict."""
    safe = safe_text(
        text,
        probabilities,
        max_hate=config.max_hate,
        max_sexual=config.max_sexual,
        drops=config.safety,
        max_unsafe_chars=config.max_unsafe_chars,
    )
    verdict |= {"hate": safe.hate, "sexual": safe.sexual, "unsafe_paragraphs": safe.dropped_paragraphs}
    verdict |= {"reason": safe.reason, "detail": safe.detail}
    return safe.text


def _contents(text: str, config: CleanConfig, models: FilterModels, verdict: dict[str, Any]) -> str:
    """The text without evaluation data and personal information; or a reason in its verdict."""
    if models.contamination:
        text, shared, paragraphs = clean_of_evaluation(text, models.contamination, config.decontaminate_drops)
        verdict |= {"tasks": " ".join(shared), "contaminated_paragraphs": paragraphs}
        if shared and not text:
            detail = ", ".join(f"{task} {count}" for task, count in shared.items())
            verdict |= {"reason": "contaminated", "detail": detail}
            return text
    masked = mask_personal_information(text, config.personal_kinds())
    if masked.counts and config.personal_information == "drop":
        detail = ", ".join(f"{kind} {count}" for kind, count in masked.counts.items())
        verdict |= {"reason": "personal_information", "detail": detail}
        return text
    verdict |= {f"masked_{kind}": count for kind, count in masked.counts.items()}
    return masked.text


def language_reason(language: str, confidence: float, config: CleanConfig) -> str:
    """`language_unknown` below the least confidence, `language_other` for one that is not asked for, else ""."""
    if not config.languages:
        return ""
    if confidence < config.min_language_confidence:
        return "language_unknown"
    return "" if language in config.languages else "language_other"


def filter_file(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: the verdicts on one part, rows sorted by id and text, and the records by which duplicates are found.

    `config`; `documents`, `out`, `keys`: files; `index`, `lines`: see `FilterModels.open`, empty for none. `singly`:
    first rows of batches that killed a worker; `broken`: rows that did, and why.
    """
    config = CleanConfig(**task["config"])
    models = _models(config.model_dump_json(), task["index"], task["lines"])
    found = [JUDGED_SCHEMA.empty_table()]
    start = 0
    for batch in document_files.document_batches(
        Path(task["documents"]), [*_COPIED, "text"], _BATCH_ROWS, _BATCH_CHARS
    ):
        rows = batch.select(["id", "text", "domain"]).to_pylist()
        documents = [Document(row["id"], row["text"], row["domain"]) for row in rows]
        verdicts = _filtered_safely(documents, start, config, models, task, progress)
        judged = pa.Table.from_pylist(verdicts, VERDICT_SCHEMA)
        found.append(pa.table([*(batch.column(name) for name in _COPIED), *judged.columns], JUDGED_SCHEMA))
        start += len(documents)
    progress.past()
    order = [(name, "ascending") for name in ("id", "text", "reason", "raw_bytes", "source")]
    table, records = duplicate_tasks.with_keys(pa.concat_tables(found).sort_by(order), config)
    hash_records.write_records(Path(task["keys"]), records)
    document_files.write_document_file(Path(task["out"]), table)
    return {"documents": len(table)}


@lru_cache(maxsize=1)
def _models(config: str, index: str, lines: str) -> FilterModels:
    chosen = CleanConfig.model_validate_json(config)
    return FilterModels.open(chosen, Path(index) if index else None, Path(lines) if lines else None)


def _filtered_safely(
    documents: list[Document],
    start: int,
    config: CleanConfig,
    models: FilterModels,
    task: dict[str, Any],
    progress: Progress,
) -> list[dict[str, Any]]:
    """`filter_documents`; a document that fails, or has killed a worker, gets a reason and does not touch the others."""
    if start not in task.get("singly", []):
        progress.at(start, singly=False, cpu_seconds=config.document_cpu_seconds)
        try:
            return filter_documents(documents, config, models)
        except Exception as error:
            log.warn(
                f"{task['documents']}: a document from row {start} on fails ({error!r}); they are taken one by one"
            )
    verdicts = []
    for row, document in enumerate(documents, start):
        verdict = _blank(document.text) | {"reason": task.get("broken", {}).get(str(row), "")}
        if not verdict["reason"]:
            progress.at(row, singly=True, cpu_seconds=config.document_cpu_seconds)
            try:
                verdict = filter_documents([document], config, models)[0]
            except Exception as error:
                verdict |= {"reason": "step_failed", "detail": " ".join(repr(error).split())[:200]}
        verdicts.append(verdict)
    return verdicts
