"""A power cut at any moment of writing shards: no split looks whole that is not, and the work ends with the same bytes."""

import json
import os
from pathlib import Path

import pytest

from tests.power_cut import Recorder
from tinyllama.errors import InputError
from tinyllama.files import read_json
from tinyllama.shards.shard_format import ShardFile, read_shard_documents, verify_split
from tinyllama.shards.shard_writer import write_shards
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.tokenizer.bpe import Tokenizer

SMALL, OTHER = ShardsConfig(max_shard_bytes=1024), ShardsConfig(max_shard_bytes=2048)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but those that a kill left half-written."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not path.name.startswith(".")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Nine documents of 22 to 302 tokens, one of them larger than a file of 384."""
    path = tmp_path / "in.jsonl"
    lengths = (10, 60, 100, 150, 20, 250, 40, 120, 90)
    path.write_text("".join(json.dumps({"id": str(i), "text": "q\n" * n}) + "\n" for i, n in enumerate(lengths)))
    return path


def write(config: ShardsConfig, source: Path, tokenizer: Tokenizer, out: Path) -> dict[str, bytes]:
    write_shards(config, [source], tokenizer, out, validation_fraction=0.4)
    return bytes_of(out)


def look(out: Path) -> None:
    """A split with an index is whole; so is every file that progress names."""
    progress = read_json(out / "progress.json") if (out / "progress.json").exists() else {}
    for split in ("train", "validation"):
        if (out / split / "index.json").exists():
            verify_split(out / split)
        for row in progress.get(split, {}).get("shards", []):
            shard = ShardFile.model_validate(row)
            read_shard_documents(out / split, shard)
            assert (out / split / f"{shard.name}.bin").stat().st_size == 256 + 2 * shard.tokens


def test_written_from_nothing(source: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    with Recorder(disk, monkeypatch) as recorder:
        wanted = write(SMALL, source, tokenizer, disk / "shards")
    assert len([name for name in wanted if name.startswith("train") and name.endswith(".bin")]) >= 3
    assert sum(verify_split(disk / "shards" / split).documents for split in ("train", "validation")) == 9
    monkeypatch.setattr(os, "fsync", lambda _: None)  # from here on only states are looked at
    cuts = list(recorder.cuts(seeds=1))
    assert len(cuts) > 60
    for number, cut in enumerate(cuts):
        out = cut.write(tmp_path / "cut") / "shards"
        look(out)
        if number % 7 == 0:
            assert write(SMALL, source, tokenizer, out) == wanted, (number, cut.how)
            assert not list(out.rglob(".*")), "what a kill left is swept"


def test_written_anew_over_unfinished_ones(
    source: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever goes back to the settings of the unfinished ones is not led by progress to files that are gone."""
    wanted = {config.max_shard_bytes: write(config, source, tokenizer, tmp_path / "whole") for config in (SMALL, OTHER)}
    out, calls = tmp_path / "disk" / "shards", []
    out.parent.mkdir()

    def killed_at_the_second(self: Tokenizer, texts: list[str]) -> list:
        calls.append(len(texts))
        if len(calls) > 7:
            raise KeyboardInterrupt
        return encode_batch(self, texts)

    encode_batch = Tokenizer.encode_batch
    monkeypatch.setattr("tinyllama.shards.shard_writer.BATCH_TEXT_BYTES", 1)
    monkeypatch.setattr(Tokenizer, "encode_batch", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write(SMALL, source, tokenizer, out)
    monkeypatch.undo()
    assert "train" in read_json(out / "progress.json")
    with Recorder(out.parent, monkeypatch) as recorder:
        assert write(OTHER, source, tokenizer, out) == wanted[2048]
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for number, cut in enumerate(recorder.cuts(seeds=1)):
        config = (SMALL, OTHER)[number // 3 % 2]
        place = cut.write(tmp_path / "cut") / "shards"
        look(place)
        if number < 30 or number % 9 == 0:
            assert write(config, source, tokenizer, place) == wanted[config.max_shard_bytes], (number, cut.how)


def test_refused_input_leaves_nothing_that_claims_to_be_finished(
    source: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = tmp_path / "disk"
    disk.mkdir()
    with source.open("a") as file:
        file.write('{"id": "last"}\n')
    with Recorder(disk, monkeypatch) as recorder, pytest.raises(InputError, match="has no `text`"):
        write(SMALL, source, tokenizer, disk / "shards")
    for cut in recorder.cuts(seeds=1):
        look(cut.write(tmp_path / "cut") / "shards")
    assert bytes_of(disk) == {}
