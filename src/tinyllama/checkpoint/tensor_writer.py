"""Writes a safetensors file from tensors in host memory without copying them, and hashes it while writing.

The format is that of the safetensors library, which reads these files: eight bytes with the header's length, the header
as JSON, the tensors' bytes. The library's own writer copies every tensor, and hides the errno of a full disk.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

CHUNK_BYTES = 16 * 2**20  # the GIL is free while a chunk is hashed or written, so training continues
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
        for chunk in _chunks([struct.pack("<Q", len(text)) + text, *(_bytes_of(value) for _, value in ordered)]):
            digest.update(chunk)
            written = 0
            while written < len(chunk):
                written += file.write(chunk[written:])
    return digest.hexdigest()


def _bytes_of(value: Tensor) -> memoryview:
    return value.detach().reshape(-1).view(torch.uint8).numpy().data


def _chunks(blocks: list[bytes | memoryview]) -> Iterator[memoryview]:
    for block in map(memoryview, blocks):
        for start in range(0, len(block), CHUNK_BYTES):
            yield block[start : start + CHUNK_BYTES]
