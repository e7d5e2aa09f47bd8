"""Data that is not what the run began with is refused at the start: one line, the file's name, exit code 2."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import overrides
from tests.train.run_processes import stopped
from tinyllama import api, files
from tinyllama.errors import InputError, RecipeError, RunStoppedError
from tinyllama.train import run_data

SHARD = Path("shards") / "train" / "00000.bin"


def flip(path: Path, at: int = 5000) -> None:
    """One bit of a file; its size and time of change stay, as rot on a disk leaves them."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def train_for_a_moment(run_dir: Path, *more: str) -> None:
    with pytest.raises(RunStoppedError, match="time limit"):
        api.pretrain("small-120m", run_dir, [*overrides(), "train.time_limit_minutes=1e-6", *more])


def refusal(run_dir: Path, *more: str) -> str:
    """The one line with which a run is refused."""
    with pytest.raises(InputError) as error:
        api.pretrain("small-120m", run_dir, [*overrides(), *more])
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_flipped_bit_is_found_before_the_first_step(run_dir: Path):
    flip(run_dir / SHARD)
    line = refusal(run_dir)
    assert line.startswith(f"{run_dir / SHARD}: not the file that was written")
    assert "restore it, or make the shards again" in line
    assert not (run_dir / "checkpoints").exists()
    assert not (run_dir / "events.jsonl").exists()


def test_by_the_command_it_is_one_line_and_exit_code_2(run_dir: Path):
    flip(run_dir / SHARD)
    exit_code, line = stopped(run_dir, overrides())
    assert exit_code == 2
    assert str(run_dir / SHARD) in line


def test_a_truncated_shard(run_dir: Path):
    os.truncate(run_dir / SHARD, 3000)
    assert f"{run_dir / SHARD}: 3000 bytes, expected" in refusal(run_dir)


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shard files that are read against their sha256."""
    found: list[str] = []
    sha256_file = files.sha256_file

    def noted(path: Path) -> str:
        if path.suffix == ".bin":
            found.append(f"{path.parent.name}/{path.name}")
        return sha256_file(path)

    monkeypatch.setattr(run_data.files, "sha256_file", noted)
    return found


def test_a_file_is_read_once_and_again_when_it_changed(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    config = run_data.TrainConfig()
    read = read_files(monkeypatch)
    run_data.verify_run_data(run_dir, config)
    assert sorted(read) == ["train/00000.bin", "validation/00000.bin"]
    run_data.verify_run_data(run_dir, config)
    assert len(read) == 2
    os.utime(run_dir / SHARD)
    run_data.verify_run_data(run_dir, config)
    assert read[2:] == ["train/00000.bin"]
    run_data.verify_run_data(run_dir, run_data.TrainConfig(verify_shards="always"))
    assert len(read) == 5
    (run_dir / run_data.VERIFIED).unlink()
    run_data.verify_run_data(run_dir, run_data.TrainConfig(verify_shards="never"))
    assert len(read) == 5


def test_rot_is_found_when_every_start_reads_all(run_dir: Path):
    train_for_a_moment(run_dir)
    flip(run_dir / SHARD)
    train_for_a_moment(run_dir)  # as before by size and time: this is what `once` cannot see
    assert "sha256" in refusal(run_dir, "train.verify_shards=always")


def test_a_shard_rewritten_under_the_run(run_dir: Path):
    train_for_a_moment(run_dir)
    path = run_dir / SHARD
    path.write_bytes(path.read_bytes()[:-2] + b"\5\0")
    assert str(path) in refusal(run_dir)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_shards_made_anew_under_the_run(run_dir: Path, split: str):
    train_for_a_moment(run_dir)
    path = run_dir / "shards" / split / "index.json"
    index = files.read_json(path)
    index["text_bytes"] += 1
    index["shards"][0]["text_bytes"] += 1
    files.write_json(path, index)
    line = refusal(run_dir)
    assert line.startswith(f"{path}: not what ")
    assert "step_0000000" in line
    assert "put the old one back" in line


def test_shards_whose_manifest_changed(run_dir: Path):
    train_for_a_moment(run_dir)
    manifest = run_dir / "shards" / "manifest.json"
    files.write_json(manifest, files.read_json(manifest) | {"fingerprint": "another"})
    assert f"its inputs changed: {run_dir / 'shards'}" in refusal(run_dir)


def other_tokenizer(run_dir: Path, corpus: Path) -> None:
    from tinyllama.tokenizer.bpe_train import train_tokenizer
    from tinyllama.tokenizer.tokenizer_config import TokenizerConfig

    shutil.rmtree(run_dir / "tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=400), [corpus], run_dir / "tokenizer")


def append_to(name: str) -> Callable[[Path], None]:
    def change(run_dir: Path) -> None:
        with (run_dir / "tokenizer" / name).open("ab") as file:
            file.write(b" ")

    return change


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_tokenizer_that_is_not_the_one_of_its_manifest(run_dir: Path, name: str):
    append_to(name)(run_dir)
    line = refusal(run_dir)
    assert line.startswith(f"{run_dir / 'tokenizer' / name}: missing, or not the file that")


def test_another_tokenizer_than_the_shards(run_dir: Path):
    other_tokenizer(run_dir, run_dir / "clean" / "train")
    line = refusal(run_dir)
    assert line.startswith(str(run_dir / "shards" / "train" / "index.json"))
    assert "made with another tokenizer" in line
    assert str(run_dir / "tokenizer" / "tokenizer.model") in line


def test_a_network_with_too_few_rows_for_the_tokenizer(run_dir: Path):
    with pytest.raises(
        RecipeError, match=r"model\.vocab_size: 300 is below the tokenizer's 512 pieces; give at least 512"
    ):
        api.pretrain("small-120m", run_dir, overrides(model__vocab_size=300))
