"""Token shards on disk, format version 1.

A split is a folder:

    index.json       what the files hold: `ShardIndex`
    00000.bin        header of 256 bytes, then token ids, little-endian, uint16 or uint32
    00000.parquet    one row per document of 00000.bin: id, kind, offset (in tokens from the start of the file), tokens

Each document is `BOS text EOS`, without padding. A document is in one file, unless it is larger than the maximum size of a
file: then it continues at the start of the next, with a row in each. The header, in order: magic (8 bytes),
format version (u32), bytes per id (u32), number of ids (u64), vocabulary size (u32), zeros; all little-endian.
"""

import struct
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyllama.errors import InputError
from tinyllama.files import read_json, sha256_file, write_json

FORMAT_VERSION = 1
MAGIC = b"TLSHARD\x00"
HEADER_BYTES = 256
HEADER = struct.Struct("<8sIIQI")
INDEX_FILE = "index.json"
DOCUMENT_SCHEMA = pa.schema(
    [("id", pa.string()), ("kind", pa.string()), ("offset", pa.int64()), ("tokens", pa.int64())]
)
COUNT_CHUNK_TOKENS = 2**22


class ShardFile(BaseModel):
    """One pair of files: `NAME.bin` and `NAME.parquet`. A document is counted in the file where it begins."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    tokens: int = Field(ge=1)
    documents: int = Field(ge=0)
    text_bytes: int = Field(ge=0)
    sha256: str
    documents_sha256: str


class ShardIndex(BaseModel):
    """What `index.json` says about a split. `text_bytes`: UTF-8 bytes of the documents' texts, for bits per byte."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: int
    dtype: Literal["uint16", "uint32"]
    vocab_size: int = Field(ge=1, le=2**32)
    bos_id: int = Field(ge=0)
    eos_id: int = Field(ge=0)
    tokenizer_fingerprint: str
    tokens: int = Field(ge=0)
    documents: int = Field(ge=0)
    text_bytes: int = Field(ge=0)
    shards: list[ShardFile]


class DocumentPlace(NamedTuple):
    """Ids [offset, offset + tokens) of a shard file, which hold a document or a slice of it."""

    file: Path
    offset: int
    tokens: int


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 for vocabularies of up to 65,536 tokens, uint32 above."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def shard_name(number: int) -> str:
    """`00000`, `00001`, ...: names are computed from numbers, so an index cannot point outside its folder."""
    return f"{number:05d}"


def pack_header(n_tokens: int, vocab_size: int) -> bytes:
    """The first 256 bytes of a shard file."""
    fields = HEADER.pack(MAGIC, FORMAT_VERSION, token_dtype(vocab_size).itemsize, n_tokens, vocab_size)
    return fields.ljust(HEADER_BYTES, b"\x00")


def check_shard_file(path: Path, n_tokens: int, vocab_size: int) -> None:
    """Raise InputError unless the file's header and size are those of `n_tokens` ids of this vocabulary."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            size_bytes = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); write the shards again") from None
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise InputError(f"{path}: not a token shard (its first bytes are wrong); write the shards again")
    _, version, itemsize, count, vocabulary = HEADER.unpack_from(header)
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: shard format version {version}, this program reads {FORMAT_VERSION}; write it again")
    if header != pack_header(n_tokens, vocab_size):
        raise InputError(
            f"{path}: header says {count} ids of {itemsize} bytes, vocabulary {vocabulary}; the index says "
            f"{n_tokens} ids, vocabulary {vocab_size}; write the shards again"
        )
    expected_bytes = HEADER_BYTES + n_tokens * itemsize
    if size_bytes != expected_bytes:
        raise InputError(f"{path}: {size_bytes} bytes, expected {expected_bytes}; write the shards again")


def read_index(split: Path) -> ShardIndex:
    """Read and check `index.json` of a split folder, but not its files. Raises InputError that names the file."""
    path = split / INDEX_FILE
    value = read_json(path)
    version = value.get("format_version") if isinstance(value, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: shard format version {version}, this program reads {FORMAT_VERSION}")
    try:
        index = ShardIndex.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {key}: {first['msg']}; write the shards again") from None
    for number, shard in enumerate(index.shards):
        if shard.name != shard_name(number):
            raise InputError(f"{path}: shards.{number}.name: {shard.name!r}, expected {shard_name(number)!r}")
    for key in ("tokens", "documents", "text_bytes"):
        total = sum(getattr(shard, key) for shard in index.shards)
        if total != getattr(index, key):
            raise InputError(f"{path}: {key}: {getattr(index, key)}, but the sum over the files is {total}")
    if index.dtype != token_dtype(index.vocab_size).name:
        raise InputError(f"{path}: dtype: {index.dtype}, but a vocabulary of {index.vocab_size} needs the other")
    if max(index.bos_id, index.eos_id) >= index.vocab_size:
        raise InputError(f"{path}: bos_id or eos_id outside the vocabulary of {index.vocab_size}")
    return index


def write_index(split: Path, index: ShardIndex) -> None:
    """Write `index.json` atomically, last: a split that has one is complete."""
    write_json(split / INDEX_FILE, index.model_dump())


def open_split(split: Path) -> ShardIndex:
    """Read the index and check every file's header and size against it. Raises InputError that names the file."""
    index = read_index(split)
    for shard in index.shards:
        check_shard_file(split / f"{shard.name}.bin", shard.tokens, index.vocab_size)
    return index


def map_shard(split: Path, shard: ShardFile, vocab_size: int) -> np.ndarray:
    """The ids of one shard file, memory-mapped, read-only: shape (tokens,). Raises InputError if the file has changed."""
    path = split / f"{shard.name}.bin"
    check_shard_file(path, shard.tokens, vocab_size)
    return np.memmap(path, dtype=token_dtype(vocab_size), mode="r", offset=HEADER_BYTES, shape=(shard.tokens,))


def verify_split(split: Path) -> ShardIndex:
    """Read all files; check sizes, sha256 and that every id is in the vocabulary. Raises InputError."""
    index = open_split(split)
    for shard in index.shards:
        for suffix, expected in (("bin", shard.sha256), ("parquet", shard.documents_sha256)):
            path = split / f"{shard.name}.{suffix}"
            if not path.is_file() or sha256_file(path) != expected:
                raise InputError(f"{path}: missing, or not the file that was written (sha256); write the shards again")
    count_tokens(split)
    return index


def count_tokens(split: Path) -> np.ndarray:
    """How often each id occurs in a split: shape (vocab_size,), int64. Raises InputError for an id outside it."""
    index = open_split(split)
    counts = np.zeros(index.vocab_size, dtype=np.int64)
    for shard in index.shards:
        ids = map_shard(split, shard, index.vocab_size)
        for start in range(0, shard.tokens, COUNT_CHUNK_TOKENS):
            chunk = np.bincount(ids[start : start + COUNT_CHUNK_TOKENS], minlength=index.vocab_size)
            if len(chunk) > index.vocab_size:
                raise InputError(outside_vocabulary(split / f"{shard.name}.bin", len(chunk) - 1, index.vocab_size))
            counts += chunk
    return counts


def outside_vocabulary(path: Path, token_id: int, vocab_size: int) -> str:
    """The message for an id outside the vocabulary."""
    return f"{path}: token id {token_id} outside the vocabulary of {vocab_size}; the file is damaged, write it again"


def read_shard_documents(split: Path, shard: ShardFile) -> pa.Table:
    """Rows of one shard's documents: id, kind, offset, tokens. Raises InputError if they do not tile the shard."""
    path = split / f"{shard.name}.parquet"
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); write the shards again") from None
    if not table.schema.equals(DOCUMENT_SCHEMA):
        raise InputError(f"{path}: columns {table.schema.names}, expected {DOCUMENT_SCHEMA.names}")
    offsets, tokens = table["offset"].to_numpy(), table["tokens"].to_numpy()
    ends = np.cumsum(tokens)
    if not len(ends) or ends[-1] != shard.tokens or (offsets != ends - tokens).any():
        raise InputError(f"{path}: its documents do not fill {shard.name}.bin; write the shards again")
    return table


def find_document(split: Path, document_id: str) -> list[DocumentPlace]:
    """Where the document's tokens are, in order; empty if the split does not have it."""
    places = []
    for shard in read_index(split).shards:
        table = read_shard_documents(split, shard)
        for row in table.filter(pc.field("id") == document_id).to_pylist():
            places.append(DocumentPlace(split / f"{shard.name}.bin", row["offset"], row["tokens"]))
    return places
