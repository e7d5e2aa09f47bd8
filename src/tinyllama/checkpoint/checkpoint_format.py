"""A checkpoint on disk: one folder of safetensors and JSON, valid only with a manifest that names every file's sha256.

    step_00000500/
      weights.safetensors      canonical names, fp32
      optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME, in the optimizer's format (fp32 or bf16)
      state.json               RunState
      tokenizer.model, tokenizer.json
      manifest.json            written last

What resume needs, each thing by name, and where it is:

    weights                      weights.safetensors
    optimizer                    optimizer.safetensors; state.json `updates`, which its bias correction counts
    step                         state.json `step`: the place in the data and in the schedule follow from it
    tokens seen                  state.json `tokens`
    random streams               none has a state: initial weights, data order and dropout are functions of the recipe's
                                 seed, the step and the sample (seeds.py, window_order.py, dropout.py)
    loss scale                   state.json `loss_scale`
    guard history                state.json `guards`: the losses that the next step is judged by, skipped steps in a row
    quarantine list              state.json `quarantine`: windows left out, and from which step on
    last validation figures      state.json `validation`
    network and recipe           state.json `model`, `train`
    fingerprints                 state.json `tokenizer_fingerprint`, `shards_fingerprint`, `validation_fingerprint`

The copies that products read are made from the weights. Nothing is unpickled, ever. The folder is written under another
name, synced and renamed, so it is whole or not there. Version 2 had no guard history, quarantine list and fingerprint of
the validation shards: such a checkpoint is taken up with none.
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
    """A checkpoint of a version that this program cannot read: no damage, so it is never passed over."""


@dataclass(frozen=True)
class RunState:
    """All that resume needs beside the tensors.

    `step`, `updates`, `loss_scale`, `validation`, `guards` and `quarantine` are taken up; `tokens` is for people; the
    others say whose they are: resume refuses a checkpoint of another network, recipe, tokenizer or data.
    """

    step: int  # updates that are done, and so the place in the data
    tokens: int  # seen in training
    model: dict[str, Any]  # LlamaConfig
    train: dict[str, Any]  # TrainConfig values that change the result
    tokenizer_fingerprint: str
    shards_fingerprint: str  # sha256 of the training split's index, which has every file's sha256
    updates: int  # steps less those whose update was called off; AdamW's bias correction counts them
    loss_scale: dict[str, float]  # its factor, and the good updates since it last changed
    validation: dict[str, float] | None = None  # the last one measured
    validation_fingerprint: str = ""  # as shards_fingerprint, of the validation split; empty: not known
    guards: dict[str, Any] = field(default_factory=dict)  # what the guards have seen, see train/run_guards.py
    quarantine: list[dict[str, Any]] = field(default_factory=list)  # {"after_step", "windows"}, in order of discovery


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
    if manifest.get("format_version") not in READABLE_VERSIONS:
        raise OtherVersionError(
            f"{folder / MANIFEST}: format_version {manifest.get('format_version')!r}, this program reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; go on with the one that wrote it (recipe.toml of the run names "
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
    """The checkpoint's state. Raises InputError when it is not one."""
    values = files.read_json(folder / STATE)
    names = {one.name for one in fields(RunState)}
    if not isinstance(values, dict) or not names - NEW_IN_3 <= set(values) <= names:
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
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's state, or what its name claims when that cannot be read."""
    try:
        return int(read_state(path).step)
    except (InputError, OSError, ValueError, TypeError):
        return int(path.name.removeprefix("step_"))


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint that reads whole; damaged ones are named in a warning and passed over."""
    return find_newest(folder)[0]


def find_newest(folder: Path, last_step: int | None = None) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that reads whole, and the damaged ones that are newer, each named in a warning.

    With `last_step` only those of that step or before it are looked at. Raises OtherVersionError for one of another
    version: what is older than it would not be the run's last state.
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
