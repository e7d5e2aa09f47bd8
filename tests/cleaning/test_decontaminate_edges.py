"""Decontamination at its edges: runs of 12, 13 and 14 words, fields of 7 to 13, several tasks, pieces, and the index."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyllama.cleaning import decontaminate
from tinyllama.cleaning.decontaminate import ContaminationIndex, _texts, build_index, remove_evaluation_data

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi"
)
MANY = GREEK.split()


@pytest.fixture(autouse=True)
def _small_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontaminate, "RUN_FILTER_BITS", 16)
    monkeypatch.setattr(decontaminate, "SHORT_FILTER_BITS", 12)


def words(first: int, last: int) -> str:
    return " ".join(MANY[first:last])


def index_of(folder: Path, **tasks: list[Any]) -> ContaminationIndex:
    for name, examples in tasks.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "test.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    return build_index(folder)


@pytest.mark.parametrize(
    ("field", "text", "shared"),
    [
        (words(0, 13), words(0, 13), 1),
        (words(0, 13), words(0, 12), 0),
        (words(0, 14), words(0, 14), 2),
        (words(0, 14), words(1, 14), 1),
        (words(0, 20), f"x {words(3, 20)} y", 5),
        (words(0, 20), words(0, 13) + " x " + words(7, 20), 2),
        (words(0, 12), words(0, 12), 1),
        (words(0, 12), words(0, 11), 0),
        (words(0, 12), f"x {words(0, 12)}", 1),
        (words(0, 8), f"x {words(0, 8)}", 1),
        (words(0, 8), f"{words(0, 8)} x {words(0, 8)}", 2),
        (words(0, 8), words(0, 7), 0),
        (words(0, 7), f"{words(0, 7)} x", 0),
        (words(0, 9), words(0, 8) + " x", 0),
    ],
)
def test_how_much_is_shared(tmp_path: Path, field: str, text: str, shared: int) -> None:
    index = index_of(tmp_path, task=[{"field": field, "other": words(0, 13).upper()[::-1]}])
    assert index.tasks_of(text) == ({"task": shared} if shared else {})


@pytest.mark.parametrize(
    ("fields", "text", "shared"),
    [
        # all fields are shorter than a run: the example is one text too, fields of one word left out
        ([words(0, 4), words(4, 8)], words(0, 8), 1),
        ([words(0, 4), "yes", words(4, 8)], words(0, 8), 1),
        ([words(0, 4), "oh yes", words(4, 8)], words(0, 8), 0),
        ([words(0, 12), words(12, 16)], words(0, 13), 2),
        ([words(0, 12), words(12, 16)], words(1, 14), 1),
        ([words(0, 13), words(13, 20)], words(1, 14), 0),
        ([words(0, 4), words(4, 7)], words(0, 7), 0),
    ],
)
def test_a_short_example_is_one_text_too(tmp_path: Path, fields: list[str], text: str, shared: int) -> None:
    index = index_of(tmp_path, task=[dict(enumerate(fields)), {"id": 7}, {"again": fields[0]}])
    assert index.tasks_of(text) == ({"task": shared} if shared else {})


def test_a_run_of_several_tasks_counts_for_each(tmp_path: Path) -> None:
    run, short = {"q": words(0, 13)}, {"q": words(14, 22)}
    index = index_of(tmp_path, a=[run, short], b=[run, run], c=[{"q": words(5, 19)}], d=[run, short], e=[short, short])
    assert index.tasks == ("a", "b", "c", "d", "e")
    assert index.tasks_of(words(0, 13)) == {"a": 1, "b": 1, "d": 1}
    assert index.tasks_of(words(14, 22)) == {"a": 1, "d": 1, "e": 1}
    text = f"{words(0, 22)} x {words(0, 13)} {words(14, 22)}"
    assert index.tasks_of(text) == {"a": 4, "b": 2, "c": 2, "d": 4, "e": 2}
    assert (index.run_hashes.size, index.run_tasks.size, index.short_fields.shape) == (3, 5, (3, 3))
    assert index.run_starts[-1] == 5
    assert np.all(np.diff(index.run_hashes.astype(float)) > 0)


def test_fields_with_one_beginning_are_told_apart(tmp_path: Path) -> None:
    index = index_of(tmp_path, a=[{"q": words(0, 9)}], b=[{"q": words(0, 11)}], c=[{"q": words(0, 8)}])
    assert index.tasks_of(f"{words(0, 8)} x") == {"c": 1}
    assert index.tasks_of(words(0, 9)) == {"a": 1, "c": 1}
    assert index.tasks_of(words(0, 12)) == {"a": 1, "b": 1, "c": 1}


def test_every_text_of_an_example_is_held_in_its_order() -> None:
    value = {"a": "one", "b": ["two", {"c": "three", "d": 4}], "e": None, "f": [["four"], True], "g": "five"}
    assert list(_texts(value)) == ["one", "two", "three", "four", "five"]


def test_what_stays_of_a_document(tmp_path: Path) -> None:
    index = index_of(tmp_path, task=[{"q": words(0, 14)}])
    for between in ("\n\n", "\n"):
        text = between.join(["first part", words(0, 14), "second part", f"x {words(0, 13)}", "third"])
        assert remove_evaluation_data(text, index, "paragraph") == (
            between.join(["first part", "second part", "third"]), {"task": 3}, 2,
        )  # fmt: skip
        assert remove_evaluation_data(text, index, "document") == ("", {"task": 3}, 0)
    assert remove_evaluation_data(words(0, 13), index, "paragraph") == ("", {"task": 1}, 0)
    joined = f"{words(0, 6)}\n\n{words(0, 14)}\n\n{words(6, 14)}"  # what would be left makes a copy again
    assert remove_evaluation_data(joined, index, "paragraph")[0] == ""
    assert remove_evaluation_data(f"{words(0, 14)}\n\n \n\n", index, "paragraph")[0] == ""


def test_pieces_overlap_so_that_no_run_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 20 words that overlap by 12: a run at any place is found once."""
    monkeypatch.setattr(decontaminate, "_CHUNK_WORDS", 20)
    index = index_of(tmp_path, task=[{"q": words(0, 13)}, {"r": words(13, 21)}])
    for before in range(45):
        text = f"{'x ' * before}{words(0, 13)}{' y' * 9}"
        assert index.tasks_of(text) == {"task": 1}, before
        short = index.tasks_of(f"{'x ' * before}{words(13, 21)}{' y' * 12}")
        assert set(short) == {"task"}, before


def test_words_without_end_are_cut_alike(tmp_path: Path) -> None:
    long = "z" * 70_000
    index = index_of(tmp_path, task=[{"q": f"{words(0, 12)} {long}"}])
    assert index.tasks_of(f"{words(0, 12)} {long}") == {"task": 1}
    assert index.tasks_of(f"{words(0, 12)} {'z' * 59}") == {}
    assert index.tasks_of(f"{words(0, 12)} {'z' * 60}") == {"task": 1}


def test_only_folders_with_data_are_tasks(tmp_path: Path) -> None:
    index_of(tmp_path, b=[{"q": words(0, 13)}], a=[{"q": words(1, 14)}], **{".hidden": [{"q": "x"}]})
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no data")
    (tmp_path / "b" / "deep").mkdir()
    (tmp_path / "b" / "deep" / "more.json").write_text(json.dumps({"q": words(3, 16)}) + "\n\n")
    (tmp_path / "file.jsonl").write_text("{}")
    index = build_index(tmp_path)
    assert index.tasks == ("a", "b")
    assert index.tasks_of(words(3, 16)) == {"b": 1}


def test_the_filter_lets_through_what_is_there() -> None:
    chance = np.random.default_rng(1)
    hashes = np.unique(chance.integers(0, 2**64, 300, np.uint64))
    filled = decontaminate._filter_of(hashes, 14)
    assert filled.size == 2**14 // 8
    assert decontaminate._may_be(hashes, filled, 14).all()
    assert decontaminate._may_be(hashes * decontaminate._SECOND_MIX, filled, 14).all()
    others = chance.integers(0, 2**64, 4000, np.uint64)
    assert 0.01 < decontaminate._may_be(others, filled, 14).mean() < 0.06  # 600 of 16,384 bits
    mixed = np.concatenate([others, hashes[5:9], others])
    places, numbers = decontaminate._known(mixed, hashes, filled, 14)
    assert places.tolist() == [4000, 4001, 4002, 4003]
    assert numbers.tolist() == [5, 6, 7, 8]
    nothing = decontaminate._known(others, hashes[:0], np.full(2**11, 255, np.uint8), 14)
    assert [part.size for part in nothing] == [0, 0]
    largest = decontaminate._known(np.array([2**64 - 1], np.uint64), hashes, np.full(2**11, 255, np.uint8), 14)
    assert largest[0].size == 0
