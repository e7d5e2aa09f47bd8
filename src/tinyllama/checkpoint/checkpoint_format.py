"""A checkpoint on disk: one folder of safetensors and JSON, valid only with a manifest that names every file's sha256.

    step_00000500/
      weights.safetensors      canonical names, fp32
      optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME, fp32
      state.json               RunState
      tokenizer.model, tokenizer.json
      manifest.json            written last

Nothing is unpickled, ever. The folder is written under another name and renamed, so it is whole or not there.
"""

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
    """All that resume needs beside the tensors. The data position is the step itself; dropout draws from no stream."""

    step: int
    tokens: int
    model: dict[str, Any]  # LlamaConfig
    train: dict[str, Any]  # TrainConfig values that change the result
    tokenizer_fingerprint: str
    shards_fingerprint: str
    updates: int  # steps less those that fp16's loss scale called off
    loss_scale: dict[str, float]  # its factor, and the good updates since it last changed
    validation: dict[str, float] | None = None


def checkpoint_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def write_manifest(folder: Path) -> None:
    """Record every file of a checkpoint under way, with size and sha256."""
    rows = {
        file.name: {"bytes": file.stat().st_size, "sha256": files.sha256_file(file)}
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
    """Folders named as checkpoints are, newest step first; whether they are valid is not looked at."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint that reads whole; damaged ones are named in a warning and passed over."""
    for path in checkpoints(folder):
        try:
            check(path)
            read_state(path)
        except InputError as error:
            log.warn(f"{error}; the checkpoint before it is taken")
            continue
        return path
    return None
