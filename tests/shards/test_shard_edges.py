"""Shards, windows and batches at their edges, with small files written by hand."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinyllama.errors import InputError, RecipeError
from tinyllama.files import sha256_file
from tinyllama.hashing import is_validation
from tinyllama.shards import batches as batches_module
from tinyllama.shards import shard_format, shard_writer
from tinyllama.shards.batches import Batches, TokenShards, prefetch, window_at
from tinyllama.shards.quarantine import Quarantined
from tinyllama.shards.shard_format import (
    DocumentPlace,
    ShardFile,
    ShardIndex,
    check_shard_file,
    count_tokens,
    find_document,
    map_shard,
    pack_header,
    read_index,
    read_shard_documents,
    shard_name,
    token_dtype,
    write_index,
)
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.shards.window_documents import documents_of_windows, windows_of_places
from tinyllama.shards.window_order import WindowOrder
from tinyllama.tokenizer.bpe import Tokenizer

# Three files of 7, 5 and 8 ids; document c lies in two of them.
DOCUMENTS = [[("a", "web", 4), ("b", "book", 3)], [("c", "web", 5)], [("c", "web", 2), ("d", "law", 6)]]


def write_split(folder: Path, files: Any = DOCUMENTS, **changes: Any) -> Path:
    """A split whose ids count up from 0 over its files."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = changes.get("vocab_size", 100)
    next_id, shards, seen = 0, [], set()
    for number, rows in enumerate(files):
        n_tokens = sum(tokens for _, _, tokens in rows)
        path = folder / shard_name(number)
        ids = np.arange(next_id, next_id + n_tokens, dtype=token_dtype(vocab_size))
        path.with_suffix(".bin").write_bytes(pack_header(n_tokens, vocab_size) + ids.tobytes())
        offsets = np.cumsum([0, *(tokens for _, _, tokens in rows)])[:-1]
        columns = {
            "id": [r[0] for r in rows],
            "kind": [r[1] for r in rows],
            "offset": offsets,
            "tokens": [r[2] for r in rows],
        }
        pq.write_table(pa.table(columns, schema=shard_format.DOCUMENT_SCHEMA), path.with_suffix(".parquet"))
        new = {r[0] for r in rows} - seen
        seen |= new
        shards.append(
            ShardFile(
                name=path.name, tokens=n_tokens, documents=len(new), text_bytes=10 * len(new),
                sha256=sha256_file(path.with_suffix(".bin")), documents_sha256=sha256_file(path.with_suffix(".parquet")),
            )
        )  # fmt: skip
        next_id += n_tokens
    values = {
        "format_version": 1, "dtype": token_dtype(vocab_size).name, "vocab_size": vocab_size, "bos_id": 1, "eos_id": 2,
        "tokenizer_fingerprint": "t", "tokens": next_id, "documents": len(seen), "text_bytes": 10 * len(seen),
        "shards": shards,
    }  # fmt: skip
    write_index(folder, ShardIndex(**(values | changes)))
    return folder


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return write_split(tmp_path / "train")


# -- the form ----------------------------------------------------------------------------------------------------------


def test_names_and_widths():
    assert [shard_name(number) for number in (0, 7, 12345, 123456)] == ["00000", "00007", "12345", "123456"]
    assert [token_dtype(size).itemsize for size in (1, 2**16, 2**16 + 1)] == [2, 2, 4]
    assert pack_header(1, 2**16)[12:16] == b"\2\0\0\0"
    assert pack_header(1, 2**16 + 1)[12:16] == b"\4\0\0\0"


@pytest.mark.parametrize("key", ["bos_id", "eos_id"])
def test_each_special_id_lies_in_the_vocabulary(tmp_path: Path, key: str):
    assert getattr(read_index(write_split(tmp_path / "a", **{key: 99})), key) == 99
    with pytest.raises(InputError, match="bos_id or eos_id outside the vocabulary of 100"):
        read_index(write_split(tmp_path / "b", **{key: 100}))


@pytest.mark.parametrize("key", ["tokens", "documents", "text_bytes"])
def test_each_sum_is_that_of_the_files(tmp_path: Path, key: str):
    whole = {"tokens": 20, "documents": 4, "text_bytes": 40}[key]
    assert getattr(read_index(write_split(tmp_path / "a")), key) == whole
    with pytest.raises(InputError, match=f"{key}: {whole + 1}, but the sum over the files is {whole}"):
        read_index(write_split(tmp_path / "b", **{key: whole + 1}))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, "uint32"), (2**16 + 1, "uint16")])
def test_the_width_is_that_of_the_vocabulary(tmp_path: Path, vocab_size: int, dtype: str):
    assert read_index(write_split(tmp_path / "a", vocab_size=vocab_size)).vocab_size == vocab_size
    with pytest.raises(InputError, match=f"dtype: {dtype}, but"):
        read_index(write_split(tmp_path / "b", vocab_size=vocab_size, dtype=dtype))


@pytest.mark.parametrize(
    "values", [{"tokens": 0}, {"documents": -1}, {"text_bytes": -1}, {"name": 3}, {"more": 1}, {"tokens": 1.0}]
)
def test_rows_of_the_index_have_their_limits(split: Path, values: dict[str, Any]):
    shard = read_index(split).shards[0].model_dump()
    assert ShardFile.model_validate(shard | {"tokens": 1, "documents": 0, "text_bytes": 0}).tokens == 1
    with pytest.raises(ValueError, match="validation error"):
        ShardFile.model_validate(shard | values)
    with pytest.raises(ValueError, match="frozen"):
        read_index(split).shards[0].tokens = 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "values",
    [{"vocab_size": 0}, {"vocab_size": 2**32 + 1}, {"bos_id": -1}, {"eos_id": -1}, {"tokens": -1}, {"dtype": "int32"},
     {"documents": -1}, {"text_bytes": -1}, {"vocab_size": "100"}, {"more": 1}],
)  # fmt: skip
def test_the_index_has_its_limits(split: Path, values: dict[str, Any]):
    whole = read_index(split).model_dump()
    edges = {"vocab_size": 2**32, "bos_id": 0, "eos_id": 0, "tokens": 0, "documents": 0, "text_bytes": 0, "shards": []}
    assert ShardIndex(**(whole | edges)).vocab_size == 2**32
    with pytest.raises(ValueError, match="validation error"):
        ShardIndex(**(whole | values))
    with pytest.raises(ValueError, match="frozen"):
        read_index(split).tokens = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_a_file_is_held_against_header_and_size_exactly(split: Path):
    path = split / "00000.bin"
    check_shard_file(path, 7, 100)
    for n_tokens, vocab_size in ((6, 100), (8, 100), (7, 99), (7, 70_000)):
        with pytest.raises(InputError, match="header says 7 ids of 2 bytes, vocabulary 100; the index says"):
            check_shard_file(path, n_tokens, vocab_size)
    data = path.read_bytes()
    for size in (255, 256, 256 + 13, 256 + 15):
        path.write_bytes((data + b"\0")[:size])
        words = "not a token shard" if size < 256 else f"{size} bytes, expected 270"
        with pytest.raises(InputError, match=words):
            map_shard(split, read_index(split).shards[0], 100)
    path.write_bytes(data)
    ids = map_shard(split, read_index(split).shards[0], 100)
    assert (ids.tolist(), ids.dtype, ids.flags.writeable) == (list(range(7)), np.dtype("<u2"), False)


def test_tokens_are_counted_in_pieces(split: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_format, "COUNT_CHUNK_TOKENS", 3)
    assert count_tokens(split).tolist() == [1] * 20 + [0] * 80


def test_the_largest_id_is_the_last_of_the_vocabulary(tmp_path: Path):
    assert count_tokens(write_split(tmp_path / "a", vocab_size=20)).tolist() == [1] * 20
    shards = TokenShards(tmp_path / "a")
    assert shards.tokens(0, 20).tolist() == list(range(20))
    low = write_split(tmp_path / "b", vocab_size=19)
    with pytest.raises(InputError, match=r"00002\.bin: token id 19 outside the vocabulary of 19"):
        count_tokens(low)
    assert TokenShards(low).tokens(12, 19).tolist() == list(range(12, 19))
    with pytest.raises(InputError, match=r"00002\.bin: token id 19 outside"):
        TokenShards(low).tokens(10, 20)


@pytest.mark.parametrize("values", [[0, 3], [0, 5], [1, 4]])
def test_rows_that_leave_a_gap_are_refused(split: Path, values: list[int]):
    shard = read_index(split).shards[0]
    rows = {"id": ["a", "b"], "kind": ["web", "web"], "offset": values, "tokens": [4, 3]}
    pq.write_table(pa.table(rows, schema=shard_format.DOCUMENT_SCHEMA), split / "00000.parquet")
    with pytest.raises(InputError, match=r"its documents do not fill 00000\.bin"):
        read_shard_documents(split, shard)
    empty = {name: pa.array([], kind) for name, kind in zip(("id", "kind"), (pa.string(), pa.string()), strict=True)}
    table = pa.table({**empty, "offset": pa.array([], pa.int64()), "tokens": pa.array([], pa.int64())})
    pq.write_table(table, split / "00000.parquet")
    with pytest.raises(InputError, match="do not fill"):
        read_shard_documents(split, shard)


def test_every_place_of_a_document(split: Path):
    assert find_document(split, "c") == [
        DocumentPlace(split / "00001.bin", 0, 5),
        DocumentPlace(split / "00002.bin", 0, 2),
    ]
    assert find_document(split, "b") == [DocumentPlace(split / "00000.bin", 4, 3)]
    assert find_document(split, "none") == []


# -- windows and documents ---------------------------------------------------------------------------------------------


def test_documents_and_where_they_begin(split: Path):
    shards = TokenShards(split)
    for stop, n_files in ((0, 0), (1, 1), (7, 1), (8, 2), (12, 2), (13, 3), (20, 3)):
        starts, kinds, names = shards.documents(stop)
        assert starts.tolist() == [0, 4, 7, 12, 14][: (0, 2, 3, 5)[n_files]]
        assert starts.dtype == kinds.dtype == np.int64
        assert [names[kind] for kind in kinds] == ["web", "book", "web", "web", "law"][: len(starts)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("windows", "found"),
    [([0], "a"), ([1], "ab"), ([2], "bc"), ([3], "c"), ([4], "cd"), ([5], "d"), ([6], "d"), ([5, 0, 0], "ad"), ([], ""),
     ([2, 3, 4], "bcd")],
)  # fmt: skip
def test_documents_of_windows_of_three_tokens(split: Path, windows: list[int], found: str):
    """Windows begin at 0, 3, 6 and on; a lies in [0, 4), b in [4, 7), c in [7, 14), d in [14, 20); the last has two."""
    assert documents_of_windows(split, windows, 2) == list(found)


def test_windows_of_documents_of_three_tokens(split: Path):
    wanted = {"a": [0, 1], "b": [1, 2], "c": [2, 3, 4], "d": [4, 5]}
    assert {name: windows_of_places(split, find_document(split, name), 2) for name in wanted} == wanted
    assert windows_of_places(split, [*find_document(split, "d"), *find_document(split, "a")], 2) == [0, 1, 4, 5]
    assert windows_of_places(split, [DocumentPlace(split / "00002.bin", 6, 2)], 2) == []  # past the last whole window
    assert windows_of_places(split, [DocumentPlace(split / "00002.bin", 5, 1)], 2) == [5]


def test_windows_of_a_split_end_with_the_last_whole_one(split: Path):
    shards = TokenShards(split)
    assert [shards.n_windows(seq_len) for seq_len in (1, 2, 3, 4, 18, 19, 20)] == [10, 6, 5, 4, 1, 1, 0]
    assert window_at(3, 4, shards).tolist() == [15, 16, 17, 18, 19]
    for index in (4, -1):
        with pytest.raises(IndexError, match=r"outside range\(4\)"):
            window_at(index, 4, shards)
    assert shards.tokens(20, 20).tolist() == []
    assert shards.tokens(0, 0).dtype == np.uint16
    with pytest.raises(IndexError):
        shards.tokens(0, 21)


def test_a_run_needs_one_window_that_is_left(split: Path):
    shards = TokenShards(split)
    assert Batches(shards, 9, 1, 0, [Quarantined(0, (0,))]).windows(0, 0, 1) == [1]
    for entries in ([Quarantined(0, (0, 1))], [Quarantined(0, (0,)), Quarantined(5, (1,))]):
        with pytest.raises(
            RecipeError, match="holds 20 tokens, a window needs 10 and 2 windows are quarantined; lower"
        ):
            Batches(shards, 9, 1, 0, entries)
    with pytest.raises(RecipeError, match="a window needs 21; lower"):
        Batches(shards, 20, 1, 0)


def test_sequences_of_a_step_by_their_numbers(split: Path):
    batches = Batches(TokenShards(split), 1, 4, seed=3)
    order = WindowOrder(10, 3)
    assert batches.windows(2, 1, 3) == [order.window(sample) for sample in (9, 10, 11)]
    assert batches.windows(0, 4, 0) == []
    for start, count in ((-1, 1), (0, -1), (4, 1), (0, 5)):
        with pytest.raises(IndexError, match=r"outside the step's 4"):
            batches.windows(0, start, count)
    batch = batches.micro_batch(2, 1, 3)
    assert batch.inputs.tolist() == [[2 * order.window(sample)] for sample in (9, 10, 11)]
    assert batch.targets.tolist() == [[2 * order.window(sample) + 1] for sample in (9, 10, 11)]
    assert batch.sample_indices.tolist() == [9, 10, 11]
    assert all(array.flags.c_contiguous for array in batch)


# -- reading ahead -----------------------------------------------------------------------------------------------------


def test_so_many_are_read_ahead_and_no_more(split: Path):
    batches, made, third = Batches(TokenShards(split), 1, 4, seed=3), [], threading.Event()

    def prepare(batch: Any) -> int:
        made.append(batch.sample_indices[0])
        if len(made) == 3:
            third.set()
        return len(made)

    slices = [(step, 0, 1) for step in range(9)]
    found = prefetch(batches, slices, prepare, ready=1)
    assert next(found) == 1
    assert third.wait(10)
    assert list(found) == list(range(2, 10))
    assert made == [4 * step for step in range(9)]


def test_a_reader_that_waits_long_loses_nothing(split: Path, monkeypatch: pytest.MonkeyPatch):
    """The thread finds the queue full again and again, and puts each batch once."""
    full: list[float] = []
    sizes: list[int] = []

    class Full(queue.Queue):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            sizes.append(size)

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            full.append(timeout or 0)
            if len(full) % 3:
                raise queue.Full
            super().put(item, block, timeout)

    monkeypatch.setattr(batches_module.queue, "Queue", Full)
    batches = Batches(TokenShards(split), 1, 4, seed=3)
    found = prefetch(batches, [(step, 0, 1) for step in range(5)], lambda batch: int(batch.sample_indices[0]))
    assert list(found) == [0, 4, 8, 12, 16]
    assert (len(full), sizes) == (18, [2])
    assert all(full), "a reader that is gone does not hold the thread"


def test_the_thread_that_reads_ahead_does_not_hold_the_process(split: Path):
    batches = Batches(TokenShards(split), 1, 4, seed=3)

    def about(_: object) -> tuple[str, bool]:
        return threading.current_thread().name, threading.current_thread().daemon

    assert list(prefetch(batches, [(0, 0, 1)], about)) == [("prefetch", True)]


# -- the writer --------------------------------------------------------------------------------------------------------


def test_one_document_in_a_hundred_is_held_out_unless_told_otherwise(tokenizer: Tokenizer, tmp_path: Path):
    """Of ids whose hashes lie below 1%, between 1% and 2%, and above."""
    ids = [str(number) for number in range(2000)]
    held_out = [i for i in ids if is_validation(i, 0.01)]
    nearly = [i for i in ids if is_validation(i, 0.02) and i not in held_out]
    chosen = [*held_out[:3], *nearly[:4], *[i for i in ids if not is_validation(i, 0.02)][:5]]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": "{i}", "text": "words of {i}"}}\n' for i in chosen))
    found = shard_writer.write_shards(ShardsConfig(), [source], tokenizer, tmp_path / "out")
    assert (found["train_documents"], found["validation_documents"], found["documents"]) == (9, 3, 12)
    text_bytes = sum(len(f"words of {i}") for i in chosen)
    assert found["bytes_per_token"] == round(text_bytes / found["tokens"], 4)
    assert found["tokens"] == found["train_tokens"] + found["validation_tokens"]
    assert found["bytes"] == 2 * 256 + 2 * found["tokens"]


@pytest.mark.parametrize("key", ["bos_id", "eos_id"])
def test_a_tokenizer_needs_both_ends(tokenizer_folder: Path, tmp_path: Path, key: str):
    tokenizer = Tokenizer.load(tokenizer_folder)
    setattr(tokenizer, key, None)
    with pytest.raises(InputError, match="no BOS or no EOS"):
        shard_writer.write_shards(ShardsConfig(), [tmp_path], tokenizer, tmp_path / "out")


def test_the_line_and_the_summary_say_how_far_and_how_long(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With a clock that starts at 50 s and ends at 52.5 s."""
    said: list[Any] = []

    class Line:
        def update(self, done: int, note: str = "") -> None:
            said.append((done, note))

    @contextmanager
    def progress(description: str, total: int) -> Iterator[Line]:
        said.append((description, total))
        yield Line()

    clock = iter([50.0, 52.5])
    monkeypatch.setattr(shard_writer.log, "progress", progress)
    monkeypatch.setattr(shard_writer.time, "monotonic", lambda: next(clock))
    for name in ("a", "b"):
        text = "q\n" * 60_000
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": text}) + "\n")
    inputs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    found = shard_writer.write_shards(ShardsConfig(), inputs, tokenizer, tmp_path / "out", validation_fraction=0.0)
    assert found["seconds"] == 2.5
    n = found["tokens"] / 2e6
    assert n > 0.05
    assert said == [
        ("shards, train", 2), (0, f"{n:.1f} M tokens"), (1, f"{2 * n:.1f} M tokens"), ("shards, validation", 0),
    ]  # fmt: skip


def test_settings_of_shards():
    assert ShardsConfig().max_shard_bytes == 1_000_000_000
    assert ShardsConfig(max_shard_bytes=1024).result_values() == {"max_shard_bytes": 1024}
    with pytest.raises(ValueError, match="greater than or equal to 1024"):
        ShardsConfig(max_shard_bytes=1023)
    assert shard_writer.BATCH_TEXT_BYTES == 4 * 2**20
