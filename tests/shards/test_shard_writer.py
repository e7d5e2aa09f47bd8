import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyllama.errors import InputError
from tinyllama.hashing import is_validation
from tinyllama.shards import shard_writer
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_format import open_split, read_shard_documents, verify_split
from tinyllama.shards.shard_writer import write_shards
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.tokenizer.bpe import Tokenizer

SMALL = ShardsConfig(max_shard_bytes=20_000)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_summary_is_true(corpus: Path, tokenizer: Tokenizer, rows: list[dict[str, str]], tmp_path: Path):
    summary = write_shards(SMALL, [corpus], tokenizer, tmp_path / "out", validation_fraction=0.1)
    lengths = {row["id"]: len(tokenizer.encode(row["text"])) + 2 for row in rows}
    held_out = {i for i in lengths if is_validation(i, 0.1)}
    assert 0 < len(held_out) < len(rows) / 4
    assert summary["documents"] == len(rows)
    assert summary["validation_documents"] == len(held_out)
    assert summary["validation_tokens"] == sum(lengths[i] for i in held_out)
    assert summary["tokens"] == sum(lengths.values()) == summary["train_tokens"] + summary["validation_tokens"]
    text_bytes = sum(len(row["text"].encode()) for row in rows)
    assert summary["bytes_per_token"] == pytest.approx(text_bytes / summary["tokens"], abs=1e-4)
    assert summary["bytes"] == sum(len(v) for k, v in all_bytes(tmp_path / "out").items() if k.endswith(".bin"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "validation"]


def test_a_clean_folder_keeps_its_split(rows: list[dict[str, str]], tokenizer: Tokenizer, tmp_path: Path):
    clean = tmp_path / "clean"
    for name in ("train", "validation", "dropped"):
        (clean / name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows[:50]), clean / "train/0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[50:60]), clean / "validation/0.parquet")
    pq.write_table(pa.table({"id": ["x"], "reason": ["short"]}), clean / "dropped/0.parquet")
    summary = write_shards(SMALL, [clean], tokenizer, tmp_path / "out")
    assert (summary["train_documents"], summary["validation_documents"]) == (50, 10)
    table = read_shard_documents(tmp_path / "out/validation", open_split(tmp_path / "out/validation").shards[0])
    assert table["id"].to_pylist() == [row["id"] for row in rows[50:60]]


@given(lengths=st.lists(st.integers(0, 900), min_size=1, max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lengths_come_back_whole(tokenizer: Tokenizer, tmp_path: Path, lengths: list[int]):
    """Documents smaller, equal and larger than a file of 384 ids (1,024 bytes less the header)."""
    rows = [{"id": str(i), "text": "q\n" * length} for i, length in enumerate(lengths)]
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    source = write_rows(tmp_path / "in.jsonl", rows)
    write_shards(ShardsConfig(max_shard_bytes=1024), [source], tokenizer, tmp_path / "out", validation_fraction=0.0)
    index = verify_split(tmp_path / "out/train")
    shards = TokenShards(tmp_path / "out/train")
    expected = [i for row in rows for i in (1, *tokenizer.encode(row["text"]), 2)]
    assert shards.tokens(0, shards.n_tokens).tolist() == expected
    assert index.documents == len(rows)
    found: dict[str, int] = {}
    for shard in index.shards:
        table = read_shard_documents(tmp_path / "out/train", shard).to_pylist()
        assert shard.tokens <= 384
        for row in table:
            assert row["offset"] == 0 or row["id"] not in found  # goes on at the start of a file only
            found[row["id"]] = found.get(row["id"], 0) + row["tokens"]
            fits = len(tokenizer.encode("q\n" * lengths[int(row["id"])])) + 2 <= 384
            assert not fits or found[row["id"]] == row["tokens"]
    assert list(found) == [row["id"] for row in rows]


def test_large_vocabularies_are_written_as_uint32(
    corpus: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = Tokenizer.load(tokenizer_folder)
    monkeypatch.setattr(tokenizer, "vocab_size", 70_000)
    write_shards(SMALL, [corpus], tokenizer, tmp_path / "out")
    shards = TokenShards(tmp_path / "out/train")
    assert shards.index.dtype == "uint32"
    assert shards.tokens(0, 5).dtype == np.uint32
    assert shards.tokens(0, 1).tolist() == [1]


KILLED_RUN = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from tinyllama.shards import shard_writer
from tinyllama.tokenizer.bpe import Tokenizer
shard_writer.BATCH_TEXT_BYTES = 3000
encode_batch = Tokenizer.encode_batch
def slowly(self, texts):
    time.sleep(0.02)
    return encode_batch(self, texts)
Tokenizer.encode_batch = slowly
corpus, tokenizer, out = map(Path, sys.argv[1:])
config = shard_writer.ShardsConfig(max_shard_bytes=20_000)
shard_writer.write_shards(config, [corpus], Tokenizer.load(tokenizer), out, validation_fraction=0.1)
"""


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    corpus: Path, tokenizer_folder: Path, shards: Path, tmp_path: Path
):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED_RUN, str(corpus), str(tokenizer_folder), str(out)]
    kills = 0
    while kills < 4:
        finished = len(list(out.rglob("*.bin")))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.rglob("*.bin"))) <= finished:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 3
    assert (out / "progress.json").exists()
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert all_bytes(out) == all_bytes(shards)


def test_going_on_does_not_begin_again(
    corpus: Path, tokenizer: Tokenizer, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoded: list[int] = []
    encode_batch = Tokenizer.encode_batch

    def counting(self: Tokenizer, texts: list[str]) -> list[np.ndarray]:
        encoded.append(len(texts))
        if sum(encoded) > 120:
            raise KeyboardInterrupt
        return encode_batch(self, texts)

    monkeypatch.setattr(shard_writer, "BATCH_TEXT_BYTES", 2000)
    monkeypatch.setattr(Tokenizer, "encode_batch", counting)
    with pytest.raises(KeyboardInterrupt):
        write_shards(SMALL, [corpus], tokenizer, tmp_path / "out", validation_fraction=0.1)
    assert not list((tmp_path / "out").rglob(".*"))
    first = sum(encoded)
    encoded.clear()
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, t: encoded.append(len(t)) or encode_batch(self, t))
    summary = write_shards(SMALL, [corpus], tokenizer, tmp_path / "out", validation_fraction=0.1)
    assert summary["documents"] > sum(encoded) > summary["documents"] - first
    assert all_bytes(tmp_path / "out") == all_bytes(shards)


def test_other_settings_begin_again(corpus: Path, tokenizer: Tokenizer, shards: Path, tmp_path: Path):
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    (out / "progress.json").write_text('{"key": "of other settings"}')
    write_shards(ShardsConfig(max_shard_bytes=10_000), [corpus], tokenizer, out, validation_fraction=0.1)
    assert all(shard.tokens <= (10_000 - 256) // 2 for shard in verify_split(out / "train").shards)
    assert not (out / "progress.json").exists()


def test_a_folder_of_something_else_is_left_alone(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/thesis.txt").write_text("dear")
    with pytest.raises(InputError, match=r"thesis\.txt: not a file of token shards"):
        write_shards(SMALL, [corpus], tokenizer, tmp_path)
    assert (tmp_path / "train/thesis.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no document for training"),
        ('{"id": "a", "text": "fine"}\n{"id": "b"}\n', "document 2 has no `text`"),
        ('{"id": "a", "text": "\\ud800"}\n', "not valid Unicode"),
    ],
)
def test_bad_input_leaves_no_shards(tokenizer: Tokenizer, tmp_path: Path, content: str, message: str):
    path = tmp_path / "in.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        write_shards(SMALL, [path], tokenizer, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert all_bytes(tmp_path / "out") == {}


def test_one_document(tokenizer: Tokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = write_rows(tmp_path / "in.jsonl", [{"id": "only", "text": "one document"}])
    summary = write_shards(SMALL, [path], tokenizer, tmp_path / "out")
    assert (summary["train_documents"], summary["validation_documents"], summary["validation_tokens"]) == (1, 0, 0)
    assert "no document fell into the validation split" in capfd.readouterr().err
    assert TokenShards(tmp_path / "out/validation").n_tokens == 0


def test_missing_input(tokenizer: Tokenizer, tmp_path: Path):
    with pytest.raises(InputError, match="no such file or folder"):
        write_shards(SMALL, [tmp_path / "none"], tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_bos_is_refused(corpus: Path, tokenizer_folder: Path, tmp_path: Path):
    tokenizer = Tokenizer.load(tokenizer_folder)
    tokenizer.bos_id = None
    with pytest.raises(InputError, match="no BOS or no EOS"):
        write_shards(SMALL, [corpus], tokenizer, tmp_path / "out")


def test_an_encoder_that_loses_a_document_is_an_error(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encode_batch = Tokenizer.encode_batch
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, texts: encode_batch(self, texts)[:-1])
    with pytest.raises(ValueError, match="shorter"):
        write_shards(SMALL, [corpus], tokenizer, tmp_path / "out")


def test_documents_resume_in_a_later_file_and_go_on_to_the_last(monkeypatch: pytest.MonkeyPatch):
    def read_documents(path: Path, first_row: int) -> Iterator[Any]:
        yield from (SimpleNamespace(row=row, id=f"{path}{row}") for row in range(first_row, 3))

    monkeypatch.setattr(shard_writer, "read_documents", read_documents)
    sources = [shard_writer.Source(Path(name), False) for name in "abc"]
    found = shard_writer._documents(sources, "train", 0.0, shard_writer.InputRow(1, 2))
    assert [(place.file, place.row, document.id) for place, document in found] == [
        (1, 2, "b2"), (2, 0, "c0"), (2, 1, "c1"), (2, 2, "c2"),
    ]  # fmt: skip
