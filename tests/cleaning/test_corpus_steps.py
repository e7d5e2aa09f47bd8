"""Steps over a corpus, each task on files made by hand: copies, clusters, paragraphs, drop codes, ranges, last files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.cleaning.cleaning_here import NoLimits, in_this_process, rows_in
from tinyllama import document_files
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.document_filters import FILTERED_SCHEMA
from tinyllama.cleaning.write_documents import write_task
from tinyllama.dedup import duplicate_tasks, find_duplicates, hash_records
from tinyllama.dedup.duplicate_tasks import keep_order, rows_of, with_keys
from tinyllama.dedup.hash_records import (
    BAND,
    ID,
    PARAGRAPH,
    TEXT,
    CorpusIndex,
    HashRange,
    group_starts,
    ranges_of,
    records_of,
)
from tinyllama.dedup.minhash import hash_pair
from tinyllama.document_files import paragraphs_in
from tinyllama.files import read_json

HERE: Any = NoLimits()


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


# -- ranges of hashes


def test_a_records_key_is_its_kind_and_the_first_52_bits() -> None:
    records = records_of(3, numbers((7 << 12) + 5, 2**64 - 1), numbers(1, 2), np.array([4, 5]), np.array([6, 7]))
    assert records["key"].tolist() == [(3 << 52) + 7, (4 << 52) - 1]
    assert records["check"].tolist() == [1, 2]
    assert (records["row"].tolist(), records["paragraph"].tolist()) == ([4, 5], [6, 7])
    assert records.itemsize == hash_records.RECORD_BYTES == 24


def test_ranges_tile_a_kind() -> None:
    bounds = [HashRange(part, 3).bounds(2).tolist() for part in range(3)]
    assert bounds[0][0] == 2 << 52
    assert bounds[2][1] == 3 << 52
    assert [one[1] for one in bounds[:2]] == [one[0] for one in bounds[1:]]
    assert bounds[0][1] - bounds[0][0] == 2**52 // 3
    assert HashRange(4, 17).name == "00004-of-00017.npy"


@pytest.mark.parametrize(
    ("records", "memory", "workers", "count"),
    [
        (0, 1 << 30, 2, 1), (10, 1200, 1, 1), (11, 1200, 1, 2), (20, 1200, 1, 2), (21, 1200, 1, 3), (10, 1200, 2, 2),
        (10, 2400, 2, 1), (1_000_000, 1 << 40, 4, 1), (1_000_001, 1 << 40, 4, 4), (2, 1, 5, 240),
    ],
)  # fmt: skip
def test_ranges_fit_into_a_workers_share_of_the_memory(records: int, memory: int, workers: int, count: int) -> None:
    """A record needs 120 bytes while it is worked on; a million records are worth more than one worker."""
    assert ranges_of(records, memory, workers) == [HashRange(part, count) for part in range(count)]


def test_a_group_has_one_key_and_one_check() -> None:
    records = records_of(1, numbers(5 << 12, 1 << 12, 1 << 12, 5 << 12, 1 << 12), numbers(1, 2, 3, 1, 2), np.arange(5))
    order = np.array([1, 4, 2, 0, 3])
    assert group_starts(records, order).tolist() == [True, False, True, True, False]
    assert group_starts(records[:0], order[:0]).tolist() == []


def test_a_range_reads_all_parts_with_the_documents_numbers(tmp_path: Path) -> None:
    layout = CorpusIndex(["a", "b"], [0, 10, 30])
    assert layout.documents == 30
    for name, rows in (("a", [1, 2]), ("b", [0, 3])):
        keys = numbers(*(row << 60 for row in rows))
        both = [records_of(kind, keys, keys + numbers(kind), np.array(rows)) for kind in (2, 1)]
        hash_records.write_records(tmp_path / f"{name}.npy", both)
    records, found = HashRange(0, 1).read(tmp_path, layout, 1)
    assert found.tolist() == [1, 2, 10, 13]
    assert set(records["check"].tolist()) == {(row << 60) + 1 for row in (1, 2, 0, 3)}
    assert HashRange(0, 8).read(tmp_path, layout, 1)[1].tolist() == [1, 10]
    assert HashRange(1, 8).read(tmp_path, layout, 2)[1].tolist() == [2, 13]
    assert HashRange(2, 8).read(tmp_path, layout, 2)[1].tolist() == []


# -- records and the order in which documents stay


def test_ranks_put_the_longest_first_and_ties_by_hash() -> None:
    chars = np.array([5, 6, 1 << 24, (1 << 24) - 1, 1 << 30, 5])
    positions = keep_order(chars, numbers(1, 1, 1, 1, 1, 2), numbers(3, 3, 3, 3, 3, 3)).tolist()
    assert positions[2] == positions[3] == positions[4] < positions[1] < min(positions[0], positions[5])
    assert positions[0] != positions[5]
    assert positions[0] >> 40 == (1 << 24) - 1 - 5
    other = keep_order(chars[:1], numbers(1), numbers(4))
    assert other[0] != positions[0]
    assert other[0] >> np.uint64(40) == positions[0] >> 40


def filtered(rows: list[dict[str, Any]]) -> pa.Table:
    """A filtered file; missing values are empty."""
    blank = {field.name: "" if field.type == pa.string() else 0 for field in FILTERED_SCHEMA}
    filled = [
        blank | {"text_chars": len(row["text"]), "bytes": len(row["text"].encode()), "raw_bytes": 1000} | row
        for row in rows
    ]
    return pa.Table.from_pylist(filled, FILTERED_SCHEMA)


def test_only_documents_without_a_reason_have_records() -> None:
    rows = [
        {"id": "a", "text": "x" * 12 + "\n\nshort"}, {"id": "b", "text": "", "reason": "gopher_short"},
        {"id": "a", "text": "X" * 12 + "\n\n" + "y" * 11 + "\n\n" + "z" * 13},
    ]  # fmt: skip
    config = CleanConfig(min_paragraph_chars=12, minhash_bands=3, minhash_rows=2)
    table, records = with_keys(filtered(rows), config)
    joined = np.concatenate(records)
    kinds = (joined["key"] >> np.uint64(52)).tolist()
    assert kinds == [ID, ID, TEXT, TEXT] + [band for band in (16, 17, 18) for _ in range(2)] + [PARAGRAPH] * 3
    assert joined["row"].tolist() == [0, 2, 0, 2] + [0, 2] * 3 + [0, 2, 2]
    assert joined["paragraph"].tolist() == [0] * 10 + [0, 0, 2]
    assert joined["check"][:2].tolist() == [hash_pair("a")[1]] * 2
    assert joined["check"][10] == joined["check"][11] == hash_pair("x" * 12)[1]
    assert table.column("id_hash").to_pylist() == [hash_pair(name)[0] for name in "aba"]
    positions = table.column("keep_order").to_pylist()
    assert positions[1] == 0
    assert positions[2] < positions[0]
    off = CleanConfig(near_duplicates=False, duplicate_paragraphs=False)
    assert len(np.concatenate(with_keys(filtered(rows), off)[1])) == 4


# -- tasks


def corpus(work: Path, positions: list[int], drop_codes: list[int], records: list[np.ndarray]) -> dict[str, Any]:
    """Two parts of equal size; `records` are those of documents by their numbers."""
    half = len(positions) // 2
    CorpusIndex(["a", "b"], [0, half, len(positions)]).save(work)
    hash_records.write_array(work / "keep_order.npy", np.array(positions, np.uint64))
    hash_records.write_array(work / "drop_codes-filtered.npy", np.array(drop_codes, np.uint8))
    joined = np.concatenate(records)
    for name, first in (("a", 0), ("b", half)):
        chosen = joined[(joined["row"] >= first) & (joined["row"] < first + half)].copy()
        chosen["row"] -= first
        hash_records.write_records(work / "keys" / f"{name}.npy", [chosen])
    return {"work": str(work), "drop_codes": "filtered", "range": [0, 1], "out": str(work / "out.npy")}


def out_of(task: dict[str, Any]) -> list[Any]:
    return hash_records.read_array(Path(task["out"])).tolist()


def test_of_equal_documents_the_best_that_is_still_there_stays(tmp_path: Path) -> None:
    """Documents 0, 1, 3, 5 are equal and so are 2, 4; 3 would be best but is gone."""
    hashes = numbers(9, 9, 7, 9, 7, 9) << np.uint64(20)
    records = records_of(TEXT, hashes, hashes, np.arange(6))
    task = corpus(tmp_path, [5, 2, 8, 1, 9, 3], [0, 0, 0, 2, 0, 0], [records])
    assert duplicate_tasks.copies_task({**task, "kind": TEXT}, HERE) == {"copies": 3}
    assert out_of(task) == [0, 4, 5]
    assert duplicate_tasks.copies_task({**task, "kind": ID}, HERE) == {"copies": 0}


def test_a_paragraph_stays_in_the_best_document_and_there_at_its_first_place(tmp_path: Path) -> None:
    hashes = numbers(9, 9, 9, 9, 5, 5) << np.uint64(20)
    records = records_of(PARAGRAPH, hashes, hashes, np.array([0, 1, 1, 2, 0, 3]), np.array([4, 6, 2, 0, 1, 3]))
    task = corpus(tmp_path, [7, 3, 5, 9], [0, 0, 0, 0], [records])
    assert duplicate_tasks.paragraphs_task(task, HERE) == {"copies": 4}
    assert out_of(task) == [[0, 4], [1, 6], [2, 0], [3, 3]]


def test_documents_of_one_bucket_are_linked_to_its_first(tmp_path: Path) -> None:
    records = []
    for band, groups in ((0, {1: [0, 2, 4], 2: [1, 3]}), (1, {1: [2, 4], 3: [0, 5, 5]}), (2, {1: [1, 5]})):
        for value, members in groups.items():
            hashes = np.full(len(members), value << 20, np.uint64)
            records.append(records_of(BAND + band, hashes, hashes, np.array(members)))
    task = corpus(tmp_path, list(range(6)), [0, 0, 0, 1, 0, 0], records)
    assert duplicate_tasks.edges_task({**task, "bands": 2}, HERE) == {"edges": 4}
    assert out_of(task) == [[0, 2], [0, 4], [0, 5], [2, 4]]
    assert duplicate_tasks.edges_task({**task, "bands": 3}, HERE) == {"edges": 5}


def test_clusters_have_their_best_document_and_their_size(tmp_path: Path) -> None:
    hash_records.write_array(tmp_path / "edges-1.npy", np.array([[0, 2], [2, 5]]))
    hash_records.write_array(tmp_path / "edges-2.npy", np.array([[1, 3]]))
    inputs = [str(tmp_path / f"edges-{n}.npy") for n in (1, 2)]
    task = corpus(tmp_path, [6, 5, 4, 3, 2, 9], [0] * 6, [records_of(ID, numbers(), numbers(), np.zeros(0, int))])
    components = {"inputs": inputs, "out": str(tmp_path / "components.npy")}
    assert duplicate_tasks.memory_components_task(components, HERE) == {"documents": 3}
    assert out_of(components) == [[0, 2], [1, 3], [0, 5]]
    found = duplicate_tasks.clusters_task({**task, "inputs": [components["out"]]}, HERE)
    assert found == {"clusters": 2, "documents": 5}
    assert out_of(task) == [[0, 2, 3], [1, 3, 2], [2, 2, 3], [3, 3, 2], [5, 2, 3]]
    both = np.array([[2, 0], [0, 2], [4, 4]])  # the greater first, or itself: no pair of root and member
    hash_records.write_array(tmp_path / "pairs.npy", both)
    assert duplicate_tasks.clusters_task({**task, "inputs": [str(tmp_path / "pairs.npy")]}, HERE)["documents"] == 2


def test_rows_of_a_part_come_from_all_files(tmp_path: Path) -> None:
    hash_records.write_array(tmp_path / "0.npy", np.array([[1, 1, 1], [4, 1, 1], [9, 1, 1]]))
    hash_records.write_array(tmp_path / "1.npy", np.array([[2, 2, 2], [4, 2, 2], [5, 2, 2]]))
    assert rows_of(tmp_path, 2, 5).tolist() == [[2, 2, 2], [4, 1, 1], [4, 2, 2]]
    assert rows_of(tmp_path, 1, 2).tolist() == [[1, 1, 1]]
    assert rows_of(tmp_path / "none", 0, 9).shape == (0, 3)


# -- the steps together


def find(work: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], config: CleanConfig) -> str:
    in_this_process(monkeypatch)
    half = len(rows) // 2
    for name, some in (("a", rows[:half]), ("b", rows[half:])):
        table, records = with_keys(filtered(some), config)
        document_files.write_document_file(work / "filtered" / f"{name}.parquet", table)
        hash_records.write_records(work / "keys" / f"{name}.npy", records)
    return find_duplicates.find_duplicates(config, work)


TEXTS = {"short": "one two", "other": "three four five six", "long": "ONE TWO "}


def test_fates_of_all_documents_and_how_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"id": "a", "text": TEXTS["short"]}, {"id": "b", "text": "gone", "reason": "too_long"},
        {"id": "a", "text": TEXTS["other"]}, {"id": "c", "text": TEXTS["long"]}, {"id": "d", "text": TEXTS["short"]},
        {"id": "e", "text": TEXTS["other"] + " "},
    ]  # fmt: skip
    config = CleanConfig(workers=1, near_duplicates=False, min_paragraph_chars=3)
    assert find(tmp_path, monkeypatch, rows, config) == "exact_duplicate"
    drop_codes = hash_records.read_array(tmp_path / "drop_codes-exact_duplicate.npy").tolist()
    assert [duplicate_tasks.DROP_REASONS[fate] for fate in drop_codes] == [
        "duplicate_id", "filtered", "exact_duplicate", "", "exact_duplicate", "",
    ]  # fmt: skip
    marks = hash_records.read_array(tmp_path / "id_hashes.npy").tolist()
    assert marks == [hash_pair(row["id"])[0] for row in rows]
    assert rows_of(tmp_path / "paragraphs", 0, 6).tolist() == []


def test_the_last_files_of_a_part(tmp_path: Path) -> None:
    paragraphs = ["a" * 30, "grün " * 6, "c" * 40]
    text = "\n\n".join(paragraphs)
    assert len(paragraphs_in(text)) == 3
    rows = [
        {"id": "a", "text": text, "masked_email": 2}, {"id": "b", "text": text},
        {"id": "c", "text": "gone", "reason": "too_long"},
        {"id": "d", "text": "one\ntwo"}, {"id": "e", "text": "copy"}, {"id": "f", "text": "whole"},
    ]  # fmt: skip
    work, out = tmp_path / "work", tmp_path / "out"
    CorpusIndex(["z", "p", "q"], [0, 10, 16, 20]).save(work)
    table = filtered(rows).append_column("keep_order", pa.array(np.zeros(6, np.uint64)))
    document_files.write_document_file(work / "filtered" / "p.parquet", table)
    drop_codes = np.zeros(20, np.uint8)
    drop_codes[[0, 12, 14, 17]] = [4, 1, 3, 2]
    hash_records.write_array(work / "drop_codes-near.npy", drop_codes)
    hash_records.write_array(work / "id_hashes.npy", np.arange(20, dtype=np.uint64) + np.uint64(255))
    hash_records.write_array(work / "clusters" / "0.npy", np.array([[9, 9, 2], [10, 10, 4], [15, 10, 4], [16, 16, 2]]))
    copies = np.array([[9, 0], [10, 1], [11, 0], [11, 1], [13, 0], [16, 0]])
    hash_records.write_array(work / "paragraphs" / "0.npy", copies)
    for keep in (False, True):
        config = CleanConfig(max_copied_chars=0.5, validation_fraction=0.0, keep_dropped_text=keep)
        task = {"config": config.model_dump(), "work": str(work), "out": str(out), "name": "p", "drop_codes": "near",
                "tally": str(tmp_path / "tally.json")}  # fmt: skip
        assert write_task(task, HERE) == {}
        kept = {row["id"]: row for row in rows_in(out / "train")}
        assert {name: row["text"] for name, row in kept.items()} == {
            "a": "a" * 30 + "\n\n" + "c" * 40, "d": "two", "f": "whole",
        }  # fmt: skip
        assert (kept["a"]["cluster"], kept["a"]["cluster_size"]) == (f"{265:016x}", 4)
        assert (kept["f"]["cluster"], kept["d"]["cluster_size"]) == (f"{265:016x}", 1)
        dropped = {row["id"]: row for row in rows_in(out / "dropped")}
        assert {name: row["reason"] for name, row in dropped.items()} == {
            "b": "duplicate_paragraphs", "c": "too_long", "e": "exact_duplicate",
        }  # fmt: skip
        assert dropped["b"]["detail"] == "2 of 3 paragraphs stand in other documents"
        assert dropped["e"].get("text") == ("copy" if keep else None)
    tally = read_json(tmp_path / "tally.json")
    assert tally["split_bytes"] == {"train": 72 + 3 + 5}
    assert tally["taken_out"]["copied_paragraphs"] == 2
    assert tally["documents"] == {"": 3, "duplicate_paragraphs": 1, "too_long": 1, "exact_duplicate": 1}
    assert tally["clusters"] == {"in": 2, "out": 2}


@pytest.mark.parametrize(("most", "goes"), [(4 / 10, False), (0.39, True), (0.41, False)])
def test_a_document_goes_when_more_than_the_share_is_copied(most: float, goes: bool) -> None:
    from tinyllama.cleaning.write_documents import _without_copies

    row: dict[str, Any] = {"text": "aaa\n\nb\n\ncccccc"}  # 3 + 1 of 10 characters
    _without_copies(row, {0, 1}, CleanConfig(max_copied_chars=most))
    if goes:
        assert row["reason"] == "duplicate_paragraphs"
    else:
        assert row == {"text": "cccccc", "bytes": 6, "copied_paragraphs": 2}


def test_a_kept_cluster_is_split_by_its_name() -> None:
    from tinyllama.cleaning.write_documents import _split_of
    from tinyllama.hashing import is_validation

    names = [f"{n}" for n in range(40)]
    inside = next(name for name in names if is_validation(name, 0.5))
    outside = next(name for name in names if not is_validation(name, 0.5))
    keep = CleanConfig(validation_fraction=0.5, keep_near_duplicates=True)
    drop = CleanConfig(validation_fraction=0.5)
    for row, config, split in (
        ({"reason": "", "cluster": inside, "id": outside}, keep, "validation"),
        ({"reason": "", "cluster": outside, "id": inside}, keep, "train"),
        ({"reason": "", "cluster": inside, "id": outside}, drop, "train"),
        ({"reason": "", "cluster": "", "id": inside}, keep, "validation"),
        ({"reason": "x", "cluster": inside, "id": inside}, keep, ""),
    ):
        assert _split_of(row, config) == split
