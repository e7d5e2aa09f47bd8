"""Runs the deduplication tasks in order and collects their results."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tinyllama import document_files
from tinyllama.dedup import hash_records
from tinyllama.dedup.components import EDGE_BYTES, components_in_rounds
from tinyllama.dedup.dedup_config import DedupConfig
from tinyllama.dedup.duplicate_tasks import CLUSTERS, DROP_REASONS, FILTERED, ID_HASHES, KEEP_ORDER, KEYS, PARAGRAPHS
from tinyllama.dedup.hash_records import CorpusIndex
from tinyllama.files import atomic_file, write_json
from tinyllama.workers.worker_pool import Task, results, run_missing, worker_count


def find_duplicates(config: DedupConfig, work: Path) -> str:
    """Write `work/clusters`, `work/paragraphs` and the drop codes; return the name of the last drop codes.

    Reads the filtered documents in `work/filtered` and their hash records in `work/keys`.
    """
    index = CorpusIndex.of(work / FILTERED)
    index.save(work)
    _write_document_arrays(work, index)
    drop_codes = _drop_copies(config, work, FILTERED, "duplicate_id", hash_records.ID)
    if config.exact_duplicates:
        drop_codes = _drop_copies(config, work, drop_codes, "exact_duplicate", hash_records.TEXT)
    if config.near_duplicates:
        _find_clusters(config, work, drop_codes)
        if not config.keep_near_duplicates:
            drop_codes = _add_drop_codes(work, drop_codes, "near_duplicate", work / CLUSTERS)
    if config.duplicate_paragraphs:
        all_records = sum(path.stat().st_size for path in (work / KEYS).glob("*.npy")) // hash_records.RECORD_BYTES
        tasks = _range_tasks(config, work, drop_codes, PARAGRAPHS, all_records)
        run_missing("dedup.duplicate_tasks:paragraphs_task", tasks, config.workers, "find repeated paragraphs")
    return drop_codes


def _write_document_arrays(work: Path, index: CorpusIndex) -> None:
    """Write the keep order, id hashes and first drop codes of all documents, reading one filtered file at a time."""
    paths = [work / name for name in (KEEP_ORDER, ID_HASHES, f"drop_codes-{FILTERED}.npy")]
    if all(path.exists() for path in paths):
        return
    for path, column in zip(paths, ("keep_order", "id_hash", "reason"), strict=True):
        dtype = np.dtype(np.uint8 if column == "reason" else np.uint64)
        with atomic_file(path) as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": (index.documents,)}
            np.lib.format.write_array_header_1_0(file, header)
            for name in index.names:
                values = document_files.read_document_file(work / FILTERED / f"{name}.parquet", [column]).column(0)
                numbers = [bool(reason) for reason in values.to_pylist()] if column == "reason" else values.to_numpy()
                file.write(np.asarray(numbers, dtype).tobytes())


def _range_tasks(
    config: DedupConfig, work: Path, drop_codes: str, folder: str, records: int, **more: Any
) -> list[Task]:
    """One task for each hash range of so many records."""
    return [
        {"work": str(work), "drop_codes": drop_codes, "range": [span.number, span.count],
         "out": str(work / folder / span.name), **more}
        for span in hash_records.ranges_of(records, config.max_memory_bytes, worker_count(config.workers))
    ]  # fmt: skip


def _drop_copies(config: DedupConfig, work: Path, drop_codes: str, reason: str, kind: int) -> str:
    """Drop all but the best document of each group with one hash of this kind; return the new drop codes' name."""
    tasks = _range_tasks(config, work, drop_codes, reason, CorpusIndex.load(work).documents, kind=kind)
    run_missing("dedup.duplicate_tasks:copies_task", tasks, config.workers, f"find copies ({reason.replace('_', ' ')})")
    return _add_drop_codes(work, drop_codes, reason, work / reason)


def _add_drop_codes(work: Path, drop_codes: str, reason: str, folder: Path) -> str:
    """Write new drop codes, with `reason` for the documents that the arrays in `folder` name; return their name."""
    path = work / f"drop_codes-{reason}.npy"
    if not path.exists():
        codes = np.array(hash_records.read_array(work / f"drop_codes-{drop_codes}.npy"))
        for found in map(hash_records.read_array, sorted(folder.glob("*.npy"))):
            # an array of clusters has (document, kept document, size)
            dropped = found if found.ndim == 1 else found[found[:, 0] != found[:, 1], 0]
            codes[dropped] = DROP_REASONS.index(reason)
        hash_records.write_array(path, codes)
    return reason


def _find_clusters(config: DedupConfig, work: Path, drop_codes: str) -> None:
    """Find pairs of near-duplicates by range, their connected components, and the kept document of each."""
    done = work / CLUSTERS / "done.json"
    if done.exists():
        return
    shutil.rmtree(work / CLUSTERS, ignore_errors=True)
    documents = CorpusIndex.load(work).documents
    tasks = _range_tasks(config, work, drop_codes, "edges", documents, bands=config.minhash_bands)
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
    answers = results("dedup.duplicate_tasks:clusters_task", tasks, config.workers)
    write_json(done, {"clusters": sum(answer["clusters"] for answer in answers), "edges": edges})
