"""Duplicates over a corpus of files: clusters and their names, paragraphs, lines of sites, ranges, splits."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cleaning.clean_inputs import folder_bytes, prose, write_json_lines
from tests.cleaning.test_clean_run import check_counts, rows_of, run
from tinyllama.cleaning import boilerplate_lines, extract_documents
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.explain import explain_document
from tinyllama.dedup import duplicate_tasks, hash_records
from tinyllama.dedup.minhash import hash_pair


def kept_rows(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {
        row["id"]: row | {"split": split}
        for split in ("train", "validation")
        for row in rows_of(tmp_path / "clean" / split)
    }


def family(seed: int, copies: int) -> list[str]:
    """A text and near copies of it, one word changed in each; the first is the longest."""
    text = prose(seed, 40)
    return [
        text + " Indeed so.",
        *(text.replace(" the ", f" {word} ", 1) for word in ("this", "that", "some")[: copies - 1]),
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=20), st.randoms())
def test_ranks_do_not_depend_on_order(rows: list[tuple[int, int]], shuffler: random.Random) -> None:
    def ranks(rows: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
        chars = np.array([chars for chars, _ in rows], np.int64)
        hashes = np.array([hash_pair(str(tie))[0] for _, tie in rows], np.uint64)
        return dict(zip(rows, duplicate_tasks.keep_order(chars, hashes, hashes).tolist(), strict=True))

    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    found = ranks(rows)
    assert found == ranks(shuffled)
    for a in found:
        for b in found:
            if a[0] > b[0]:
                assert found[a] < found[b]  # the longer one stays


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(1, 7))
def test_every_record_is_in_one_range(hashes: list[int], count: int) -> None:
    keys = np.array(hashes, np.uint64)
    records = np.concatenate([hash_records.records_of(kind, keys, keys, np.arange(keys.size)) for kind in (1, 2)])
    records = records[np.argsort(records["key"], kind="stable")]
    found = []
    for part in range(count):
        first, last = np.searchsorted(records["key"], hash_records.HashRange(part, count).bounds(2))
        found += records["check"][first:last].tolist()
    assert sorted(found) == sorted(hashes)


def test_clusters_have_a_name_and_one_document_stays(tmp_path: Path) -> None:
    texts = {f"{seed}-{n}": text for seed in (1, 2) for n, text in enumerate(family(seed, 3))} | {"alone": prose(9)}
    run(tmp_path, [write_json_lines(tmp_path / "x.jsonl", [{"id": i, "text": t} for i, t in texts.items()])])
    kept = kept_rows(tmp_path)
    assert set(kept) == {"1-0", "2-0", "alone"}
    assert (kept["1-0"]["cluster"], kept["1-0"]["cluster_size"]) == (f"{hash_pair('1-0')[0]:016x}", 3)
    assert (kept["alone"]["cluster"], kept["alone"]["cluster_size"]) == ("", 1)
    dropped = {row["id"]: row for row in rows_of(tmp_path / "clean" / "dropped")}
    assert {row["cluster"] for name, row in dropped.items() if name[0] == "2"} == {kept["2-0"]["cluster"]}
    assert explain_document(tmp_path, "1-1")["cluster"] == kept["1-0"]["cluster"]


def test_a_kept_cluster_is_wholly_on_one_side(tmp_path: Path) -> None:
    texts = {f"{seed}-{n}": text for seed in range(20) for n, text in enumerate(family(seed, 3))}
    config = CleanConfig(workers=1, keep_near_duplicates=True, validation_fraction=0.4, duplicate_paragraphs=False)
    inputs = [write_json_lines(tmp_path / "x.jsonl", [{"id": i, "text": t} for i, t in texts.items()])]
    check_counts(tmp_path, run(tmp_path, inputs, config))
    kept = kept_rows(tmp_path)
    assert len(kept) == 60
    sides = {
        seed: {row["split"] for name, row in kept.items() if name.split("-")[0] == str(seed)} for seed in range(20)
    }
    assert all(len(side) == 1 for side in sides.values())
    assert len({next(iter(side)) for side in sides.values()}) == 2


def test_paragraphs_of_other_documents_are_taken_out(tmp_path: Path) -> None:
    shared = prose(50, 3).replace("\n", " ")

    def text(seed: int, *more: str) -> str:
        return "\n\n".join([prose(seed, 8).replace("\n", " "), *more, prose(seed + 100, 8).replace("\n", " ")])

    rows = [
        {"id": "best", "text": text(1, shared, prose(70, 6).replace("\n", " "))},
        {"id": "edited", "text": text(2, shared.upper())},
        {"id": "goes", "text": "\n\n".join([shared, prose(3, 2).replace("\n", " "), prose(70, 6).replace("\n", " ")])},
    ]
    config = CleanConfig(workers=1, near_duplicates=False, gopher_quality=False)
    summary = run(tmp_path, [write_json_lines(tmp_path / "x.jsonl", rows)], config)
    check_counts(tmp_path, summary)
    kept = kept_rows(tmp_path)
    assert kept["best"]["text"] == rows[0]["text"]
    assert kept["edited"]["text"] == text(2)
    assert summary["dropped"] == {"duplicate_paragraphs": 1}
    assert summary["copied_paragraphs"] == 1


def test_lines_that_a_site_repeats_are_taken_out(tmp_path: Path) -> None:
    footer = "This page is part of the manual of the old harbour."
    rows = [{"id": f"{n}", "text": f"{prose(n)}\n\n{footer}", "domain": "a.org"} for n in range(4)]
    rows += [{"id": f"b{n}", "text": f"{prose(10 + n)}\n\n{footer}", "domain": "b.org"} for n in range(2)]
    rows += [{"id": f"c{n}", "text": f"{prose(20 + n)}\n\n{footer}"} for n in range(4)]
    config = CleanConfig(workers=1, site_line_documents=3)
    summary = run(tmp_path, [write_json_lines(tmp_path / "x.jsonl", rows)], config)
    assert summary["site_lines"] == 4
    for name, row in kept_rows(tmp_path).items():
        assert row["text"].endswith(footer) == (name[0] in "bc"), name


words_and_breaks = st.lists(st.sampled_from(["a", "bb", "one two three", "\n", " \n", "\n\n", " "]), max_size=12)


@settings(deadline=None)
@given(st.lists(words_and_breaks.map("".join), min_size=1, max_size=5), st.integers(1, 3))
def test_site_lines_by_the_obvious_way(texts: list[str], min_words: int) -> None:
    keys, owners, lines = boilerplate_lines.boilerplate_line_keys(texts, ["a.org"] * len(texts), min_words)
    expected = [
        (number, place, line.strip())
        for number, text in enumerate(texts)
        for place, line in enumerate([line for line in text.split("\n") if line.strip()])
        if len(line.split()) >= min_words
    ]
    assert list(zip(owners.tolist(), lines.tolist(), strict=True)) == [(number, place) for number, place, _ in expected]
    assert len(set(keys.tolist())) == len({line for _, _, line in expected})


@pytest.mark.parametrize("seed", [3])
def test_many_ranges_and_rounds_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A limit of a few kilobytes: every step in many ranges, components in rounds; or all of it in memory."""
    monkeypatch.setattr(extract_documents, "FILE_RECORDS", 25)
    chance = random.Random(seed)
    texts = [text for n in range(25) for text in family(n, chance.randint(1, 4))] + [prose(n) for n in range(100, 130)]
    texts += [prose(n % 10 + 100) for n in range(15)]
    rows = [{"id": f"{n % 95}", "text": text, "domain": "a.org"} for n, text in enumerate(texts)]
    inputs = [write_json_lines(tmp_path / "x.jsonl", rows)]
    summaries = [
        run(tmp_path / name, inputs, CleanConfig(workers=1, max_memory_bytes=limit))
        for name, limit in (("one", 1 << 30), ("many", 4096))
    ]
    assert summaries[0] == summaries[1] | {"seconds": summaries[0]["seconds"]}
    assert summaries[0]["dropped"].keys() >= {"duplicate_id", "exact_duplicate", "near_duplicate"}
    assert folder_bytes(tmp_path / "one" / "clean") == folder_bytes(tmp_path / "many" / "clean")


def test_dropped_texts_are_kept_on_request_and_the_funnel_has_tables(tmp_path: Path) -> None:
    rows = [{"id": "good", "text": prose(1), "licence": "CC0", "domain": "a.org"}, {"id": "bad", "text": "Too short."}]
    config = CleanConfig(workers=1, keep_dropped_text=True, languages=[])
    run(tmp_path, [write_json_lines(tmp_path / "x.jsonl", rows)], config)
    dropped = rows_of(tmp_path / "clean" / "dropped")
    assert [(row["id"], row["text"]) for row in dropped] == [("bad", "Too short.")]
    funnel = json.loads((tmp_path / "clean" / "funnel.json").read_text())
    size = len(prose(1))
    assert funnel["licence"] == {
        "(none)": {"in": 1, "out": 0, "bytes_out": 0},
        "CC0": {"in": 1, "out": 1, "bytes_out": size},
    }
    assert funnel["domain"]["a.org"]["out"] == 1
