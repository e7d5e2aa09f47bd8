"""Moves a run's tensors between host memory and a checkpoint folder."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tinyllama import files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.checkpoint.tensor_writer import write_tensors
from tinyllama.errors import InputError


def write_checkpoint(
    folder: Path,
    tensors: dict[str, dict[str, Tensor]],
    state: RunState,
    tokenizer_files: list[Path],
    before_commit: Callable[[], None] | None = None,
) -> Path:
    """Write `folder`/step_NNNNNNNN atomically; returns its path. Raises OSError; then nothing is left of it.

    `tensors`: in host memory, by name of the safetensors file and of the tensor. `before_commit` runs when the checkpoint
    is written, before it gets its name.
    """
    path = folder / form.checkpoint_name(state.step)
    with files.atomic_folder(path) as partial:
        hashes = {file: write_tensors(partial / file, group) for file, group in tensors.items()}
        for file in tokenizer_files:
            shutil.copyfile(file, partial / file.name)
        form.write_state(partial, state)
        form.write_manifest(partial, hashes)
        if before_commit is not None:
            before_commit()
    return path


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Every tensor of a safetensors file. Raises InputError if it is not a valid one."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({str(error).splitlines()[0]})") from None


def check_weights(shapes: Mapping[str, torch.Size], tensors: dict[str, Tensor], origin: Path) -> None:
    """Raises InputError for a missing, unknown or misshapen tensor of the network that has these `shapes`."""
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{origin}: tensor {name} is missing")
        if name not in shapes:
            raise InputError(f"{origin}: tensor {name} is not part of this network")
        if shapes[name] != tensors[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(shapes[name])
            raise InputError(f"{origin}: tensor {name} has shape {found}, the network's is {wanted}")


def check_moments(shapes: Mapping[str, torch.Size], tensors: dict[str, Tensor], origin: Path) -> None:
    """Raises InputError for a missing or misshapen moment."""
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            raise InputError(f"{origin}: {name} is missing or has another shape")


@torch.no_grad()
def load_weights(model: nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    """Copy canonical tensors into the model. Raises InputError for a missing, unknown or misshapen one."""
    parameters = dict(model.named_parameters())
    check_weights({name: parameter.shape for name, parameter in parameters.items()}, tensors, origin)
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


@torch.no_grad()
def load_moments(folder: Path, moments: dict[str, Tensor]) -> None:
    """Copy a checkpoint's moments into those of an optimizer. Raises InputError for a missing or misshapen one."""
    tensors = load_tensors(folder / form.OPTIMIZER)
    check_moments({name: moment.shape for name, moment in moments.items()}, tensors, folder / form.OPTIMIZER)
    for name, moment in moments.items():
        moment.copy_(tensors[name])


def weights_sha256(model: nn.Module) -> str:
    """`sha256_of` the model's parameters."""
    return sha256_of(dict(model.named_parameters()))


def sha256_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 over the canonical names, sorted: name, shape, little-endian fp32 bytes. The same in every layout."""
    digest = hashlib.sha256()
    for name, parameter in sorted(weights.items()):
        values = parameter.detach().float().cpu().contiguous().numpy()
        digest.update(name.encode() + str(tuple(values.shape)).encode())
        digest.update(values.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()
