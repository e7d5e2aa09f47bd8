"""Reads the tensors of a model folder one at a time, from one or several safetensors files."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.files import read_json

# safetensors' names of the number formats that are read; integers and quantised formats are not.
FLOAT_FORMATS = {"F64", "F32", "F16", "BF16"}


class TensorFiles(ExitStack):
    """Open safetensors files as one mapping from name to tensor. A context manager; the files are memory-mapped.

    `shapes`, `path_of`: shape and file of every tensor, by name.
    """

    def __init__(self, paths: list[Path]) -> None:
        """Raises InputError when a file is missing or damaged, a name occurs twice or a tensor is not a float tensor."""
        super().__init__()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.path_of: dict[str, Path] = {}
        self._files: dict[Path, Any] = {}
        try:
            for path in paths:
                self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            file = self.enter_context(safe_open(path, framework="pt"))
            self._files[path] = file
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name in self.path_of:
                    raise InputError(f"{path}: tensor {name} is in {self.path_of[name].name} too")
                header = file.get_slice(name)
                if header.get_dtype() not in FLOAT_FORMATS:
                    raise InputError(f"{path}: tensor {name} has dtype {header.get_dtype()}; only floats are read")
                self.shapes[name], self.path_of[name] = tuple(header.get_shape()), path
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not a complete safetensors file ({str(error).splitlines()[0]})") from None

    def tensor(self, name: str) -> Tensor:
        """The tensor, on the CPU, in its file's number format. Raises InputError when it holds a NaN or an infinity."""
        values = self._files[self.path_of[name]].get_tensor(name)
        if not torch.isfinite(values).all():
            raise InputError(f"{self.path_of[name]}: tensor {name} holds values that are not finite")
        return values


def indexed_files(index_path: Path) -> list[Path]:
    """The files that a `*.safetensors.index.json` lists, in its folder. Raises InputError if it is no such index."""
    index = read_json(index_path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index_path}: no weight_map in it")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index_path}: weight_map: {name!r} is not the name of a safetensors file in this folder")
    return [index_path.parent / name for name in names]
