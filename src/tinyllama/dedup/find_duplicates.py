"""The order of the search for duplicates: which steps, with which tasks, and what is known after each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinyllama import document_files
from tinyllama.dedup import hash_records
from tinyllama.dedup.components import EDGE_BYTES, components_in_rounds
from tinyllama.dedup.dedup_config import DedupConfig
from tinyllama.dedup.duplicate_tasks import DROP_REASONS, ID_HASHES, KEEP_ORDER, KEYS
from tinyllama.dedup.hash_records import CorpusIndex, HashRange
from tinyllama.files import atomic_file, write_json
from tinyllama.workers.worker_pool import Task, results, run_missing, worker_count

JUDGED, CLUSTERS, PARAGRAPHS = "judged", "clusters", "paragraphs"


def find_duplicates(config: DedupConfig, work: Path) -> str:
    """Everything that the files need: `work/clusters`, `work/paragraphs` and the last drop codes, whose name is returned.

    `work/judged` has all parts, `work/keys` their records.
    """
    index = CorpusIndex.of(work / JUDGED)
    index.save(work)
    _note_documents(work, index)
    drop_codes = "judged"
    drop_codes = _drop_copies(config, work, drop_codes, "duplicate_id", hash_records.ID)
    if config.exact_duplicates:
        drop_codes = _drop_copies(config, work, drop_codes, "exact_duplicate", hash_records.TEXT)
    if config.near_duplicates:
        _find_clusters(config, work, drop_codes)
        drop_codes = _drop_near_duplicates(config, work, drop_codes)
    if config.duplicate_paragraphs:
        spans = _spans(config, _most_paragraphs(work))
        tasks = _range_tasks(work, drop_codes, PARAGRAPHS, spans)
        run_missing("dedup.duplicate_tasks:paragraphs_task", tasks, config.workers, "find repeated paragraphs")
    return drop_codes


def _note_documents(work: Path, index: CorpusIndex) -> None:
    """Order, id hashes and first drop codes of all documents, from the filtered files, one file at a time."""
    paths = [work / name for name in (KEEP_ORDER, ID_HASHES, "drop_codes-judged.npy")]
    if all(path.exists() for path in paths):
        return
    columns = ("keep_order", "id_hash", "reason")
    for path, column in zip(paths, columns, strict=True):
        dtype = np.uint8 if column == "reason" else np.uint64
        with atomic_file(path) as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (index.documents,)}
            np.lib.format.write_array_header_1_0(file, header)
            for name in index.names:
                values = document_files.read_document_file(work / JUDGED / f"{name}.parquet", [column]).column(0)
                array = (
                    np.array([bool(reason) for reason in values.to_pylist()], np.uint8) if dtype == np.uint8 else None
                )
                file.write((values.to_numpy().astype(dtype) if array is None else array).tobytes())


def _most_paragraphs(work: Path) -> int:
    """No more than there are records."""
    return sum(path.stat().st_size for path in (work / KEYS).glob("*.npy")) // hash_records.RECORD_BYTES


def _spans(config: DedupConfig, records: int) -> list[HashRange]:
    return hash_records.ranges_of(records, config.max_memory_bytes, worker_count(config.workers))


def _range_tasks(work: Path, drop_codes: str, folder: str, spans: list[HashRange], **more: Any) -> list[Task]:
    common = {"work": str(work), "drop_codes": drop_codes, **more}
    return [{**common, "range": [span.part, span.parts], "out": str(work / folder / span.name)} for span in spans]


def _drop_copies(config: DedupConfig, work: Path, drop_codes: str, reason: str, kind: int) -> str:
    """A step that drops all but the best of each group of one kind of hash; returns the name of the new drop codes."""
    tasks = _range_tasks(work, drop_codes, reason, _spans(config, CorpusIndex.load(work).documents), kind=kind)
    run_missing("dedup.duplicate_tasks:copies_task", tasks, config.workers, f"find copies ({reason.replace('_', ' ')})")
    return _new_drop_codes(work, drop_codes, reason, lambda path: hash_records.read_array(path), work / reason)


def _new_drop_codes(
    work: Path, drop_codes: str, reason: str, losers_of: Callable[[Path], np.ndarray], folder: Path
) -> str:
    path = work / f"drop_codes-{reason}.npy"
    if not path.exists():
        now = np.array(hash_records.read_array(work / f"drop_codes-{drop_codes}.npy"))
        for losers in map(losers_of, sorted(folder.glob("*.npy"))):
            now[losers] = DROP_REASONS.index(reason)
        hash_records.write_array(path, now)
    return reason


def _drop_near_duplicates(config: DedupConfig, work: Path, drop_codes: str) -> str:
    def losers_of(path: Path) -> np.ndarray:
        rows = hash_records.read_array(path)
        return rows[rows[:, 0] != rows[:, 1], 0]

    if config.keep_near_duplicates:
        return drop_codes
    return _new_drop_codes(work, drop_codes, "near_duplicate", losers_of, work / CLUSTERS)


def _find_clusters(config: DedupConfig, work: Path, drop_codes: str) -> None:
    """Edges by range, their connected components, and the document of each that stays."""
    done = work / CLUSTERS / "done.json"
    if done.exists():
        return
    shutil.rmtree(work / CLUSTERS, ignore_errors=True)
    spans = _spans(config, CorpusIndex.load(work).documents)
    tasks = _range_tasks(work, drop_codes, "edges", spans, bands=config.minhash_bands)
    run_missing("dedup.duplicate_tasks:edges_task", tasks, config.workers, "find near-duplicates")
    paths = sorted((work / "edges").glob("*.npy"))
    edges = sum(len(hash_records.read_array(path)) for path in paths)
    if edges * EDGE_BYTES <= config.max_memory_bytes:
        found = work / "components.npy"
        task = {"inputs": [str(path) for path in paths], "out": str(found)}
        results("dedup.duplicate_tasks:memory_components_task", [task], config.workers)
        groups = [[found]]
    else:
        ranges = len(hash_records.ranges_of(4 * edges, config.max_memory_bytes, worker_count(config.workers)))
        shutil.rmtree(work / "rounds", ignore_errors=True)
        groups = components_in_rounds(paths, work / "rounds", ranges, config.workers)
    tasks = [
        {"work": str(work), "drop_codes": drop_codes, "inputs": [str(path) for path in group],
         "out": str(work / CLUSTERS / f"{number:05d}.npy")}
        for number, group in enumerate(groups)
    ]  # fmt: skip
    clusters = sum(
        answer["clusters"] for answer in results("dedup.duplicate_tasks:clusters_task", tasks, config.workers)
    )
    write_json(done, {"clusters": clusters, "edges": edges})
