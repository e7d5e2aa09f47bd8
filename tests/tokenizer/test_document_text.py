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


def test_a_line_may_be_as_long_as_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(document_text, "MAX_LINE_BYTES", 20)
    fits = b'{"text": "12345678"}'
    for end in (b"", b"\n"):  # the line feed counts
        path = write(tmp_path / "d.jsonl", b"\n" + fits[: 20 - len(end) - 2] + b'"}' + end)
        assert len(list(read_documents(path))) == 1
    path = write(tmp_path / "d.jsonl", b"\n" + fits + b"\n")
    with pytest.raises(InputError, match="line 2 is longer than 20 bytes"):
        list(read_documents(path))


def test_lines_and_documents_are_counted_from_one_in_messages_and_from_zero_in_rows(tmp_path: Path):
    path = write(tmp_path / "d.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n{"id": 1}\n')
    with pytest.raises(InputError, match=r"d\.jsonl: document 3 has no `text`"):
        list(read_documents(path))
    write(path, b'{"text": "a"}\n\n \n[]\n')
    with pytest.raises(InputError, match="line 4 is not a JSON object"):
        list(read_documents(path))
    write(path, b'{"text": "a"}\n\n{"text": "b"}\n{"text": "c"}\n')
    for first, rows in ((0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (3, [])):
        assert [document.row for document in read_documents(path, first)] == rows


@pytest.mark.parametrize(
    ("row", "identifier", "kind"),
    [
        ({"id": "", "kind": ""}, "", "web"),
        ({"id": 0, "kind": "book"}, "0", "book"),
        ({"source": None}, hashlib.sha256(b"\0t").hexdigest()[:16], "web"),
        ({"source": "s"}, hashlib.sha256(b"s\0t").hexdigest()[:16], "web"),
        ({"source": "\ud800"}, hashlib.sha256(b"\\ud800\0t").hexdigest()[:16], "web"),
        ({"id": None, "source": 5}, hashlib.sha256(b"5\0t").hexdigest()[:16], "web"),
    ],
)
def test_what_a_document_is_called(tmp_path: Path, row: dict[str, object], identifier: str, kind: str):
    path = write(tmp_path / "d.jsonl", json.dumps(row | {"text": "t"}).encode())
    assert [(document.id, document.kind) for document in read_documents(path)] == [(identifier, kind)]


def test_a_parquet_file_of_more_rows_than_are_read_at_once(tmp_path: Path):
    texts = [f"text {number}" for number in range(600)]
    columns = {"id": list(range(600)), "kind": ["book"] * 600, "source": ["s"] * 600, "text": texts, "more": texts}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    found = list(read_documents(tmp_path / "d.parquet", first_row=10))
    assert [tuple(document) for document in found] == [(n, str(n), "book", f"text {n}") for n in range(10, 600)]
    pq.write_table(pa.table({"source": ["s"], "text": ["t"]}), tmp_path / "few.parquet")
    (document,) = read_documents(tmp_path / "few.parquet")
    assert document.id == hashlib.sha256(b"s\0t").hexdigest()[:16]


def test_messages_are_one_short_line(tmp_path: Path):
    path = write(tmp_path / "d.jsonl", b'{"text": ' + b"x" * 5000 + b"}\n")
    with pytest.raises(InputError) as caught:
        list(read_documents(path))
    assert len(str(caught.value)) < len(str(path)) + 300


def test_an_empty_or_missing_validation_folder_is_no_fault_and_a_missing_train_is(tmp_path: Path):
    (tmp_path / "clean" / "train").mkdir(parents=True)
    assert split_files([tmp_path / "clean"], "validation") == []
    (tmp_path / "clean" / "validation").mkdir()
    assert split_files([tmp_path / "clean"], "validation") == []
    with pytest.raises(InputError):
        split_files([tmp_path / "clean"], "train")
    for split in ("train", "validation"):
        write(tmp_path / "clean" / split / "a.jsonl", LINES)
    loose = write(tmp_path / "loose.jsonl", LINES)
    assert split_files([loose, tmp_path / "clean", loose], "validation") == [
        loose, tmp_path / "clean" / "validation" / "a.jsonl", loose,
    ]  # fmt: skip
