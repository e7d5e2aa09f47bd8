import gzip
import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.errors import InputError
from tinyllama.tokenizer import document_text
from tinyllama.tokenizer.document_text import read_documents, split_files

ROWS = [
    {"id": "a", "text": "first", "kind": "book"},
    {"text": "second\nline", "source": "http://x/"},
    {"id": 7, "text": "", "kind": None},
]
EXPECTED = [
    (0, "a", "book", "first"),
    (1, hashlib.sha256(b"http://x/\0second\nline").hexdigest()[:16], "web", "second\nline"),
    (2, "7", "web", ""),
]
LINES = "".join(json.dumps(row) + "\n\n" for row in ROWS).encode()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("d.jsonl", LINES),
        ("d.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("d.jsonl.zst", zstandard.compress(LINES[:20]) + zstandard.compress(LINES[20:])),
    ],
)
def test_json_lines_plain_and_compressed(tmp_path: Path, name: str, data: bytes):
    path = write(tmp_path / name, data)
    assert [tuple(document) for document in read_documents(path)] == EXPECTED
    assert [tuple(document) for document in read_documents(path, first_row=2)] == EXPECTED[2:]


def test_parquet(tmp_path: Path):
    rows = [{**row, "id": None if row.get("id") is None else str(row["id"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    columns = pa.table({"text": [r["text"] for r in rows], "id": [r["id"] for r in rows]})
    pq.write_table(columns, tmp_path / "few.parquet")
    assert [document.text for document in read_documents(tmp_path / "d.parquet")] == ["first", "second\nline", ""]
    assert [document.id for document in read_documents(tmp_path / "few.parquet", 2)] == ["7"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("d.jsonl", b'{"text": "ok"}\nnot json\n', "line 2 is not valid UTF-8 JSON"),
        ("d.jsonl", b'{"text": "\xff"}\n', "line 1 is not valid UTF-8 JSON"),
        ("d.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("d.jsonl", b"[" * 100_000 + b"\n", "line 1"),
        ("d.jsonl", b'{"id": "x"}\n', "document 1 has no `text`"),
        ("d.jsonl", b'{"text": 5}\n', "document 1 has no `text`"),
        ("d.jsonl", b'{"text": "\\ud800"}\n', "document 1 is not valid Unicode"),
        ("d.jsonl.gz", gzip.compress(LINES, mtime=0)[:-12], "cannot be read to its end"),
        ("d.jsonl.gz", b"nothing", "cannot be read to its end"),
        ("d.jsonl.zst", b"nothing at all", "cannot be read to its end"),
        ("d.parquet", b"PAR1 nothing", "not a readable parquet file"),
    ],
)
def test_damage_names_file_and_place(tmp_path: Path, name: str, data: bytes, message: str):
    path = write(tmp_path / name, data)
    with pytest.raises(InputError, match=message) as caught:
        list(read_documents(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_zstd_file_is_not_taken_for_whole(tmp_path: Path):
    path = write(tmp_path / "d.jsonl.zst", zstandard.compress(LINES * 100)[:-9])
    with pytest.raises(InputError):
        list(read_documents(path))


def test_parquet_without_text(tmp_path: Path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"no column `text` \(columns: body\)"):
        list(read_documents(tmp_path / "d.parquet"))


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(document_text, "MAX_LINE_BYTES", 1000)
    path = write(tmp_path / "d.jsonl", b'{"text": "' + b"x" * 2000)
    with pytest.raises(InputError, match="line 1 is longer than 1,000 bytes"):
        list(read_documents(path))


@given(data=st.binary(max_size=300))
def test_any_bytes_give_documents_or_input_error(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("d.jsonl", "d.jsonl.gz", "d.jsonl.zst", "d.parquet"):
        path = write(folder / name, data)
        with suppress(InputError):
            assert all(isinstance(document.text, str) for document in read_documents(path))


def test_files_of_a_split(tmp_path: Path):
    clean, loose = tmp_path / "clean", tmp_path / "loose"
    for folder in (clean / "train", clean / "validation", clean / "dropped", loose):
        folder.mkdir(parents=True)
        write(folder / "b.jsonl", LINES)
        write(folder / "a.jsonl", LINES)
        write(folder / "notes.txt", b"")
    assert split_files([clean], "train") == [clean / "train/a.jsonl", clean / "train/b.jsonl"]
    assert split_files([clean], "validation") == [clean / "validation/a.jsonl", clean / "validation/b.jsonl"]
    assert split_files([loose / "a.jsonl", clean], "validation")[0] == loose / "a.jsonl"
    with pytest.raises(InputError, match="no such file or folder"):
        split_files([tmp_path / "none"], "train")


def test_a_split_without_validation(tmp_path: Path):
    (tmp_path / "train").mkdir()
    write(tmp_path / "train/a.jsonl", LINES)
    assert split_files([tmp_path], "validation") == []
