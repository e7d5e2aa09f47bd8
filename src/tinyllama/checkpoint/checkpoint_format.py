"""A checkpoint on disk: a folder of safetensors and JSON, valid only with a manifest that has every file's sha256.

    step_00000500/
      weights.safetensors      canonical names, fp32
      optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME, in the optimizer's format (fp32 or bf16)
      state.json               RunState
      tokenizer.model, tokenizer.json
      manifest.json            written last

What resume needs, and where it is:

    weights                      weights.safetensors
    optimizer                    optimizer.safetensors; state.json `updates`, the step count of its bias correction
    step                         state.json `step`, which determines the position in the data and the schedule
    tokens seen                  state.json `tokens`
    random streams               no state: initial weights, data order and dropout are functions of the recipe's
                                 seed, the step and the sample (seeds.py, window_order.py, dropout.py)
    loss scale                   state.json `loss_scale`
    guard history                state.json `guards`: losses that the next step is compared with, number of skipped steps
    quarantine list              state.json `quarantine`: excluded windows, and from which step on
    last validation metrics      state.json `validation`
    network and recipe           state.json `model`, `train`
    fingerprints                 state.json `tokenizer_fingerprint`, `shards_fingerprint`, `validation_fingerprint`

The 16-bit copies for matmuls are made from the weights. Nothing is unpickled. The folder is written under another name,
synced and renamed, so it is complete or absent. Version 2 had no guard history, quarantine list and fingerprint of the
validation shards; resume starts with empty ones.
"""

import errno
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tinyllama import files, log
from tinyllama.errors import InputError

FORMAT_VERSION = 3
READABLE_VERSIONS = (2, 3)
NEW_IN_3 = {"validation_fingerprint", "guards", "quarantine"}
WEIGHTS, OPTIMIZER, STATE, MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step_(\d{8,})")


class OtherVersionError(InputError):
    """A checkpoint of a version that this program cannot read. It is not damaged, so it is never skipped."""


@dataclass(frozen=True)
class RunState:
    """All that resume needs besides the tensors.

    `step`, `updates`, `loss_scale`, `validation`, `guards` and `quarantine` are restored; `tokens` is for information; with
    the others resume refuses a checkpoint of another network, recipe, tokenizer or data.
    """

    step: int  # completed steps, and so the position in the data
    tokens: int  # seen in training
    model: dict[str, Any]  # LlamaConfig
    train: dict[str, Any]  # TrainConfig values that change the result
    tokenizer_fingerprint: str
    shards_fingerprint: str  # sha256 of the training split's index, which has every file's sha256
    updates: int  # steps without those that were skipped; for AdamW's bias correction
    loss_scale: dict[str, float]  # its factor, and the updates since it last changed
    validation: dict[str, float] | None = None  # the latest one
    validation_fingerprint: str = ""  # as shards_fingerprint, of the validation split; empty: unknown
    guards: dict[str, Any] = field(default_factory=dict)  # see train/run_guards.py
    quarantine: list[dict[str, Any]] = field(default_factory=list)  # {"after_step", "windows"}, as added


def checkpoint_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def write_manifest(folder: Path, hashes: dict[str, str]) -> None:
    """Write size and sha256 of every file of a checkpoint that is being written; `hashes`: those already known."""
    rows = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashes.get(file.name) or files.sha256_file(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }
    files.write_json(
        folder / MANIFEST, {"format": "tinyllama checkpoint", "format_version": FORMAT_VERSION, "files": rows}
    )


def check(folder: Path) -> None:
    """Compare every file with the manifest. Raises InputError that names the first file that is missing or damaged."""
    manifest = files.read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise InputError(f"{folder / MANIFEST}: not a checkpoint's manifest")
    if manifest.get("format_version") not in READABLE_VERSIONS:
        raise OtherVersionError(
            f"{folder / MANIFEST}: format_version {manifest.get('format_version')!r}, this program reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; use the version that wrote it (recipe.toml of the run names "
            "it), or choose another --run-dir"
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
    """The checkpoint's state. Raises InputError if the file is not one."""
    values = files.read_json(folder / STATE)
    names = {one.name for one in fields(RunState)}
    if not isinstance(values, dict) or not names - NEW_IN_3 <= set(values) <= names:
        raise InputError(f"{folder / STATE}: not a checkpoint's state of format version {FORMAT_VERSION}")
    return RunState(**values)


def write_state(folder: Path, state: RunState) -> None:
    """Write the state of a checkpoint that is being written."""
    files.write_json(folder / STATE, asdict(state))


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder has the files of a checkpoint (`check` checks their content)."""
    return (folder / MANIFEST).is_file() and (folder / WEIGHTS).is_file()


def checkpoints(folder: Path) -> list[Path]:
    """Folders that are named like checkpoints, newest first by the step in their state; not checked any further.

    A folder whose state cannot be read is damaged; it is sorted by the step in its name.
    """
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's state, or in its name if the state cannot be read."""
    try:
        return int(read_state(path).step)
    except (InputError, OSError, ValueError, TypeError):
        return int(path.name.removeprefix("step_"))


def newest_valid(folder: Path) -> Path | None:
    """The newest valid checkpoint; damaged ones are skipped with a warning."""
    return find_newest(folder)[0]


def find_newest(folder: Path, last_step: int | None = None) -> tuple[Path | None, list[Path]]:
    """The newest valid checkpoint, and the damaged ones that are newer, each with a warning.

    With `last_step` only those of that step or earlier. Raises OtherVersionError for one of another version, because an
    older one would not be the run's last state.
    """
    damaged = []
    for path in checkpoints(folder):
        if last_step is not None and step_of(path) > last_step:
            continue
        try:
            check(path)
            read_state(path)
        except OtherVersionError:
            raise
        except (InputError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:  # EIO: the disk cannot read the data
                raise  # the checkpoint is not damaged: no permission, no free file handle
            log.warn(f"{error}; the checkpoint before it is used")
            damaged.append(path)
            continue
        return path, damaged
    return None, damaged


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it no longer counts as one; returns its new path."""
    aside = path.with_name(f"damaged_{path.name}")
    if aside.exists():
        files.remove_folder(aside)
    path.replace(aside)
    return aside
