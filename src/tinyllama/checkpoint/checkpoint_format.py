"""A checkpoint on disk: one folder of safetensors and JSON, valid only with a manifest that names every file's sha256.

    step_00000500/
      weights.safetensors      canonical names, fp32
      optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME, in the optimizer's format (fp32 or bf16)
      state.json               RunState
      tokenizer.model, tokenizer.json
      manifest.json            written last

This is all that resume needs. What is not there, because it follows from the step: the place in the data, the learning
rate, the streams of dropout. The copies that products read are made from the weights. Nothing is unpickled, ever. The
folder is written under another name, synced and renamed, so it is whole or not there.
"""

import errno
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tinyllama import files, log
from tinyllama.errors import InputError

FORMAT_VERSION = 2
WEIGHTS, OPTIMIZER, STATE, MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class RunState:
    """All that resume needs beside the tensors.

    `step`, `updates`, `loss_scale` and `validation` are taken up; `tokens` is for people; the others say whose they are:
    resume refuses a checkpoint of another network, recipe, tokenizer or data.
    """

    step: int  # updates that are done, and so the place in the data
    tokens: int  # seen in training
    model: dict[str, Any]  # LlamaConfig
    train: dict[str, Any]  # TrainConfig values that change the result
    tokenizer_fingerprint: str
    shards_fingerprint: str
    updates: int  # steps less those whose update was called off; AdamW's bias correction counts them
    loss_scale: dict[str, float]  # its factor, and the good updates since it last changed
    validation: dict[str, float] | None = None  # the last one measured


def checkpoint_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def write_manifest(folder: Path, hashes: dict[str, str]) -> None:
    """Record every file of a checkpoint under way, with size and sha256; `hashes` has those that are known."""
    rows = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashes.get(file.name) or files.sha256_file(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }
    files.write_json(
        folder / MANIFEST, {"format": "tinyllama checkpoint", "format_version": FORMAT_VERSION, "files": rows}
    )


def check(folder: Path) -> None:
    """Read every file against the manifest. Raises InputError that names the first file that is missing or damaged."""
    manifest = files.read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise InputError(f"{folder / MANIFEST}: not a checkpoint's manifest")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder / MANIFEST}: format_version {manifest.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    for name in (WEIGHTS, STATE):
        if name not in manifest["files"]:
            raise InputError(f"{folder / MANIFEST}: does not list {name}")
    for name, row in manifest["files"].items():
        path = folder / Path(name).name
        if not path.is_file():
            raise InputError(f"{path}: missing, though the checkpoint's manifest lists it")
        if path.stat().st_size != row.get("bytes") or files.sha256_file(path) != row.get("sha256"):
            raise InputError(f"{path}: damaged, its sha256 is not the manifest's")


def read_state(folder: Path) -> RunState:
    """The checkpoint's state. Raises InputError when it is not one."""
    values = files.read_json(folder / STATE)
    names = {field.name for field in fields(RunState)}
    if not isinstance(values, dict) or set(values) != names:
        raise InputError(f"{folder / STATE}: not a checkpoint's state of format version {FORMAT_VERSION}")
    return RunState(**values)


def write_state(folder: Path, state: RunState) -> None:
    """Write the state into a checkpoint under way."""
    files.write_json(folder / STATE, asdict(state))


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder looks like a checkpoint (its content is checked by `check`)."""
    return (folder / MANIFEST).is_file() and (folder / WEIGHTS).is_file()


def checkpoints(folder: Path) -> list[Path]:
    """Folders that are named as checkpoints are, newest first by the step in their state; not looked at any further.

    A state that cannot be read is a damage; such a folder takes the place that its name claims.
    """
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    try:
        return int(read_state(path).step)
    except (InputError, OSError, ValueError, TypeError):
        return int(path.name.removeprefix("step_"))


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint that reads whole; damaged ones are named in a warning and passed over."""
    return find_newest(folder)[0]


def find_newest(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that reads whole, and the damaged ones that are newer, each named in a warning."""
    damaged = []
    for path in checkpoints(folder):
        try:
            check(path)
            read_state(path)
        except (InputError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:  # a disk that cannot read back what it holds
                raise  # no damage of the checkpoint: no permission, no free file handle
            log.warn(f"{error}; the checkpoint before it is taken")
            damaged.append(path)
            continue
        return path, damaged
    return None, damaged


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that it counts as none and is in nobody's way; returns its new path."""
    aside = path.with_name(f"damaged_{path.name}")
    if aside.exists():
        files.remove_folder(aside)
    path.replace(aside)
    return aside
