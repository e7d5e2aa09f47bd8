"""Moves a run's tensors between memory and a checkpoint folder."""

import hashlib
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tinyllama import files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.errors import InputError


def save(
    folder: Path,
    model: nn.Module,
    moments: dict[str, Tensor],
    state: RunState,
    tokenizer_files: list[Path],
    keep: int,
) -> Path:
    """Write `folder`/step_NNNNNNNN atomically, then remove all but the `keep` newest. Returns the checkpoint's path.

    `moments`: the optimizer's tensors under `MOMENT.PARAMETER NAME`.
    """
    path = folder / form.checkpoint_name(state.step)
    with files.atomic_folder(path) as partial:
        save_file(_plain(dict(model.named_parameters())), partial / form.WEIGHTS)
        if moments:
            save_file(_plain(moments), partial / form.OPTIMIZER)
        for file in tokenizer_files:
            shutil.copyfile(file, partial / file.name)
        form.write_state(partial, state)
        form.write_manifest(partial)
    for old in form.checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return path


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In fp32, on the CPU, each with memory of its own."""
    plain = {name: value.detach().to("cpu", torch.float32) for name, value in tensors.items()}
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in plain.items()}


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Every tensor of a safetensors file. Raises InputError when its header lies or it is no such file."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({str(error).splitlines()[0]})") from None


@torch.no_grad()
def load_weights(model: nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    """Copy canonical tensors into the model. Raises InputError for a missing, unknown or misshapen one."""
    parameters = dict(model.named_parameters())
    for name in sorted(parameters.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{origin}: tensor {name} is missing")
        if name not in parameters:
            raise InputError(f"{origin}: tensor {name} is not part of this network")
        if parameters[name].shape != tensors[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(parameters[name].shape)
            raise InputError(f"{origin}: tensor {name} has shape {found}, the network's is {wanted}")
        parameters[name].copy_(tensors[name])


@torch.no_grad()
def load_moments(folder: Path, moments: dict[str, Tensor]) -> None:
    """Copy a checkpoint's moments into those of an optimizer. Raises InputError for a missing or misshapen one."""
    tensors = load_tensors(folder / form.OPTIMIZER)
    for name, moment in moments.items():
        value = tensors.get(name)
        if value is None or value.shape != moment.shape:
            raise InputError(f"{folder / form.OPTIMIZER}: {name} is missing or of another shape")
        moment.copy_(value)


def weights_sha256(model: nn.Module) -> str:
    """sha256 over the canonical names, sorted: name, shape, little-endian fp32 bytes. The same in every layout."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        values = parameter.detach().float().cpu().contiguous().numpy()
        digest.update(name.encode() + str(tuple(values.shape)).encode())
        digest.update(values.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()
