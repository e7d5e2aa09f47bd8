"""What both exports share: the output folder, files that are complete or absent, and the plain Llama that is written."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.files import sync_folder
from tinyllama.model.llama_config import LlamaConfig

_MANIFESTS = {"manifest.json", "unfinished.json"}  # of the phase that exports


def prepare_folder(out: Path, is_exported: Callable[[str], bool]) -> list[Path]:
    """Create `out`; return the files that an earlier export left in it.

    Raises InputError when `out` is a file, or holds anything whose name is not one that an export writes.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    found = sorted(path for path in out.iterdir() if path.name not in _MANIFESTS)
    for path in found:
        if path.is_dir() or not is_exported(path.name):
            raise InputError(f"{path}: not an earlier export's file; choose an empty folder for --out")
    return found


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield `.NAME.partial` beside `path`, for a library to write; on success it is synced and renamed to `path`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


@torch.no_grad()
def plain_llama(opened: OpenedModel) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """A Llama without embedding projections that has the same logits: its configuration and fp32 weights by canonical name.

    Other programs have no projections. They are multiplied into the embedding and the head, which then have dim columns
    and are no longer tied.
    """
    weights = {name: value.detach().float().cpu().contiguous() for name, value in opened.model.named_parameters()}
    config = opened.config
    if config.has_projections:  # in fp64, so that rounding adds no error of its own
        embedding = weights["embedding.weight"].double()  # (V, E)
        head = weights.get("head.weight", weights["embedding.weight"]).double()  # (V, E)
        into = weights.pop("embedding_projection.weight").double()  # (D, E)
        out_of = weights.pop("head_projection.weight").double()  # (E, D)
        weights["embedding.weight"] = (embedding @ into.T).float()  # (V, D)
        weights["head.weight"] = (head @ out_of).float()  # (V, D)
        config = replace(config, embedding_dim=config.dim, tied_head=False)
    return config, weights
