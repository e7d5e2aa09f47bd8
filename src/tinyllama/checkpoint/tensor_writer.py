"""Writes a safetensors file from tensors in host memory without a second copy of them, hashed on the way.

The form is that of the safetensors library, which reads what is written here: eight bytes with the header's length, the
header as JSON, the tensors' bytes one after another. The library's own writer copies every tensor once more, and hides
the error number by which a full disk is known.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

PIECE_BYTES = 16 * 2**20  # Python's lock is free while a piece is hashed or written: training goes on
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write contiguous CPU tensors to `path`; returns the file's sha256 as hex. Raises OSError when that fails."""
    # Wide values first, so that each begins at a multiple of its width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header, offset = {}, 0
    for name, value in ordered:
        end = offset + value.nbytes
        header[name] = {"dtype": DTYPE_NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for piece in _pieces([struct.pack("<Q", len(text)) + text, *(_bytes_of(value) for _, value in ordered)]):
            digest.update(piece)
            written = 0
            while written < len(piece):
                written += file.write(piece[written:])
    return digest.hexdigest()


def _bytes_of(value: Tensor) -> memoryview:
    return value.detach().reshape(-1).view(torch.uint8).numpy().data


def _pieces(blocks: list[bytes | memoryview]) -> Iterator[memoryview]:
    for block in map(memoryview, blocks):
        for start in range(0, len(block), PIECE_BYTES):
            yield block[start : start + PIECE_BYTES]
