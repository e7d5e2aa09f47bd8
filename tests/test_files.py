"""Files that are whole or not there, and what is read and hashed of them."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyllama import files
from tinyllama.errors import InputError


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EIO, "x"), False),
        (ValueError(errno.ENOSPC), False),
    ],
)
def test_which_errors_say_that_a_disk_is_full(error: BaseException, is_full: bool):
    assert files.is_full_disk(error) is is_full


def test_an_atomic_file_is_readable_by_all_and_in_utf_8(tmp_path: Path):
    path = tmp_path / "a" / "b" / "text"
    with files.atomic_file(path, "w") as file:
        file.write("é")
        assert not path.exists()
    assert path.read_bytes() == "é".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    with files.atomic_file(path) as file:
        file.write(b"\0\xff")
    assert path.read_bytes() == b"\0\xff"
    assert names(tmp_path) == ["a", "a/b", "a/b/text"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_stays_and_nothing_is_left_beside_it(tmp_path: Path, error: type[BaseException]):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("old")

    def write_half(way: Callable[..., Any], path: Path) -> None:
        with way(path) as new:
            (new / "half").write_text("new") if isinstance(new, Path) else new.write(b"half")
            raise error

    for way, name in ((files.atomic_file, "file"), (files.atomic_folder, "folder")):
        with pytest.raises(error):
            write_half(way, tmp_path / name)
    assert names(tmp_path) == ["file", "folder", "folder/inside"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "inside").read_text() == "old"


def test_an_unfinished_file_that_somebody_removed_does_not_hide_the_error(tmp_path: Path):
    def write() -> None:
        with files.atomic_file(tmp_path / "file"):
            next(tmp_path.iterdir()).unlink()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()


def test_an_atomic_folder_replaces_the_old_one_whole(tmp_path: Path):
    path = tmp_path / "above" / "folder"
    for number in (1, 2):
        with files.atomic_folder(path) as new:
            assert new.parent == path.parent
            assert new.name.startswith(".folder.")
            (new / f"only_{number}").write_text("x")
            (new / "deep").mkdir()
            (new / "deep" / "file").write_text("y")
    assert names(tmp_path) == [
        "above",
        "above/folder",
        "above/folder/deep",
        "above/folder/deep/file",
        "above/folder/only_2",
    ]
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_folder_is_made_in_folders_that_are_missing_or_there(tmp_path: Path):
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b" / "c")
    assert names(tmp_path) == ["a", "a/b", "a/b/c"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError):
        files.make_folder(tmp_path / "file" / "below")


def test_syncing_keeps_no_file_open(tmp_path: Path):
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        files.sync_folder(tmp_path)
    assert len(os.listdir("/dev/fd")) == before


def test_a_folder_is_removed_with_all_in_it(tmp_path: Path):
    (tmp_path / "gone" / "deep").mkdir(parents=True)
    (tmp_path / "gone" / "deep" / "file").write_text("x")
    (tmp_path / "stays").mkdir()
    files.remove_folder(tmp_path / "gone")
    assert names(tmp_path) == ["stays"]


def test_only_what_a_kill_left_is_swept_at_any_depth(tmp_path: Path):
    left = [
        ".a.abcd1234",
        "deep/.b.json.0z_9abcd",
        "deep/.c.12345678/file",
        ".d..abcdefgh",
        "deep/.c.12345678/.e.abcdefgh",
    ]
    kept = [".hidden", "a.abcd1234", ".a.abcd123", ".a.abcd12345", ".a.ABCD1234", "..abcd1234", "deep/file.abcd1234"]
    for name in [*left, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        assert files.is_temporary(tmp_path / name) == (name in left and not name.endswith("/file"))
    files.sweep_temporary(tmp_path)
    assert names(tmp_path) == sorted([*kept, "deep"])
    files.sweep_temporary(tmp_path / "none")


def test_names_of_temporary_files_are_those_that_are_swept(tmp_path: Path):
    with files.atomic_file(tmp_path / "x") as file, files.atomic_folder(tmp_path / "y.z"):
        assert file
        found = list(tmp_path.iterdir())
        assert len(found) == 2
        assert all(map(files.is_temporary, found))


def test_json_is_indented_ends_with_a_line_and_keeps_its_letters(tmp_path: Path):
    path = tmp_path / "value.json"
    files.write_json(path, {"b": ["é"], "a": None})
    assert path.read_bytes() == '{\n  "b": [\n    "é"\n  ],\n  "a": null\n}\n'.encode()
    assert files.read_json(path) == {"b": ["é"], "a": None}


def test_json_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "value.json"
    with pytest.raises(InputError, match=r"value\.json: no such file"):
        files.read_json(path)
    for content in (b"{", b"\xff", b"[" * 100_000, b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"value\.json: not valid JSON"):
            files.read_json(path)
    with path.open("wb") as file:
        file.truncate(500_000_001)
    with pytest.raises(InputError, match=r"value\.json: larger than 500,000,000 bytes"):
        files.read_json(path)
    path.write_text("12345")
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 5)
    assert files.read_json(path) == 12345
    path.write_text("123456")
    with pytest.raises(InputError, match=r"value\.json: larger than 5 bytes"):
        files.read_json(path)
    assert files.read_jsonl(tmp_path / "none") == []


def test_lines_of_json_are_read_as_far_as_they_are_whole(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert files.read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_text(
        '{"a": 1}\n{"a": \n{"a": 3}\n'
    )  # what follows a damage is not taken for what follows the row before
    assert files.read_jsonl(path) == [{"a": 1}]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"a\n", b"a\n"),
        (b"a", b""),
        (b"a\nb", b"a\n"),
        (b"a\nb\n", b"a\nb\n"),
        (b"\n", b"\n"),
        (b"a\nbb\ncc", b"a\nbb\n"),
    ],
)
def test_an_unfinished_line_is_cut_off(tmp_path: Path, before: bytes, after: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before)
    files.cut_unfinished_line(path)
    assert path.read_bytes() == after
    files.cut_unfinished_line(tmp_path / "none")
    assert names(tmp_path) == ["rows.jsonl"]


def test_hashes_by_hand(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"abc" * 500_000)
    assert files.sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 500_000).hexdigest()
    text = b'{"a":[1,2.5,null],"b":"\\u00e9"}'
    assert files.sha256_json({"b": "é", "a": [1, 2.5, None]}) == hashlib.sha256(text).hexdigest()
    assert json.loads(text) == {"b": "é", "a": [1, 2.5, None]}


def test_input_files_in_a_stable_order_and_of_the_kinds_asked_for(tmp_path: Path):
    for name in ("b.txt", "a.txt", "deep/c.txt", "deep/.hidden.txt", "d.md", "e.bin", "folder.txt/f.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = files.input_files([tmp_path / "d.md", tmp_path], (".txt", ".md"))
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "d.md", "a.txt", "b.txt", "d.md", "deep/c.txt", "folder.txt/f.md",
    ]  # fmt: skip
    for inputs, message in (
        ([tmp_path / "e.bin"], r"e\.bin: expected a file that ends in \.txt, \.md"),
        ([tmp_path / "a.txt", tmp_path / "none"], "none: no such file or folder"),
        ([], r": no file that ends in \.txt, \.md"),
    ):
        with pytest.raises(InputError, match=message):
            files.input_files(inputs, (".txt", ".md"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty, .*folder\.txt: no file that ends in \.zip"):
        files.input_files([tmp_path / "empty", tmp_path / "folder.txt"], (".zip",))
