"""Opens a run's data and checks it against its fingerprints before the first step: shards, tokenizer, network.

What is looked at, and what it costs:

    at every start    index.json of both splits; header and size of each shard file; each file of the tokenizer against
                      its manifest; the tokenizer against the one that the shards were made with: some reads a file
    once a file       its sha256 against the index, when it is seen for the first time or its size or time of change is
                      not that of the last look (train.verify_shards = "once"): all bytes are read, by several threads
    at every resume   the fingerprints in the checkpoint: the index of each split, with the sha256 of every file in it

Which files were found whole is kept in `verified.json` of the run folder.
"""

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tinyllama import files, log
from tinyllama.errors import InputError, RecipeError
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_format import INDEX_FILE, open_split
from tinyllama.tokenizer.bpe import Tokenizer

SPLITS = ("train", "validation")
FINGERPRINTED = {  # name in a checkpoint's state: what it is the sha256 of, in the run folder
    "tokenizer_fingerprint": "tokenizer",
    "shards_fingerprint": f"shards/train/{INDEX_FILE}",
    "validation_fingerprint": f"shards/validation/{INDEX_FILE}",
}
VERIFIED = "verified.json"
HASHING_THREADS = 8  # hashing releases Python's lock; more do not make a disk faster


@dataclass(frozen=True)
class RunData:
    """Opened shards and tokenizer that belong together."""

    tokenizer: Tokenizer
    train: TokenShards
    validation: TokenShards
    fingerprints: dict[str, str]  # by their name in a checkpoint's state


def open_run_data(run_dir: Path, config: LlamaConfig) -> RunData:
    """Open `run_dir`/shards and /tokenizer and check that they fit each other and the network.

    Raises InputError, which names the file, when they do not belong together or a size or header is wrong; RecipeError
    when the network's vocabulary is too small.
    """
    folder = run_dir / "tokenizer"
    _check_tokenizer_files(folder)
    tokenizer = Tokenizer.load(folder)
    splits = {name: TokenShards(run_dir / "shards" / name) for name in SPLITS}
    for shards in splits.values():
        path = shards.split / INDEX_FILE
        if shards.index.tokenizer_fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{path}: these shards were made with another tokenizer than {folder / tokenizer.file_name}; "
                "put that one back, or make the shards again"
            )
        if shards.index.vocab_size > config.vocab_size:
            raise RecipeError(
                f"model.vocab_size: {config.vocab_size} is below the tokenizer's {tokenizer.vocab_size} tokens; "
                f"give at least {shards.index.vocab_size}, as {path} says"
            )
    indexes = {key: run_dir / name for key, name in FINGERPRINTED.items() if name.endswith(INDEX_FILE)}
    fingerprints = {"tokenizer_fingerprint": tokenizer.fingerprint}
    fingerprints |= {key: files.sha256_file(path) for key, path in indexes.items()}
    return RunData(tokenizer, splits["train"], splits["validation"], fingerprints)


def verify_run_data(run_dir: Path, verify_shards: str) -> None:
    """Check shard files against the sha256 in their index, as `train.verify_shards` says.

    Raises InputError that names the first file that is not the one that was written.
    """
    if verify_shards == "never":
        return
    path = run_dir / VERIFIED
    known = files.read_json(path) if path.is_file() and verify_shards == "once" else {}
    if not isinstance(known, dict):
        known = {}
    todo: dict[Path, tuple[str, str, list[int]]] = {}  # file: its key, sha256, size and time of change
    found: dict[str, list[int | str]] = {}
    for split in SPLITS:
        folder = run_dir / "shards" / split
        for shard in open_split(folder).shards:
            file = folder / f"{shard.name}.bin"
            key, status = f"{split}/{file.name}", file.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            if known.get(key) == [*stamp, shard.sha256]:
                found[key] = known[key]
            else:
                todo[file] = key, shard.sha256, stamp
    try:
        _hash_all(todo, found)
    finally:  # what was read need not be read again
        files.write_json(path, found)


def _hash_all(todo: dict[Path, tuple[str, str, list[int]]], found: dict[str, list[int | str]]) -> None:
    """Hash the files of `todo` and note the whole ones in `found`."""
    done_bytes = 0
    threads = min(HASHING_THREADS, os.cpu_count() or 1)
    with log.progress("verify shards", len(todo)) as line, ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(files.sha256_file, file): file for file in todo}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                file = futures[future]
                key, sha256, stamp = todo[file]
                if future.result() != sha256:
                    raise InputError(
                        f"{file}: not the file that was written, its sha256 is not the one in {file.with_name(INDEX_FILE)}; "
                        "restore it, or make the shards again"
                    )
                found[key] = [*stamp, sha256]
                done_bytes += stamp[0]
                line.update(number, f"{done_bytes / 1e9:,.1f} GB")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _check_tokenizer_files(folder: Path) -> None:
    """Check the tokenizer's files against its manifest, where it has one: the copies that go with a model count too."""
    path = folder / "manifest.json"
    manifest = files.read_json(path) if path.is_file() else {}
    rows = manifest.get("files") if isinstance(manifest, dict) else None
    for name, row in (rows if isinstance(rows, dict) else {}).items():
        file = folder / Path(name).name
        if not file.is_file() or not isinstance(row, dict) or files.sha256_file(file) != row.get("sha256"):
            raise InputError(
                f"{file}: missing, or not the file that {path} lists (sha256); put it back, or train the tokenizer again"
            )
