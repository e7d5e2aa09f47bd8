"""Data that is not what the run began with is refused at the start: one line, the file's name, exit code 2."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import overrides
from tests.tiny_model import tiny_config
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
    read = read_files(monkeypatch)
    run_data.verify_run_data(run_dir, "once")
    assert sorted(read) == ["train/00000.bin", "validation/00000.bin"]
    run_data.verify_run_data(run_dir, "once")
    assert len(read) == 2
    os.utime(run_dir / SHARD)
    run_data.verify_run_data(run_dir, "once")
    assert read[2:] == ["train/00000.bin"]
    run_data.verify_run_data(run_dir, "always")
    assert len(read) == 5
    (run_dir / run_data.VERIFIED).unlink()
    run_data.verify_run_data(run_dir, "never")
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
        RecipeError, match=r"model\.vocab_size: 300 is below the tokenizer's 512 tokens; give at least 512"
    ):
        api.pretrain("small-120m", run_dir, overrides(model__vocab_size=300))


# -- without a run -----------------------------------------------------------------------------------------------------


def verified(run_dir: Path) -> dict[str, Any]:
    return files.read_json(run_dir / run_data.VERIFIED)


def own_shards(small_data: Path, run_dir: Path) -> Path:
    run_dir.mkdir()
    shutil.copytree(small_data / "shards", run_dir / "shards")
    shutil.copytree(small_data / "tokenizer", run_dir / "tokenizer")
    return run_dir


def test_what_was_found_whole_is_noted_with_size_time_and_sha256(small_data: Path, tmp_path: Path):
    run_dir = own_shards(small_data, tmp_path / "run")
    run_data.verify_run_data(run_dir, "once")
    wanted = {}
    for split in ("train", "validation"):
        path = run_dir / "shards" / split / "00000.bin"
        status = path.stat()
        wanted[f"{split}/00000.bin"] = [status.st_size, status.st_mtime_ns, files.sha256_file(path)]
    assert verified(run_dir) == wanted
    files.write_json(run_dir / run_data.VERIFIED, ["of another program"])
    run_data.verify_run_data(run_dir, "once")
    assert verified(run_dir) == wanted


def test_a_damaged_file_is_not_noted_but_the_whole_ones_are(small_data: Path, tmp_path: Path):
    run_dir = own_shards(small_data, tmp_path / "run")
    run_data.verify_run_data(run_dir, "once")
    before = verified(run_dir)
    flip(run_dir / "shards" / "validation" / "00000.bin", 300)
    run_data.verify_run_data(run_dir, "once")  # nothing that can be seen has changed
    with pytest.raises(InputError, match=r"validation/00000\.bin: not the file that was written"):
        run_data.verify_run_data(run_dir, "always")
    assert verified(run_dir).keys() <= {"train/00000.bin"}
    index = run_dir / "shards" / "train" / "index.json"
    values = files.read_json(index)
    files.write_json(run_dir / run_data.VERIFIED, before)
    values["shards"][0]["sha256"] = "0" * 64  # the index changed: what is noted says nothing of it
    files.write_json(index, values)
    with pytest.raises(InputError, match=r"train/00000\.bin: not the file that was written"):
        run_data.verify_run_data(run_dir, "once")


def test_opened_data_and_their_fingerprints(small_data: Path):
    data = run_data.open_run_data(small_data, tiny_config())
    shards = small_data / "shards"
    assert (data.train.split, data.validation.split) == (shards / "train", shards / "validation")
    assert data.fingerprints == {
        "tokenizer_fingerprint": files.sha256_file(small_data / "tokenizer" / "tokenizer.model"),
        "shards_fingerprint": files.sha256_file(shards / "train" / "index.json"),
        "validation_fingerprint": files.sha256_file(shards / "validation" / "index.json"),
    }
    with pytest.raises(RecipeError, match="511 is below"):
        run_data.open_run_data(small_data, tiny_config(vocab_size=511))


@pytest.mark.parametrize("manifest", [None, [], {"files": []}, {"files": {}}])
def test_a_tokenizer_without_a_list_of_files_is_taken_as_it_is(small_data: Path, tmp_path: Path, manifest: Any):
    run_dir = own_shards(small_data, tmp_path / "run")
    path = run_dir / "tokenizer" / "manifest.json"
    path.unlink()
    if manifest is not None:
        files.write_json(path, manifest)
    run_data.open_run_data(run_dir, tiny_config())


@pytest.mark.parametrize("row", ["missing", "not a row", "other sha256"])
def test_every_listed_tokenizer_file_is_looked_at(small_data: Path, tmp_path: Path, row: str):
    run_dir = own_shards(small_data, tmp_path / "run")
    path = run_dir / "tokenizer" / "manifest.json"
    manifest = files.read_json(path)
    name = "tokenizer.json" if row != "missing" else "special.json"
    manifest["files"][name] = {"missing": {"sha256": "0"}, "not a row": 7, "other sha256": {"sha256": "0" * 64}}[row]
    files.write_json(path, manifest)
    with pytest.raises(InputError, match=f"{name}: missing, or not the file that"):
        run_data.open_run_data(run_dir, tiny_config())
