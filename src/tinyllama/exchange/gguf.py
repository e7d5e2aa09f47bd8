"""Writes a model as one GGUF file, for llama.cpp and programs built on it. Needs the extra `gguf`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tinyllama.errors import InputError, MissingExtraError
from tinyllama.exchange.export_files import complete_file, plain_llama, prepare_folder
from tinyllama.exchange.gguf_format import BLOCK, FORMATS
from tinyllama.exchange.gguf_names import (
    ARCHITECTURE,
    ROPE_FACTORS,
    config_to_metadata,
    n_heads_of,
    rope_factors,
    to_neighbours,
)
from tinyllama.exchange.gguf_tokenizer import tokenizer_to_metadata
from tinyllama.exchange.model_card import card_facts
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.exchange.tensor_names import to_gguf
from tinyllama.model.llama_config import LlamaConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

GGUF_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}  # llama.cpp's number of the file type
_LARGEST = {"f16": 65_504.0, "q8_0": 127 * 65_504.0}  # q8_0: the scale of 32 values is an f16


def export_gguf(opened: OpenedModel, out: Path, gguf_type: str = "f16") -> dict[str, Any]:
    """Write `opened` as `out`/model-TYPE.gguf; return `files` (its name) and `parameters` of the exported network.

    `gguf_type`: the matrices' number format, f32, f16, bf16 or q8_0 (8 bits and a scale for 32 values; a matrix whose row
    length is not divisible by 32 is f16); norms are f32. Embedding projections are multiplied in. Raises InputError when
    `out` holds other files, GGUF cannot express the tokenizer, or a value is too large for the type; MissingExtraError
    without the package `gguf`.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError(
            "export --format gguf: the package gguf is not installed; pip install 'tinyllama-pretrain[gguf]'"
        ) from None
    if out.suffix == ".gguf" or out.is_file():
        raise InputError(f"{out}: --out is a folder; the file in it is named model-TYPE.gguf")
    prepare_folder(out, lambda name: name.endswith((".gguf", ".partial")))
    config, weights = plain_llama(opened)
    tensors = {to_gguf(name): value for name, value in weights.items()}
    if config.rope_scaling == "llama3":
        tensors[ROPE_FACTORS] = rope_factors(config)
    metadata = {
        "general.type": "model",
        "general.name": str(card_facts(opened)["name"]),
        "general.file_type": GGUF_TYPES[gguf_type],
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **config_to_metadata(config),
        **tokenizer_to_metadata(opened.tokenizer, config.vocab_size, opened.add_bos, opened.origin),
    }
    path = out / f"model-{gguf_type}.gguf"
    with complete_file(path) as partial:
        _write(partial, metadata, tensors, config, gguf_type)
    return {"files": [path.name], "parameters": sum(value.numel() for value in weights.values())}


def _write(
    path: Path, metadata: dict[str, Any], tensors: dict[str, Tensor], config: LlamaConfig, gguf_type: str
) -> None:
    """Write header, metadata, then the tensors one at a time, so that only one is in memory in two formats."""
    import gguf

    writer = gguf.GGUFWriter(None, ARCHITECTURE)
    for key, value in metadata.items():
        _add(writer, key, value)
    kinds = {name: gguf.GGMLQuantizationType[_type_of(value, gguf_type).upper()] for name, value in tensors.items()}
    for name, value in tensors.items():
        number_format = FORMATS[int(kinds[name])]
        nbytes = value.numel() // number_format.values * number_format.nbytes
        writer.add_tensor_info(name, value.shape, value.numpy().dtype, nbytes, raw_dtype=kinds[name])
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, value in tensors.items():
        heads = n_heads_of(name, config)
        rows = _checked(name, value if heads is None else to_neighbours(value, heads), FORMATS[int(kinds[name])].name)
        writer.write_tensor_data(gguf.quantize(rows.contiguous().numpy(), kinds[name]))
    writer.flush()
    writer.close()


def _type_of(value: Tensor, gguf_type: str) -> str:
    if value.dim() == 1:
        return "f32"
    return "f16" if gguf_type == "q8_0" and value.shape[1] % BLOCK else gguf_type


def _checked(name: str, value: Tensor, number_format: str) -> Tensor:
    largest = _LARGEST.get(number_format)
    if largest is not None and value.abs().max() > largest:
        raise InputError(
            f"tensor {name}: values above {largest:,.0f} do not fit {number_format}; choose --gguf-type bf16 or f32"
        )
    return value


def _add(writer: "GGUFWriter", key: str, value: Any) -> None:
    """Write one value: integers as uint32 and other numbers as float32, as llama.cpp expects."""
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(key, value)
