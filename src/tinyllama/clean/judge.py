"""One document's own merits: language, quality, personal information, and the hashes by which duplicates are found.

What is decided here needs no other document. The work is pure Python, so Daft runs it in processes, on a Ray cluster as
on one machine.
"""

from collections.abc import Iterator
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
from tinyllama.clean.language import LanguageDetector
from tinyllama.clean.pii import mask_personal_information
from tinyllama.clean.quality import quality_reason

MASKED_KINDS = ("email", "phone", "ip")
HASHES = ("id_hash_0", "id_hash_1", "text_hash_0", "text_hash_1")
DOCUMENTS_WORTH_PROCESSES = 1000  # below, their start costs more than they save
_BATCH_ROWS = 64  # documents a process takes at a time: small enough that two processes share a small corpus

_VERDICT = {
    "text": DataType.string(),
    "language": DataType.string(),
    "language_confidence": DataType.float64(),
    "reason": DataType.string(),
    "text_chars": DataType.int64(),
    "raw_bytes": DataType.int64(),
    "bytes": DataType.int64(),
    **{f"masked_{kind}": DataType.int64() for kind in MASKED_KINDS},
    **{name: DataType.uint64() for name in HASHES},
    "words": DataType.string(),
}


def judge_document(document_id: str, text: str, config: CleanConfig, detector: LanguageDetector) -> dict[str, Any]:
    """The fields of `_VERDICT` for one document. A dropped one has a reason, and its text and words are empty."""
    language, confidence = detector.detect(text)
    verdict: dict[str, Any] = {
        "text": "",
        "language": language,
        "language_confidence": confidence,
        "text_chars": 0,
        "raw_bytes": len(text.encode("utf-8")),
        "bytes": 0,
        **dict.fromkeys((f"masked_{kind}" for kind in MASKED_KINDS), 0),
        **dict.fromkeys(HASHES, 0),
        "words": "",
    }
    reason = language_reason(language, confidence, config)
    if len(text) > config.max_document_chars:
        reason = "too_long"
    if not reason:
        text, reason = quality_reason(text, config)
    verdict["reason"] = reason
    if reason:
        return verdict
    masked = mask_personal_information(text, email=config.mask_email, phone=config.mask_phone, ip=config.mask_ip)
    verdict |= {"masked_email": masked.emails, "masked_phone": masked.phones, "masked_ip": masked.ips}
    verdict |= {"text": masked.text, "text_chars": len(masked.text), "bytes": len(masked.text.encode("utf-8"))}
    hashes = (*dedup.hash_pair(document_id), *dedup.hash_pair(dedup.normalise_text(masked.text)))
    verdict |= dict(zip(HASHES, hashes, strict=True))
    if config.near_duplicates:
        verdict["words"] = dedup.shingle_words(masked.text)
    return verdict


def language_reason(language: str, confidence: float, config: CleanConfig) -> str:
    """`language_unknown` below the least confidence, `language_other` for one that is not asked for, else ""."""
    if not config.languages:
        return ""
    if confidence < config.min_language_confidence:
        return "language_unknown"
    return "" if language in config.languages else "language_other"


class _Judge:
    """`judge_document` over batches, with one language model a process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._config = CleanConfig(**settings)
        self._detector = LanguageDetector(self._config.language_chars)

    @daft.method.batch(return_dtype=DataType.struct(_VERDICT), batch_size=_BATCH_ROWS)
    def judge(self, ids: Series, texts: Series) -> list[dict[str, Any]]:
        pairs = zip(ids.to_pylist(), texts.to_pylist(), strict=True)
        return [judge_document(document_id, text, self._config, self._detector) for document_id, text in pairs]


def judged_parts(paths: list[Path], config: CleanConfig) -> Iterator[tuple[Path, pa.Table]]:
    """Each part with its verdicts, as soon as all its rows are there, rows in a fixed order.

    Columns: the document's, `_VERDICT` without `words`, and, for near-duplicates, `band_<n>` (uint64, null for a
    document without words). One Daft query streams all parts, so its processes start once.
    """
    if not paths:
        return
    frame = daft.read_parquet([str(path) for path in paths], file_path_column="part")
    expected = {str(path): parts.row_count(path) for path in paths}
    frame = _with_verdicts(frame, config, sum(expected.values()))
    held: dict[str, list[pa.RecordBatch]] = {}
    for batch in frame.to_arrow_iter(results_buffer_size=8):
        table = pa.Table.from_batches([batch])
        names = np.array(table.column("part").to_pylist(), object)
        for name in dict.fromkeys(names):
            rows = table.filter(pa.array(names == name))
            held.setdefault(name, []).append(rows)
            if sum(map(len, held[name])) == expected[_plain(name)]:
                yield Path(_plain(name)), _tidy(pa.concat_tables(held.pop(name)), config)


def _with_verdicts(frame: daft.DataFrame, config: CleanConfig, documents: int) -> daft.DataFrame:
    workers = worker_count(config.workers)
    in_processes = workers > 1 and documents > DOCUMENTS_WORTH_PROCESSES
    judge = daft.cls(_Judge, use_process=in_processes, max_concurrency=workers)(config.model_dump())
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
