import json
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinyllama.errors import InputError, TinyllamaError
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_format import (
    HEADER_BYTES,
    count_tokens,
    find_document,
    open_split,
    pack_header,
    read_index,
    read_shard_documents,
    token_dtype,
    verify_split,
)
from tinyllama.tokenizer.bpe import Tokenizer


@pytest.fixture
def split(shards: Path, tmp_path: Path) -> Path:
    """A copy of the training split that a test may damage."""
    return Path(shutil.copytree(shards / "train", tmp_path / "train"))


def change_index(split: Path, **values: object) -> None:
    path = split / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_header_byte_by_byte():
    header = pack_header(n_tokens=0x0102030405, vocab_size=32_000)
    assert len(header) == HEADER_BYTES == 256
    assert header[:8] == b"TLSHARD\x00"
    assert struct.unpack("<IIQI", header[8:28]) == (1, 2, 0x0102030405, 32_000)
    assert header[28:] == bytes(228)


def test_ids_are_uint16_up_to_65536_pieces():
    assert token_dtype(65_536) == np.dtype("<u2")
    assert token_dtype(65_537) == np.dtype("<u4")


def test_the_index_and_the_files_agree(shards: Path, tokenizer: Tokenizer):
    index = verify_split(shards / "train")
    assert index.dtype == "uint16"
    assert index.vocab_size == 600
    assert index.tokenizer_fingerprint == tokenizer.fingerprint
    assert len(index.shards) > 3
    for shard in index.shards:
        data = (shards / "train" / f"{shard.name}.bin").read_bytes()
        assert len(data) == 256 + 2 * shard.tokens <= 20_000
        assert np.frombuffer(data[256:], "<u2").max() < 600


def test_documents_tile_each_file_from_bos_to_eos(shards: Path, rows: list[dict[str, str]], tokenizer: Tokenizer):
    by_id = {row["id"]: row for row in rows}
    seen: list[str] = []
    for split in ("train", "validation"):
        index = open_split(shards / split)
        for shard in index.shards:
            ids = np.fromfile(shards / split / f"{shard.name}.bin", "<u2", offset=256)
            table = read_shard_documents(shards / split, shard).to_pylist()
            assert len(table) == shard.documents
            for row in table:
                document = ids[row["offset"] : row["offset"] + row["tokens"]].tolist()
                assert document == [1, *tokenizer.encode(by_id[row["id"]]["text"]), 2]
                assert row["kind"] == by_id[row["id"]]["kind"]
                seen.append(row["id"])
        assert index.text_bytes == sum(len(by_id[i]["text"].encode()) for i in seen[-index.documents :])
    assert sorted(seen) == sorted(by_id)


def test_counting_tokens(shards: Path):
    index = open_split(shards / "train")
    counts = count_tokens(shards / "train")
    assert counts.shape == (600,)
    assert counts.sum() == index.tokens
    assert counts[1] == counts[2] == index.documents


def test_finding_a_document(shards: Path, tokenizer: Tokenizer, rows: list[dict[str, str]]):
    found = [place for s in ("train", "validation") for place in find_document(shards / s, "doc-33")]
    assert len(found) == 1
    ids = np.fromfile(found[0].file, "<u2", offset=256)[found[0].offset : found[0].offset + found[0].tokens]
    assert tokenizer.decode(ids) == rows[33]["text"]
    assert find_document(shards / "train", "no such id") == []


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "not a token shard"),
        (8, b"\x02", "shard format version 2, this program reads 1"),
        (12, b"\x04", "ids of 4 bytes"),
        (16, b"\xff", "the index says"),
        (24, b"\x01", "the index says"),
        (100, b"\x01", "the index says"),
    ],
)
def test_a_changed_header_is_refused_at_opening(split: Path, at: int, value: bytes, message: str):
    path = split / "00001.bin"
    data = bytearray(path.read_bytes())
    data[at : at + 1] = value
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        TokenShards(split)
    assert "00001.bin" in str(caught.value)


@pytest.mark.parametrize("change", [lambda data: data[:-2], lambda data: data + b"\0", lambda data: data[:100]])
def test_a_file_of_another_size_is_refused_at_opening(split: Path, change):
    path = split / "00002.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=r"00002\.bin"):
        TokenShards(split)


def test_a_missing_file_is_refused_at_opening(split: Path):
    (split / "00000.bin").unlink()
    with pytest.raises(InputError, match=r"00000\.bin: cannot be read"):
        TokenShards(split)


def test_a_changed_id_is_found_by_verify(split: Path):
    path = split / "00000.bin"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    shards = TokenShards(split)
    with pytest.raises(InputError, match=r"00000\.bin: .*sha256"):
        shards.verify()


def test_an_id_outside_the_vocabulary_is_found_when_it_is_read(split: Path):
    path = split / "00000.bin"
    data = bytearray(path.read_bytes())
    data[256 + 2 * 10 : 256 + 2 * 11] = b"\xff\xff"
    path.write_bytes(data)
    shards = TokenShards(split)
    assert len(shards.tokens(0, 10)) == 10
    with pytest.raises(InputError, match=r"00000\.bin: token id 65535 outside the vocabulary of 600"):
        shards.tokens(0, 11)
    with pytest.raises(InputError, match="token id 65535"):
        count_tokens(split)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 2}, "shard format version 2"),
        ({"tokens": 5}, "tokens: 5, but the sum over the files is"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"vocab_size": 100_000}, "dtype: uint16"),
        ({"bos_id": 600}, "bos_id or eos_id outside"),
        ({"surprise": 1}, "surprise"),
        ({"shards": [{"name": "../../etc"}]}, "shards"),
    ],
)
def test_a_changed_index_is_refused(split: Path, values: dict[str, object], message: str):
    change_index(split, **values)
    with pytest.raises(InputError, match=message) as caught:
        open_split(split)
    assert "index.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_leaves_the_folder_is_refused(split: Path):
    index = json.loads((split / "index.json").read_text())
    index["shards"][0]["name"] = "../00000"
    change_index(split, shards=index["shards"])
    with pytest.raises(InputError, match=r"shards\.0\.name"):
        read_index(split)


def test_no_index(tmp_path: Path):
    with pytest.raises(InputError, match=r"index\.json: no such file"):
        open_split(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(InputError, match="format version None"):
        open_split(tmp_path)


def test_documents_that_do_not_fill_the_shard_are_refused(split: Path):
    shard = open_split(split).shards[0]
    path = split / "00000.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(InputError, match="do not fill"):
        read_shard_documents(split, shard)
    pq.write_table(pa.table({"id": ["x"]}), path)
    with pytest.raises(InputError, match="columns"):
        read_shard_documents(split, shard)
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        read_shard_documents(split, shard)


@pytest.mark.parametrize("name", ["index.json", "00000.bin", "00000.parquet"])
def test_no_damage_passes_verify(split: Path, name: str):
    """One changed byte or a cut anywhere: refused, always by an error of ours that is one line."""
    whole = (split / name).read_bytes()
    before = open_split(split)
    for seed in range(40):
        dice = random.Random(seed)
        data = bytearray(whole)
        at = dice.randrange(len(data))
        if seed % 2:
            data = data[:at]
        else:
            data[at] ^= 1 << dice.randrange(8)
        (split / name).write_bytes(data)
        try:
            after = verify_split(split)
        except TinyllamaError as error:
            message = str(error)
        else:  # only words of the index that nothing else repeats can change unseen
            assert name == "index.json"
            assert after.model_dump(exclude={"tokenizer_fingerprint", "bos_id", "eos_id"}) == before.model_dump(
                exclude={"tokenizer_fingerprint", "bos_id", "eos_id"}
            )
            continue
        assert "\n" not in message
        assert str(split) in message
