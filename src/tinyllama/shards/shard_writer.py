"""Tokenizes documents into token shards, one pass per split; resumes after the last complete file."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinyllama import log
from tinyllama.errors import InputError
from tinyllama.files import (
    atomic_file,
    read_json,
    sha256_file,
    sha256_json,
    sweep_temporary,
    sync_folder,
    write_json,
)
from tinyllama.hashing import is_validation
from tinyllama.shards.shard_format import (
    DOCUMENT_SCHEMA,
    FORMAT_VERSION,
    HEADER_BYTES,
    INDEX_FILE,
    ShardFile,
    ShardIndex,
    pack_header,
    read_index,
    shard_name,
    token_dtype,
    write_index,
)
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.tokenizer.document_text import DocumentText, has_splits, read_documents, split_files

SPLITS = ("train", "validation")
PROGRESS_FILE = "progress.json"
BATCH_TEXT_BYTES = 4 * 2**20
ROWS_PER_GROUP = 65_536
SHARD_FILE_NAME = re.compile(r"index\.json|\d+\.(bin|parquet)|\..*")


class Source(NamedTuple):
    """One input file; `divide`: it has documents of both splits, which `is_validation` separates."""

    path: Path
    divide: bool


class InputRow(NamedTuple):
    """A document's row in the input: number of the file, row in the file."""

    file: int
    row: int


class EncodedDocument(NamedTuple):
    at: InputRow
    id: str
    kind: str
    ids: np.ndarray  # BOS text EOS, dtype of the shards
    text_bytes: int


def write_shards(
    config: ShardsConfig, inputs: list[Path], tokenizer: Tokenizer, out: Path, validation_fraction: float = 0.01
) -> dict[str, Any]:
    """Write `out/train` and `out/validation`; return the summary that `--json` prints.

    A folder with `train/` keeps its own split; documents of any other input are split by the hash of their id. If it is
    killed at any moment and called again with the same arguments, the files have the same bytes. Raises InputError when
    there is no training document, a document cannot be read, or the tokenizer has no BOS or EOS; then no shards are left.
    """
    started = time.monotonic()
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise InputError("the tokenizer has no BOS or no EOS, and shards need both; choose another tokenizer")
    sources = {split: _sources(inputs, split, validation_fraction) for split in SPLITS}
    progress_path = _begin_or_resume(out, _work_key(config, sources, tokenizer, validation_fraction))
    try:
        for split in SPLITS:
            if not (out / split / INDEX_FILE).exists():
                _SplitWriter(config, tokenizer, out / split, progress_path).write(sources[split], validation_fraction)
        train, validation = (read_index(out / split) for split in SPLITS)
        if not train.documents:
            raise InputError(f"{', '.join(map(str, inputs))}: no document for training in these files; give more text")
    except InputError:  # with corrected input all work has to be repeated
        progress_path.unlink()
        _remove_shards(out)
        raise
    if not validation.documents:
        log.warn(
            f"no document fell into the validation split ({train.documents} documents); "
            "raise clean.validation_fraction or add documents"
        )
    progress_path.unlink()
    tokens = train.tokens + validation.tokens
    return {
        "documents": train.documents + validation.documents,
        "train_documents": train.documents,
        "validation_documents": validation.documents,
        "tokens": tokens,
        "train_tokens": train.tokens,
        "validation_tokens": validation.tokens,
        "bytes": sum(file.stat().st_size for split in SPLITS for file in (out / split).glob("*.bin")),
        "bytes_per_token": round((train.text_bytes + validation.text_bytes) / tokens, 4),
        "seconds": round(time.monotonic() - started, 3),
    }


class _SplitWriter:
    """Writes one split, file after file; `progress.json` names the complete files and the next document."""

    def __init__(self, config: ShardsConfig, tokenizer: Tokenizer, folder: Path, progress_path: Path) -> None:
        self._tokenizer = tokenizer
        self._folder = folder
        self._progress_path = progress_path
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._capacity_tokens = (config.max_shard_bytes - HEADER_BYTES) // self._dtype.itemsize
        self._finished: list[ShardFile] = []
        self._open: _OpenShard | None = None

    def write(self, sources: list[Source], validation_fraction: float) -> None:
        split = self._folder.name
        at = self._resume()
        done_tokens = sum(shard.tokens for shard in self._finished)
        try:
            with log.progress(f"shards, {split}", len(sources)) as bar:
                documents = _documents(sources, split, validation_fraction, at)
                for document in _encoded(documents, self._tokenizer, self._dtype):
                    self._add(document)
                    done_tokens += len(document.ids)
                    bar.update(document.at.file, f"{done_tokens / 1e6:,.1f} M tokens")
            self._close_shard()
        except BaseException:
            if self._open:
                self._open.discard()
            raise
        write_index(self._folder, self._index())

    def _resume(self) -> InputRow:
        """Resume after the complete files of progress.json; remove what a killed run left of incomplete ones."""
        self._folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(self._folder)
        progress = read_json(self._progress_path).get(self._folder.name)
        if not progress:
            return InputRow(0, 0)
        self._finished = [ShardFile.model_validate(shard) for shard in progress["shards"]]
        return InputRow(*progress["next"])

    def _add(self, document: EncodedDocument) -> None:
        if self._open and self._open.tokens + len(document.ids) > self._capacity_tokens:
            self._close_shard()
            self._record(document.at)
        rest, is_start = document.ids, True
        while len(rest):  # several times only for a document that is larger than a file
            if not self._open:
                path = self._folder / shard_name(len(self._finished))
                self._open = _OpenShard(path, self._tokenizer.vocab_size)
            ids, rest = rest[: self._capacity_tokens], rest[self._capacity_tokens :]
            self._open.add(document, ids, is_start)
            is_start = False
            if len(rest):
                self._close_shard()

    def _close_shard(self) -> None:
        if self._open:
            self._finished.append(self._open.close())
            self._open = None

    def _record(self, at: InputRow) -> None:
        progress = read_json(self._progress_path)
        progress[self._folder.name] = {"next": at, "shards": [shard.model_dump() for shard in self._finished]}
        write_json(self._progress_path, progress)

    def _index(self) -> ShardIndex:
        tokenizer, shards = self._tokenizer, self._finished
        return ShardIndex(
            format_version=FORMAT_VERSION,
            dtype="uint16" if self._dtype.itemsize == 2 else "uint32",
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id or 0,
            eos_id=tokenizer.eos_id or 0,
            tokenizer_fingerprint=tokenizer.fingerprint,
            tokens=sum(shard.tokens for shard in shards),
            documents=sum(shard.documents for shard in shards),
            text_bytes=sum(shard.text_bytes for shard in shards),
            shards=shards,
        )


class _OpenShard:
    """The pair of files that is being written; they get their names in `close`."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self._path = path
        self._vocab_size = vocab_size
        self.tokens = self._documents = self._text_bytes = 0
        self._rows: list[dict[str, Any]] = []
        self._stack = ExitStack()
        rows_file = self._stack.enter_context(atomic_file(path.with_suffix(".parquet")))
        self._table = self._stack.enter_context(pq.ParquetWriter(rows_file, DOCUMENT_SCHEMA, compression="zstd"))
        self._ids = self._stack.enter_context(atomic_file(path.with_suffix(".bin")))
        self._ids.write(bytes(HEADER_BYTES))

    def add(self, document: EncodedDocument, ids: np.ndarray, is_start: bool) -> None:
        """Append ids of a document, all or as many as fit. It is counted in the file where it starts."""
        self._rows.append({"id": document.id, "kind": document.kind, "offset": self.tokens, "tokens": len(ids)})
        self._ids.write(ids.tobytes())
        self.tokens += len(ids)
        self._documents += is_start
        self._text_bytes += document.text_bytes if is_start else 0
        if len(self._rows) == ROWS_PER_GROUP:
            self._write_rows()

    def close(self) -> ShardFile:
        """Give both files their names; return their entry in the index."""
        self._write_rows()
        self._ids.seek(0)
        self._ids.write(pack_header(self.tokens, self._vocab_size))
        self._stack.close()
        return ShardFile(
            name=self._path.name,
            tokens=self.tokens,
            documents=self._documents,
            text_bytes=self._text_bytes,
            sha256=sha256_file(self._path.with_suffix(".bin")),
            documents_sha256=sha256_file(self._path.with_suffix(".parquet")),
        )

    def discard(self) -> None:
        """Remove both files."""
        self._stack.push(_fail)  # closed with an error, the atomic files remove themselves
        with suppress(_DiscardedError):
            self._stack.close()

    def _write_rows(self) -> None:
        if self._rows:
            self._table.write_table(pa.Table.from_pylist(self._rows, schema=DOCUMENT_SCHEMA))
            self._rows = []


class _DiscardedError(Exception):
    pass


def _fail(*_: object) -> None:
    raise _DiscardedError


def _sources(inputs: list[Path], split: str, validation_fraction: float) -> list[Source]:
    found = []
    for path in inputs:
        divide = not has_splits(path)
        if split == "train" or not divide or validation_fraction > 0:
            found += [Source(file, divide) for file in split_files([path], split)]
    return found


def _documents(
    sources: list[Source], split: str, validation_fraction: float, first: InputRow
) -> Iterator[tuple[InputRow, DocumentText]]:
    """Documents of one split from `first` on, in the order of the files and their rows."""
    for number, source in enumerate(sources):
        if number < first.file:
            continue
        for document in read_documents(source.path, first.row if number == first.file else 0):
            if not source.divide or is_validation(document.id, validation_fraction) == (split == "validation"):
                yield InputRow(number, document.row), document


def _encoded(
    documents: Iterator[tuple[InputRow, DocumentText]], tokenizer: Tokenizer, dtype: np.dtype
) -> Iterator[EncodedDocument]:
    """Encode in batches of some megabytes, so memory does not grow with the input."""
    batch: list[tuple[InputRow, DocumentText, int]] = []
    batch_bytes = 0
    for at, document in documents:
        text_bytes = len(document.text.encode())
        batch.append((at, document, text_bytes))
        batch_bytes += text_bytes
        if batch_bytes >= BATCH_TEXT_BYTES:
            yield from _encode_batch(batch, tokenizer, dtype)
            batch, batch_bytes = [], 0
    yield from _encode_batch(batch, tokenizer, dtype)


def _encode_batch(
    batch: list[tuple[InputRow, DocumentText, int]], tokenizer: Tokenizer, dtype: np.dtype
) -> Iterator[EncodedDocument]:
    encoded = tokenizer.encode_batch([document.text for _, document, _ in batch])
    for (at, document, text_bytes), text_ids in zip(batch, encoded, strict=True):
        ids = np.empty(len(text_ids) + 2, dtype=dtype)
        ids[0], ids[1:-1], ids[-1] = tokenizer.bos_id, text_ids, tokenizer.eos_id
        yield EncodedDocument(at, document.id, document.kind, ids, text_bytes)


def _work_key(
    config: ShardsConfig, sources: dict[str, list[Source]], tokenizer: Tokenizer, validation_fraction: float
) -> str:
    """Hash of all that must be equal for a killed run to be resumed."""
    rows = [
        [split, str(source.path), source.divide, source.path.stat().st_size, source.path.stat().st_mtime_ns]
        for split, found in sources.items()
        for source in found
    ]
    return sha256_json([FORMAT_VERSION, config.result_values(), tokenizer.fingerprint, validation_fraction, rows])


def _begin_or_resume(out: Path, key: str) -> Path:
    """Keep the files of a killed run with the same key, else remove all shards. Returns the path of progress.json."""
    progress_path = out / PROGRESS_FILE
    for leftover in out.glob(f".{PROGRESS_FILE}.*"):  # of a run that was killed while it wrote it
        leftover.unlink()
    if progress_path.exists() and read_json(progress_path).get("key") == key:
        return progress_path
    _remove_shards(out)
    write_json(progress_path, {"key": key})
    return progress_path


def _remove_shards(out: Path) -> None:
    """Remove both splits; first the files that mark their content as complete.

    Raises InputError, before anything is removed, for a file that does not belong to token shards.
    """
    folders = [out / split for split in SPLITS if (out / split).exists()]
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
            if not SHARD_FILE_NAME.fullmatch(file.name):
                raise InputError(f"{file}: not a file of token shards; choose another folder")
    if folders:
        (out / PROGRESS_FILE).unlink(missing_ok=True)
        sync_folder(out)
    for folder in folders:
        (folder / INDEX_FILE).unlink(missing_ok=True)
        sync_folder(folder)
        shutil.rmtree(folder)
