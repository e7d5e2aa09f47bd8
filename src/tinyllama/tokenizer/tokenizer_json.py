"""Converts a sentencepiece BPE model to Hugging Face's `tokenizer.json`, with the same ids for every text."""

import json

from sentencepiece import SentencePieceProcessor

from tinyllama.errors import InputError
from tinyllama.tokenizer.sentencepiece_proto import user_defined_pieces

SPACE = "▁"  # U+2581, how tokens write a space


def to_tokenizer_json(model: SentencePieceProcessor, *, with_special_tokens: bool = True) -> str:
    """`model` (BPE, byte fallback, dummy prefix, identity normalisation) as the text of a `tokenizer.json`.

    Like sentencepiece, the normalizer puts a space before the text and writes spaces as U+2581; there is no
    pre-tokenizer. Without special tokens no text, not even a literal `<s>`, becomes one in any reader of the file. Raises
    InputError for a model with user-defined tokens: around those a tokenizer.json would drop or add spaces.
    """
    if found := user_defined_pieces(model.serialized_model_proto()):
        raise InputError(
            f"tokenizer.model: {len(found)} user-defined tokens, such as {found[0]!r}; no tokenizer.json gives the same "
            "ids; put its author's tokenizer.json beside it"
        )
    size = model.get_piece_size()
    special = [i for i in range(size) if model.is_control(i) or model.is_unknown(i)]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(i, model.id_to_piece(i)) for i in special] if with_special_tokens else [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": SPACE}, _replace(" ", SPACE)],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace(SPACE, " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.id_to_piece(model.unk_id()),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {model.id_to_piece(i): i for i in range(size)},
            "merges": merges(model),
        },
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def merges(model: SentencePieceProcessor) -> list[tuple[str, str]]:
    """The pairs that BPE may join, in order of priority.

    sentencepiece joins the pair whose result has the highest score; a merge list names each pair. Among the splits of one
    token the one with the longer left side comes first, so that both agree when two splits of it compete.
    """
    scores = {
        model.id_to_piece(i): model.get_score(i)
        for i in range(model.get_piece_size())
        if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i) or model.is_unused(i))
    }
    ordered = []
    for token, score in scores.items():
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in scores and right in scores:
                ordered.append(((-score, -len(left), -len(right)), (left, right)))
    ordered.sort(key=lambda entry: entry[0])
    return [pair for _, pair in ordered]


def _replace(pattern: str, content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def _added_token(token_id: int, content: str) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}
