"""Writes a model as a Hugging Face folder that AutoModelForCausalLM and AutoTokenizer open without our code.

Weights stay fp32, as they were trained. A network with embedding projections becomes a plain Llama (see export_files.py).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.exchange.export_files import complete_file, plain_llama, prepare_folder
from tinyllama.exchange.hugging_face_names import config_to_hugging_face
from tinyllama.exchange.model_card import card_facts, model_card
from tinyllama.exchange.open_model import CONFIG, INDEX, TOKENIZER_CONFIG, WEIGHTS, OpenedModel
from tinyllama.exchange.tensor_names import to_hugging_face
from tinyllama.files import atomic_file, write_json
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.tokenizer_json import to_tokenizer_json

SPECIAL_TOKENS, GENERATION, CARD = "special_tokens_map.json", "generation_config.json", "README.md"
MAX_FILE_BYTES = 5_000_000_000
_OWN_NAMES = {CONFIG, WEIGHTS, INDEX, JSON_FILE, MODEL_FILE, TOKENIZER_CONFIG, SPECIAL_TOKENS, GENERATION, CARD}


def export_hugging_face(
    opened: OpenedModel, out: Path, card: str | None = None, max_file_bytes: int = MAX_FILE_BYTES
) -> dict[str, Any]:
    """Write `opened` into the folder `out`; return `files` (names) and `parameters` of the exported network.

    `card`: text of README.md, by default made from the run's own files. config.json is written last: without it the
    folder is no model. Weights larger than `max_file_bytes` are split over several files with an index. Raises InputError
    when `out` holds files that are not an earlier export's, or Transformers has no such network.
    """
    if opened.config.dim % opened.config.n_heads:
        raise InputError(
            f"{opened.origin}: dim {opened.config.dim} is not a multiple of n_heads {opened.config.n_heads}, and "
            "Transformers cannot open such a network; export it with --format gguf"
        )
    _prepare(out)
    config, weights = plain_llama(opened)
    tensors = {to_hugging_face(name): value for name, value in weights.items()}
    names = _write_tokenizer(opened, out)
    names += _write_weights(tensors, out, max_file_bytes)
    with atomic_file(out / CARD, "w") as file:
        file.write(model_card(card_facts(opened)) if card is None else card)
    bos_id, eos_id = opened.tokenizer.bos_id, opened.tokenizer.eos_id
    write_json(out / GENERATION, {"bos_token_id": bos_id, "eos_token_id": eos_id})
    write_json(out / CONFIG, config_to_hugging_face(config, bos_id, eos_id))
    parameters = sum(values.numel() for values in tensors.values())
    return {"files": sorted([*names, CARD, GENERATION, CONFIG]), "parameters": parameters}


def _prepare(out: Path) -> None:
    """Create the folder; remove an earlier export's configuration and weights, so that an interrupted one is no model."""
    found = prepare_folder(out, lambda name: name in _OWN_NAMES or _is_weights(name) or name.startswith("."))
    (out / CONFIG).unlink(missing_ok=True)
    for path in found:
        if _is_weights(path.name) or path.name == INDEX or path.name.endswith(".partial"):
            path.unlink()


def _is_weights(name: str) -> bool:
    return name.startswith("model") and name.endswith(".safetensors")


def _write_weights(tensors: dict[str, Tensor], out: Path, max_file_bytes: int) -> list[str]:
    groups: list[list[str]] = [[]]
    room = max_file_bytes
    for name, values in tensors.items():
        if values.nbytes > room and groups[-1]:
            groups.append([])
            room = max_file_bytes
        groups[-1].append(name)
        room -= values.nbytes
    if len(groups) == 1:
        _save(tensors, out / WEIGHTS)
        return [WEIGHTS]
    file_names = [f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)]
    for file_name, names in zip(file_names, groups, strict=True):
        _save({name: tensors[name] for name in names}, out / file_name)
    weight_map = {name: file_name for file_name, names in zip(file_names, groups, strict=True) for name in names}
    total_bytes = sum(values.nbytes for values in tensors.values())
    write_json(out / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
    return [*file_names, INDEX]


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with complete_file(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


def _write_tokenizer(opened: OpenedModel, out: Path) -> list[str]:
    """Write the tokenizer's files; return their names. Those of a Hugging Face folder are copied, others created."""
    origin = opened.origin
    names = [name for name in (MODEL_FILE, JSON_FILE, TOKENIZER_CONFIG, SPECIAL_TOKENS) if (origin / name).is_file()]
    for name in names:
        with atomic_file(out / name) as copy, (origin / name).open("rb") as original:
            shutil.copyfileobj(original, copy)
    if TOKENIZER_CONFIG in names:
        return names
    tokenizer = opened.tokenizer
    if not names:  # a GGUF file holds model and tokenizer in one
        with atomic_file(out / tokenizer.file_name) as file:
            file.write(tokenizer.data)
        names = [tokenizer.file_name]
    special = {name: tokenizer.token(token_id) for name, token_id in tokenizer.special_ids.items()}
    with atomic_file(out / JSON_FILE, "w") as file:
        json.dump(_tokenizer_document(opened), file, ensure_ascii=False, indent=1)
    write_json(out / SPECIAL_TOKENS, special)
    write_json(
        out / TOKENIZER_CONFIG,
        {
            # LlamaTokenizer would rebuild the pipeline and drop a leading space
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "add_bos_token": opened.add_bos and "bos_token" in special,
            "add_eos_token": False,
            "split_special_tokens": True,  # a text's own `</s>` stays text
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": opened.config.seq_len,
        },
    )
    return sorted({*names, JSON_FILE, SPECIAL_TOKENS, TOKENIZER_CONFIG})


def _checked_json(opened: OpenedModel) -> dict[str, Any]:
    """The tokenizer.json of a tokenizer.model. Raises InputError when its ids differ, as with models that normalise."""
    tokenizer = opened.tokenizer
    text = to_tokenizer_json(SentencePieceProcessor(model_proto=tokenizer.data))
    again = Tokenizer.from_data(text.encode(), JSON_FILE, {}, opened.origin)
    if (different := tokenizer.first_difference(again)) is not None:
        raise InputError(
            f"{opened.origin}: no tokenizer.json gives the same ids as its tokenizer.model ({different[:20]!r}); "
            "put its author's tokenizer.json beside it"
        )
    return json.loads(text)


def _tokenizer_document(opened: OpenedModel) -> dict[str, Any]:
    """tokenizer.json, with a rule that puts BOS first unless the file has a rule of its own."""
    tokenizer, path = opened.tokenizer, opened.origin / JSON_FILE
    if path.is_file():
        document = json.loads(path.read_text(encoding="utf-8"))
    elif tokenizer.file_name == JSON_FILE:
        document = json.loads(tokenizer.data)
    else:
        document = _checked_json(opened)
    bos_id = opened.tokenizer.bos_id
    if document.get("post_processor") is None and opened.add_bos and bos_id is not None:
        bos = opened.tokenizer.token(bos_id)

        def sequence(text: str, type_id: int) -> list[dict[str, Any]]:
            return [{"SpecialToken": {"id": bos, "type_id": type_id}}, {"Sequence": {"id": text, "type_id": type_id}}]

        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": sequence("A", 0) + sequence("B", 1),
            "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
        }
    return document
