"""One document's own merits: language, quality, safety, evaluation data, personal information; and the hashes by which
duplicates are found.

What is decided here needs no other document. The work is pure Python, so Daft runs it in processes, on a Ray cluster as
on one machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import daft
import numpy as np
import pyarrow as pa
from daft import DataType, Series, col

from tinyllama.clean import dedup
from tinyllama.clean import document_parts as parts
from tinyllama.clean.clean_config import CleanConfig
from tinyllama.clean.cores import worker_count
from tinyllama.clean.decontaminate import ContaminationIndex, clean_of_evaluation
from tinyllama.clean.language import LanguageDetector
from tinyllama.clean.pii import KINDS, mask_personal_information
from tinyllama.clean.quality import quality_reasons
from tinyllama.clean.safety import Probabilities, SafetyModel, open_safety_model, safe_text

HASHES = ("id_hash_0", "id_hash_1", "text_hash_0", "text_hash_1")
DOCUMENTS_WORTH_PROCESSES = 1000  # below, their start costs more than they save
_BATCH_ROWS = 64  # documents a process takes at a time: small enough that two processes share a small corpus

_VERDICT = {
    "text": DataType.string(),
    "language": DataType.string(),
    "language_confidence": DataType.float64(),
    "hate": DataType.float64(),
    "sexual": DataType.float64(),
    "reason": DataType.string(),
    "detail": DataType.string(),
    "tasks": DataType.string(),
    "unsafe_paragraphs": DataType.int64(),
    "contaminated_paragraphs": DataType.int64(),
    "text_chars": DataType.int64(),
    "raw_bytes": DataType.int64(),
    "bytes": DataType.int64(),
    **{f"masked_{kind}": DataType.int64() for kind in KINDS},
    **{name: DataType.uint64() for name in HASHES},
    "words": DataType.string(),
}


@dataclass(frozen=True)
class Instruments:
    """What judging needs beside the recipe; opened once a process. None: the step is off."""

    detector: LanguageDetector
    safety: SafetyModel | None = None
    contamination: ContaminationIndex | None = None

    @classmethod
    def open(cls, config: CleanConfig, index: Path | None) -> "Instruments":
        """`index`: where `ContaminationIndex.save` wrote it."""
        model = Path(config.safety_model) if config.safety_model else None
        return cls(
            LanguageDetector(config.language_chars),
            open_safety_model(model) if config.safety != "off" else None,
            ContaminationIndex.load(index) if index else None,
        )


def judge_documents(
    documents: list[tuple[str, str]], config: CleanConfig, instruments: Instruments
) -> list[dict[str, Any]]:
    """The fields of `_VERDICT` for each (id, text). A dropped one has a reason, and its text and words are empty.

    Documents are taken together: the rules of quality and the safety model are several times as fast so.
    """
    verdicts = [_first_look(text, config, instruments) for _, text in documents]
    texts = [text for _, text in documents]
    alive = [number for number, verdict in enumerate(verdicts) if not verdict["reason"]]
    judged = quality_reasons([texts[number] for number in alive], config)
    for number, (text, reason) in zip(alive, judged, strict=True):
        texts[number], verdicts[number]["reason"] = text, reason
    alive = [number for number in alive if not verdicts[number]["reason"]]
    if instruments.safety:
        scored = instruments.safety.probabilities_of([texts[number] for number in alive])
        for number, probabilities in zip(alive, scored, strict=True):
            texts[number] = _safety(texts[number], probabilities, config, verdicts[number])
    for (document_id, _), text, verdict in zip(documents, texts, verdicts, strict=True):
        if not verdict["reason"]:
            text = _contents(text, config, instruments, verdict)
        if not verdict["reason"]:
            _finish(document_id, text, config, verdict)
    return verdicts


def _first_look(text: str, config: CleanConfig, instruments: Instruments) -> dict[str, Any]:
    """A verdict with the document's language, and a reason when that or the length is not wanted."""
    language, confidence = instruments.detector.detect(text)
    reason, raw_bytes = language_reason(language, confidence, config), len(text.encode("utf-8"))
    if len(text) > config.max_document_chars:
        reason = "too_long"
    scores = {"language": language, "language_confidence": confidence, "hate": None, "sexual": None}
    counts = ("unsafe_paragraphs", "contaminated_paragraphs", "text_chars", "bytes", *HASHES)
    counts += tuple(f"masked_{kind}" for kind in KINDS)
    verdict = {"reason": reason, "detail": "", "tasks": "", "text": "", "words": "", "raw_bytes": raw_bytes}
    return verdict | scores | dict.fromkeys(counts, 0)


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


def _contents(text: str, config: CleanConfig, instruments: Instruments, verdict: dict[str, Any]) -> str:
    """The text without evaluation data and personal information; or a reason in its verdict."""
    if instruments.contamination:
        text, shared, paragraphs = clean_of_evaluation(text, instruments.contamination, config.decontaminate_drops)
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


def _finish(document_id: str, text: str, config: CleanConfig, verdict: dict[str, Any]) -> None:
    """What the search for duplicates needs of a document that stays."""
    verdict |= {"text": text, "text_chars": len(text), "bytes": len(text.encode("utf-8"))}
    hashes = (*dedup.hash_pair(document_id), *dedup.hash_pair(dedup.normalise_text(text)))
    verdict |= dict(zip(HASHES, hashes, strict=True))
    if config.near_duplicates:
        verdict["words"] = dedup.shingle_words(text)


def language_reason(language: str, confidence: float, config: CleanConfig) -> str:
    """`language_unknown` below the least confidence, `language_other` for one that is not asked for, else ""."""
    if not config.languages:
        return ""
    if confidence < config.min_language_confidence:
        return "language_unknown"
    return "" if language in config.languages else "language_other"


class _Judge:
    """`judge_documents` over batches, with one set of instruments a process."""

    def __init__(self, settings: dict[str, Any], index: str) -> None:
        self._config = CleanConfig(**settings)
        self._instruments = Instruments.open(self._config, Path(index) if index else None)

    @daft.method.batch(return_dtype=DataType.struct(_VERDICT), batch_size=_BATCH_ROWS)
    def judge(self, ids: Series, texts: Series) -> list[dict[str, Any]]:
        documents = list(zip(ids.to_pylist(), texts.to_pylist(), strict=True))
        return judge_documents(documents, self._config, self._instruments)


def judged_parts(paths: list[Path], config: CleanConfig, index: Path | None = None) -> Iterator[tuple[Path, pa.Table]]:
    """Each part with its verdicts, as soon as all its rows are there, rows in a fixed order; `index` of evaluation data.

    Columns: the document's, `_VERDICT` without `words`, and, for near-duplicates, `band_<n>` (uint64, null for a
    document without words). One Daft query streams all parts, so its processes start once.
    """
    if not paths:
        return
    frame = daft.read_parquet([str(path) for path in paths], file_path_column="part")
    expected = {str(path): parts.row_count(path) for path in paths}
    frame = _with_verdicts(frame, config, sum(expected.values()), str(index or ""))
    held: dict[str, list[pa.RecordBatch]] = {}
    for batch in frame.to_arrow_iter(results_buffer_size=8):
        table = pa.Table.from_batches([batch])
        names = np.array(table.column("part").to_pylist(), object)
        for name in dict.fromkeys(names):
            rows = table.filter(pa.array(names == name))
            held.setdefault(name, []).append(rows)
            if sum(map(len, held[name])) == expected[_plain(name)]:
                yield Path(_plain(name)), _tidy(pa.concat_tables(held.pop(name)), config)


def _with_verdicts(frame: daft.DataFrame, config: CleanConfig, documents: int, index: str) -> daft.DataFrame:
    workers = worker_count(config.workers)
    in_processes = workers > 1 and documents > DOCUMENTS_WORTH_PROCESSES
    judge = daft.cls(_Judge, use_process=in_processes, max_concurrency=workers)(config.model_dump(), index)
    verdict = judge.judge(col("id"), col("text"))
    frame = frame.select("part", "id", "source", "kind", "domain", "licence", "fetched_at", verdict.alias("verdict"))
    kept = ["part", "id", "source", "kind", "domain", "licence", "fetched_at"]
    frame = frame.select(*kept, *(col("verdict").get(name).alias(name) for name in _VERDICT))
    if not config.near_duplicates:
        return frame.exclude("words")
    signature = dedup.signature(col("words"), config.minhash_bands, config.minhash_rows, config.minhash_ngram_words)
    return frame.with_column("signature", signature).with_column("words_length", col("words").length()).exclude("words")


def _plain(name: str) -> str:
    return name.removeprefix("file://")


def _tidy(table: pa.Table, config: CleanConfig) -> pa.Table:
    """Band hashes in place of signatures; rows sorted by id and text."""
    if config.near_duplicates:
        hashes = dedup.band_hashes(dedup.signature_matrix(table.column("signature")), config.minhash_bands)
        no_words = table.column("words_length").to_numpy() == 0
        for band in range(config.minhash_bands):
            table = table.append_column(f"band_{band}", pa.array(hashes[:, band], mask=no_words))
        table = table.drop_columns(["signature", "words_length"])
    order = [
        ("id", "ascending"),
        ("text_hash_0", "ascending"),
        ("text_hash_1", "ascending"),
        ("raw_bytes", "ascending"),
    ]
    return table.drop_columns(["part"]).sort_by(order)
