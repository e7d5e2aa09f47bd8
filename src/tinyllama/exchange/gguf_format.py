"""Reads llama.cpp's GGUF files (versions 2 and 3, little-endian): metadata, tensor headers, weights.

The file is not trusted: every count, length and offset is compared with the file's size before memory is allocated, and no
two tensors may share bytes, so memory is bounded by a small multiple of the file's size.
"""

import math
import mmap
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinyllama.errors import InputError

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_ENTRIES = 100_000  # of metadata values, and of tensors
MAX_STRINGS = 4_000_000  # in all lists of strings together
DEFAULT_ALIGNMENT = 32
BLOCK = 32  # values that share a scale in the quantised formats


class BlockFormat(NamedTuple):
    """A block of `values` numbers of a row takes `nbytes` bytes."""

    name: str
    values: int
    nbytes: int


FORMATS = {
    0: BlockFormat("f32", 1, 4),
    1: BlockFormat("f16", 1, 2),
    2: BlockFormat("q4_0", BLOCK, 18),
    3: BlockFormat("q4_1", BLOCK, 20),
    8: BlockFormat("q8_0", BLOCK, 34),
    30: BlockFormat("bf16", 1, 2),
}
# numpy's names of the numeric metadata types, by GGUF's number; the other types are bool, string and list.
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_FLOAT32, _BOOL, _STRING, _LIST = 6, 7, 8, 9


class NumberList(NamedTuple):
    """A list of numbers in the metadata, not converted to Python."""

    values: np.ndarray


class _Header(NamedTuple):
    shape: tuple[int, ...]
    number_format: BlockFormat
    offset: int  # in the file
    nbytes: int


class GgufFile(ExitStack):
    """An open GGUF file, memory-mapped; a context manager.

    `metadata`: values by key. `shapes`: of every tensor, rows first.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError when the file is not GGUF, is truncated, or has a wrong header."""
        super().__init__()
        self.path = path
        self.metadata: dict[str, Any] = {}
        self._headers: dict[str, _Header] = {}
        try:
            with path.open("rb") as file:
                self._map = self.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
        self._at, self._strings_left = 0, MAX_STRINGS
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise
        self.shapes = {name: header.shape for name, header in self._headers.items()}

    def tensor(self, name: str) -> Tensor:
        """The tensor in fp32 on the CPU, dequantised. Raises InputError when it holds a NaN or an infinity."""
        header = self._headers[name]
        values = dequantise(self._map[header.offset : header.offset + header.nbytes], header.number_format.name)
        if not np.isfinite(values).all():
            raise InputError(f"{self.path}: tensor {name} holds values that are not finite")
        return torch.from_numpy(values).view(header.shape)

    # -- the header ----------------------------------------------------------------------------------------------------

    def _read_header(self) -> None:
        if self._take(4) != MAGIC:
            raise self._fault("not a GGUF file")
        version = self._number("<I")
        if version not in VERSIONS:
            raise self._fault(f"GGUF version {version}; versions {VERSIONS[0]} and {VERSIONS[1]} are read")
        n_tensors, n_values = self._count("tensors"), self._count("metadata values")
        for _ in range(n_values):
            key = self._string()
            if key in self.metadata:
                raise self._fault(f"key {key!r} occurs twice")
            self.metadata[key] = self._value(self._number("<I"))
        infos = [self._tensor_info() for _ in range(n_tensors)]
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
            raise self._fault(f"general.alignment: {alignment!r} is not a multiple of 8")
        start = -(-self._at // alignment) * alignment
        end = start
        for name, shape, number_format, offset in sorted(infos, key=lambda info: info[3]):
            nbytes = math.prod(shape) // number_format.values * number_format.nbytes
            if offset % alignment or start + offset < end or start + offset + nbytes > len(self._map):
                raise self._fault(f"tensor {name} is outside of the file, overlaps another or is not aligned")
            if name in self._headers:
                raise self._fault(f"tensor {name} occurs twice")
            self._headers[name] = _Header(shape, number_format, start + offset, nbytes)
            end = start + offset + nbytes

    def _tensor_info(self) -> tuple[str, tuple[int, ...], BlockFormat, int]:
        name, n_dims = self._string(), self._number("<I")
        if not 1 <= n_dims <= 4:
            raise self._fault(f"tensor {name} has {n_dims} dimensions")
        shape = tuple(self._number("<Q") for _ in range(n_dims))[::-1]  # GGUF puts the row length first
        if not all(0 < size < 2**40 for size in shape):
            raise self._fault(f"tensor {name} has shape {shape}")
        kind, offset = self._number("<I"), self._number("<Q")
        if kind not in FORMATS:
            known = ", ".join(number_format.name for number_format in FORMATS.values())
            raise self._fault(f"tensor {name} has GGML type {kind}; {known} are read")
        if shape[-1] % FORMATS[kind].values:
            raise self._fault(f"tensor {name} has rows of {shape[-1]} values, no multiple of {FORMATS[kind].values}")
        return name, shape, FORMATS[kind], offset

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            number = self._array(_NUMBERS[kind], 1)[0]
            return float(str(number)) if kind == _FLOAT32 else number.item()  # 1e-05, not 9.99999974e-06
        if kind == _BOOL:
            return self._take(1) != b"\0"
        if kind == _STRING:
            return self._string()
        if kind != _LIST:
            raise self._fault(f"a metadata value of unknown type {kind}")
        inner, count = self._number("<I"), self._number("<Q")
        if inner in _NUMBERS or inner == _BOOL:
            return NumberList(self._array(_NUMBERS.get(inner, "?"), count))
        if inner != _STRING:
            raise self._fault(f"a list of values of type {inner}")
        self._strings_left -= count
        if self._strings_left < 0:
            raise self._fault(f"more than {MAX_STRINGS:,} strings in its metadata")
        return [self._string() for _ in range(count)]

    def _array(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self._take(count * np.dtype(dtype).itemsize), dtype=dtype)

    def _string(self) -> str:
        try:
            return self._take(self._number("<Q")).decode()
        except UnicodeDecodeError:
            raise self._fault("a string that is not UTF-8") from None

    def _count(self, what: str) -> int:
        count = self._number("<Q")
        if count > MAX_ENTRIES:
            raise self._fault(f"{count} {what}; at most {MAX_ENTRIES:,} are read")
        return count

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, nbytes: int) -> bytes:
        if nbytes > len(self._map) - self._at:
            raise self._fault("truncated, or a length in its header is wrong")
        self._at += nbytes
        return self._map[self._at - nbytes : self._at]

    def _fault(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what[:300]}")


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that begins with GGUF's magic bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def dequantise(data: bytes, number_format: str) -> np.ndarray:
    """The values of `data` in fp32, a flat array.

    A block of 32 values is, in GGML: q8_0: scale (fp16), 32 signed bytes. q4_0: scale, then 16 bytes with value i
    in the low and value i + 16 in the high half, each stored plus 8. q4_1: scale, minimum (fp16), 16 bytes without the 8.
    """
    if number_format == "f32":
        return np.frombuffer(data, dtype="<f4").copy()
    if number_format == "f16":
        return np.frombuffer(data, dtype="<f2").astype(np.float32)
    if number_format == "bf16":
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    if number_format == "q8_0":
        blocks = np.frombuffer(data, dtype=[("scale", "<f2"), ("values", "i1", BLOCK)])
        return (blocks["values"] * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    if number_format == "q4_0":
        blocks = np.frombuffer(data, dtype=[("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
        return ((_halves(blocks["halves"]) - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    blocks = np.frombuffer(data, dtype=[("scale", "<f2"), ("minimum", "<f2"), ("halves", "u1", BLOCK // 2)])
    scaled = _halves(blocks["halves"]) * blocks["scale"].astype(np.float32)[:, None]
    return (scaled + blocks["minimum"].astype(np.float32)[:, None]).reshape(-1)


def _halves(pairs: np.ndarray) -> np.ndarray:  # (n, 16) bytes -> (n, 32) numbers from 0 to 15
    return np.concatenate((pairs & 15, pairs >> 4), axis=1).astype(np.float32)
