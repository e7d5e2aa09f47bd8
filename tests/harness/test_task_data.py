"""Rows of task files: which are taken, which are refused, whatever the compression."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tinyllama.errors import InputError
from tinyllama.harness import task_data
from tinyllama.harness.task_data import read_rows


def lines(*rows: Any) -> bytes:
    return "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows).encode()


A, B, C, D = ({"a": n, "b": {"c": n}, "more": 9} for n in (1, 2, 3, 4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines(A, "\n", "  \n", B, A)))
    (tmp_path / "y.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines(B, C, A, C)))
    (tmp_path / "z.jsonl").write_bytes(lines(D))
    return tmp_path


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [row["a"] for row in rows]


def test_fields_alone_are_kept_whole_objects_of_fields_within(folder: Path):
    assert read_rows(folder, ["x.jsonl.gz"], ["a"]) == [{"a": 1}, {"a": 2}, {"a": 1}]
    assert read_rows(folder, ["z.jsonl"], ["a", "b.c"]) == [{"a": 4, "b": {"c": 4}}]


def test_rows_of_an_earlier_file_are_left_out_and_of_the_same_one_not(folder: Path):
    names = ["x.jsonl.gz", "y.jsonl.gz", "z.jsonl.gz"]  # found under another compression too
    assert numbers(read_rows(folder, names, ["a"])) == [1, 2, 1, 3, 3, 4]
    assert numbers(read_rows(folder, names[1:2], ["a"])) == [2, 3, 1, 3]
    (folder / "x2.jsonl").write_bytes(lines(A, B))
    assert numbers(read_rows(folder, ["x.jsonl.gz", "x2.jsonl"], ["a"])) == [1, 2, 1]  # nothing new is no fault


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [((0, 2), [1, 2]), ((2, 5), [1, 3, 3]), ((5, 99), [4]), ((5, 6), [4]), (None, [1, 2, 1, 3, 3, 4])],
)
def test_a_range_of_rows_counts_over_all_files(folder: Path, rows: tuple[int, int] | None, wanted: list[int]):
    names = ["x.jsonl.gz", "y.jsonl.gz", "z.jsonl"]
    assert numbers(read_rows(folder, names, ["a"], rows)) == wanted


def test_a_range_beyond_the_rows_is_refused(folder: Path):
    with pytest.raises(InputError, match=r"x\.jsonl\.gz: 3 examples; the task starts at number 4"):
        read_rows(folder, ["x.jsonl.gz"], ["a"], (3, 9))


def test_values_that_are_not_allowed_are_named(folder: Path):
    assert numbers(read_rows(folder, ["x.jsonl.gz"], ["a"], None, {"a": [1, 2]})) == [1, 2, 1]
    with pytest.raises(InputError, match=r"x\.jsonl\.gz, line 4: 'a' is 2; permitted are \[1\]"):  # blank lines count
        read_rows(folder, ["x.jsonl.gz"], ["a"], None, {"a": [1]})


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (b"", ["a"], "no example in it"),
        (b"\n \n", ["a"], "no example in it"),
        (lines(A, "[1]\n"), ["a"], "line 2: list instead of an object"),
        (lines(A, "{\n"), ["a"], "line 2: not JSON"),
        (b"[" * 100_000, ["a"], "line 1: not JSON"),
        (lines(A, {"b": 1}), ["a"], "line 2: no field 'a'; it has 'b'"),
        (lines({"a": None}), ["a"], "line 1: field 'a' is null"),
        (lines({"b": 3}), ["b.c"], "line 1: no field 'b.c'; 3 is not an object"),
        (lines({"b": {"d": 1}}), ["b.c"], "line 1: no field 'b.c'; it has 'd'"),
        (lines({"b": {"c": None}}), ["b.c"], "line 1: field 'b.c' is null"),
        (lines(A) + b"\xff\n", ["a"], "not UTF-8"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, content: bytes, fields: list[str], message: str):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path, ["x.jsonl"], fields)
    assert str(caught.value).startswith(f"{tmp_path / 'x.jsonl'}")
    assert message in str(caught.value)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)])
def test_a_file_that_is_cut_off_is_never_taken_for_whole(tmp_path: Path, suffix: str, pack: Any):
    path, whole = tmp_path / f"x.jsonl{suffix}", pack(lines(*({"a": n} for n in range(5_000))))
    for content in (whole[:-1], whole[:-9], whole[: len(whole) // 2], whole[:30], b"no compression at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged compression"):
            read_rows(tmp_path, ["x.jsonl.gz"], ["a"])
    path.write_bytes(whole)
    assert len(read_rows(tmp_path, ["x.jsonl.gz"], ["a"])) == 5_000


def test_a_line_may_be_as_long_as_the_bound_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert task_data.MAX_LINE_BYTES == 50_000_000
    monkeypatch.setattr(task_data, "MAX_LINE_BYTES", 20)
    row = json.dumps({"a": "x" * 9})  # 18 bytes
    (tmp_path / "x.jsonl").write_text(f"{row} \n{row}\n")
    assert len(read_rows(tmp_path, ["x.jsonl"], ["a"])) == 2
    (tmp_path / "x.jsonl").write_text(f"{row}  \n")
    with pytest.raises(InputError, match="a line of more than 20 bytes"):
        read_rows(tmp_path, ["x.jsonl"], ["a"])


def test_what_is_missing_is_named_with_what_is_there(folder: Path):
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").touch()
    (folder / "deep" / "a.txt").touch()
    for name, message in (
        ("deep/x.jsonl.gz", r"deep/x\.jsonl\.gz: no such file \(that folder has a\.txt, b\.txt\)"),
        ("none/x.jsonl.gz", r"none/x\.jsonl\.gz: no such file \(.* has no folder none\)"),
    ):
        with pytest.raises(InputError, match=message):
            read_rows(folder, [name], ["a"])
    with pytest.raises(InputError, match=r"--data-dir .*nowhere: no such folder"):
        read_rows(folder / "nowhere", ["x.jsonl.gz"], ["a"])
