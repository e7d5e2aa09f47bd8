"""Opens a Llama in any form: a run folder, a checkpoint, a Hugging Face folder or a GGUF file.

Nothing is unpickled. Tensor headers are compared with the settings before memory is allocated for the network.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import create_model
from torch import Tensor

from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.errors import InputError
from tinyllama.exchange.file_settings import FileSettings
from tinyllama.exchange.gguf_format import GgufFile, is_gguf
from tinyllama.exchange.gguf_names import GgufWeights, config_from_metadata
from tinyllama.exchange.gguf_tokenizer import adds_bos, tokenizer_from_metadata
from tinyllama.exchange.hugging_face_names import config_from_hugging_face, is_ignored
from tinyllama.exchange.tensor_files import TensorFiles, indexed_files
from tinyllama.exchange.tensor_names import to_gguf, to_hugging_face
from tinyllama.files import read_json
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.tokenizer.bpe import Tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MAX_LAYERS = 4096  # each takes about 30 kB of memory, however small its matrices are
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


class Weights(Protocol):
    """A model's tensors on disk, by their names in the file."""

    shapes: dict[str, tuple[int, ...]]
    path_of: dict[str, Path]

    def tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class OpenedModel:
    """A network in evaluation mode, with its tokenizer.

    `origin`: the folder or GGUF file that the weights came from. `state`: of the training run; None for models that were
    not trained here. `add_bos`: False if the tokenizer's configuration says so.
    """

    model: Llama
    config: LlamaConfig
    tokenizer: Tokenizer
    origin: Path
    state: RunState | None
    add_bos: bool = True

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.embedding.weight.device

    def with_bos(self, ids: list[int]) -> list[int]:
        """`ids` as input of the network: BOS first, if the vocabulary has one and `add_bos` is set."""
        bos_id = self.tokenizer.bos_id
        return ids if bos_id is None or not self.add_bos else [bos_id, *ids]


def open_model(path: Path | str, device: str = "auto", dtype: torch.dtype = torch.float32) -> OpenedModel:
    """Open a run folder (its newest valid checkpoint), a checkpoint, a Hugging Face folder or a GGUF file of a Llama.

    Weights are converted to `dtype`. `device` auto: a GPU if there is one. Raises InputError, which names the file, when
    `path` is none of these, is damaged, or describes a network that is not supported.
    """
    path, target = Path(path), _device(device)
    if is_gguf(path):
        return _open_gguf(path, target, dtype)
    folder = model_folder(path)
    if (folder / CONFIG).is_file():
        config, state = config_from_hugging_face(folder / CONFIG), None
        tokenizer = Tokenizer.load(folder)
        paths, name_in_file = _hugging_face_files(folder), to_hugging_face
    else:
        state = form.read_state(folder)
        config = _checkpoint_config(folder, state)
        tokenizer = Tokenizer.load(folder)
        if tokenizer.fingerprint != state.tokenizer_fingerprint:
            raise InputError(f"{folder}: its tokenizer is not the one it was trained with")
        paths, name_in_file = [folder / form.WEIGHTS], str
    _check_vocabulary(folder, tokenizer, config)
    with TensorFiles(paths) as tensors:
        model = _load(config, tensors, name_in_file, folder, target, dtype)
    return OpenedModel(model, config, tokenizer, folder, state, _add_bos(folder))


def _open_gguf(path: Path, device: torch.device, dtype: torch.dtype) -> OpenedModel:
    with GgufFile(path) as file:
        config = config_from_metadata(file)
        tokenizer = tokenizer_from_metadata(file.metadata, path)
        _check_vocabulary(path, tokenizer, config)
        model = _load(config, GgufWeights(file, config), to_gguf, path, device, dtype)
        return OpenedModel(model, config, tokenizer, path, None, adds_bos(file.metadata))


def _check_vocabulary(origin: Path, tokenizer: Tokenizer, config: LlamaConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{origin}: the tokenizer has {tokenizer.vocab_size} tokens, the network's vocabulary {config.vocab_size}"
        )


def open_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a MODEL, or from a tokenizer file or folder. Raises InputError when there is none."""
    path = Path(path)
    if is_gguf(path):
        with GgufFile(path) as file:
            return tokenizer_from_metadata(file.metadata, path)
    if (path / "tokenizer").is_dir():  # a run folder, with or without a checkpoint
        return Tokenizer.load(path / "tokenizer")
    if (path / "checkpoints").is_dir():
        return Tokenizer.load(model_folder(path))
    return Tokenizer.load(path)


def model_folder(path: Path) -> Path:
    """The folder that holds the weights of a MODEL. All files of a checkpoint are compared with its manifest.

    Raises InputError when `path` is not a MODEL, or is a damaged checkpoint.
    """
    if not path.is_dir():
        what = "neither a GGUF file nor a folder" if path.exists() else "no such file or folder"
        raise InputError(f"{path}: {what}; give a run folder, a checkpoint, a Hugging Face folder or a GGUF file")
    if (path / CONFIG).is_file():
        return path
    if (path / form.WEIGHTS).is_file() or (path / form.STATE).is_file():
        form.check(path)
        return path
    if (path / "checkpoints").is_dir():
        newest = form.newest_valid(path / "checkpoints")
        if newest is None:
            raise InputError(f"{path / 'checkpoints'}: no valid checkpoint in it; train first")
        return newest
    raise InputError(f"{path}: neither checkpoints/ (a run), {form.WEIGHTS} (a checkpoint) nor {CONFIG} (Hugging Face)")


def _load(
    config: LlamaConfig,
    tensors: Weights,
    name_in_file: Callable[[str], str],
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> Llama:
    """Build the network on the meta device, compare every shape with the files, then load tensor by tensor."""
    layers = {match[1] for name in tensors.shapes if (match := re.match(r"(?:(?:model\.)?layers|blk)\.(\d+)\.", name))}
    if len(layers) != config.n_layers:  # also refuses a config of a billion layers before they are built
        raise InputError(f"{folder}: the weights have {len(layers)} layers, its configuration says {config.n_layers}")
    if config.n_layers > MAX_LAYERS:
        raise InputError(f"{folder}: {config.n_layers} layers; at most {MAX_LAYERS:,} are read")
    try:
        with torch.device("meta"):
            model = Llama(config)
    except (RuntimeError, TypeError) as error:  # sizes that no tensor can have
        raise InputError(f"{folder}: its configuration is impossible ({str(error).splitlines()[0]})") from None
    wanted = {name_in_file(name): (name, tuple(value.shape)) for name, value in model.named_parameters()}
    for name, (_, shape) in wanted.items():
        if name not in tensors.shapes:
            raise InputError(f"{folder}: tensor {name} is missing from its weights")
        if tensors.shapes[name] != shape:
            where = tensors.path_of[name]
            raise InputError(f"{where}: tensor {name} has shape {tensors.shapes[name]}, the configuration says {shape}")
    for name in sorted(tensors.shapes.keys() - wanted.keys()):
        if not is_ignored(name, config.tied_head):
            raise InputError(f"{tensors.path_of[name]}: tensor {name} is not part of this network")
    model = model.to(dtype).to_empty(device=device)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, (ours, _) in wanted.items():
            parameters[ours].copy_(tensors.tensor(name))
    return model.eval().requires_grad_(False)


_FIELDS: Any = {field.name: (type(field.default), field.default) for field in fields(LlamaConfig)}
_CheckpointModel = create_model("_CheckpointModel", __base__=FileSettings, **_FIELDS)  # LlamaConfig with strict types


def _checkpoint_config(folder: Path, state: RunState) -> LlamaConfig:
    _CheckpointModel.read(state.model, folder / form.STATE, "model")
    try:
        return LlamaConfig.from_dict(state.model)
    except ValueError as error:
        raise InputError(f"{folder / form.STATE}: model: {error}") from None


def _hugging_face_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return indexed_files(folder / INDEX)
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled:
        raise InputError(f"{folder / pickled[0]}: a pickle can run code and is never read; convert it to {WEIGHTS}")
    raise InputError(f"{folder}: neither {WEIGHTS} nor {INDEX} in this folder")


def _add_bos(folder: Path) -> bool:
    """False if tokenizer_config.json says `add_bos_token: false`."""
    path = folder / TOKENIZER_CONFIG
    settings = read_json(path) if path.is_file() else {}
    return not (isinstance(settings, dict) and settings.get("add_bos_token") is False)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {name!r} cannot be used here ({str(error).splitlines()[0]})") from None
    return device
