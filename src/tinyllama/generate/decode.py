"""Generates text after prompts; the text can be streamed."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.generate.decoder import Decoder
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.text_stream import StopText, TextStream

MAX_TOGETHER = 64  # sequences decoded at once; the others wait
OnText = Callable[[int, str], None]  # gets the index of a text and its next chunk


def number_format(name: str) -> torch.dtype:
    """The dtype of fp32, bf16 or fp16; `auto`: bf16 if there is a GPU, else fp32."""
    if name == "auto":
        name = "bf16" if torch.cuda.is_available() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def generate(
    opened: OpenedModel,
    prompt: str,
    config: GenerateConfig,
    *,
    on_text: Callable[[str], None] | None = None,
    decoder: Decoder | None = None,
) -> dict[str, Any]:
    """Continue `prompt` until EOS, a stop string, `config.max_new_tokens` or the end of the network's context.

    Returns `text` and `token_ids` (of new tokens only, without EOS; the ids include those of a stop string, the text does
    not), `tokens_per_second` of the new tokens, prefill included, and `finish_reason`: `stop` at EOS or a stop string,
    `length` at a limit. `on_text` gets each chunk of text as it is generated, in whole characters, without stop strings.
    Raises InputError for a prompt that fills the context, and for an empty one if the vocabulary has no BOS.
    """
    on_chunk = None if on_text is None else lambda _, chunk: on_text(chunk)
    found = generate_many(opened, [prompt], config, on_text=on_chunk, decoder=decoder)
    values = found | found["sequences"][0]
    return {key: values[key] for key in ("text", "token_ids", "tokens_per_second", "finish_reason")}


def generate_many(
    opened: OpenedModel,
    prompts: Sequence[str],
    config: GenerateConfig,
    *,
    on_text: OnText | None = None,
    decoder: Decoder | None = None,
) -> dict[str, Any]:
    """The same for several prompts of any lengths, decoded together; sequence n has the seed `config.seed` + n.

    Returns `sequences` (`prompt`, `text`, `token_ids`, `finish_reason`, in the order of `prompts`) and
    `tokens_per_second` of all new tokens together. If `decoder` is kept from call to call, its buffers and CUDA graphs
    are created once.
    """
    ids = [prompt_tokens(opened, prompt) for prompt in prompts]
    started = time.perf_counter()
    sequences = generate_ids(opened, ids, config, on_text=on_text, decoder=decoder)
    seconds = time.perf_counter() - started
    n_tokens = sum(len(sequence["token_ids"]) for sequence in sequences)
    return {
        "sequences": [{"prompt": prompt, **found} for prompt, found in zip(prompts, sequences, strict=True)],
        "tokens_per_second": round(n_tokens / seconds, 2) if n_tokens else 0.0,
    }


def generate_ids(
    opened: OpenedModel,
    prompts: Sequence[list[int]],
    config: GenerateConfig,
    *,
    on_text: OnText | None = None,
    decoder: Decoder | None = None,
) -> list[dict[str, Any]]:
    """The same for prompts that are token ids, BOS included: `text`, `token_ids`, `finish_reason` of each."""
    decoder = decoder or Decoder(opened.model, opened.tokenizer.vocab_size)
    done: list[_Sequence] = []
    for first in range(0, len(prompts), MAX_TOGETHER):
        numbers = range(first, min(first + MAX_TOGETHER, len(prompts)))
        group = [_Sequence(opened, n, prompts[n], config, on_text) for n in numbers]
        _decode_group(opened, decoder, group, config)
        done += group
    return [{"text": s.text, "token_ids": s.token_ids, "finish_reason": s.finish_reason} for s in done]


def prompt_tokens(opened: OpenedModel, prompt: str) -> list[int]:
    """The prompt's token ids, BOS first if the model uses one. Raises InputError if no token can follow."""
    ids = opened.with_bos(opened.tokenizer.encode(prompt))
    if not ids:
        raise InputError("prompt: empty, and this vocabulary has no BOS to start from; give some text")
    if len(ids) >= opened.config.seq_len:
        raise InputError(
            f"prompt: {len(ids)} tokens, BOS included, fill the model's context of {opened.config.seq_len}; shorten it"
        )
    return ids


def _decode_group(opened: OpenedModel, decoder: Decoder, group: "list[_Sequence]", config: GenerateConfig) -> None:
    steps = decoder.new_tokens([s.prompt_ids for s in group], config, [config.seed + s.number for s in group])
    for tokens in steps:
        for sequence, token_id in zip(group, tokens, strict=True):
            if sequence.is_done:
                continue
            if token_id < 0:
                raise InputError(
                    f"{opened.origin}: its logits are not finite; the weights are damaged or dtype is too narrow"
                )
            sequence.add(token_id)
        if all(sequence.is_done for sequence in group):
            break
    for sequence in group:
        sequence.finish()


class _Sequence:
    """The new tokens and the text of one prompt. Unless the text is streamed or may stop, it is decoded at the end."""

    def __init__(
        self, opened: OpenedModel, number: int, prompt_ids: list[int], config: GenerateConfig, on_text: OnText | None
    ) -> None:
        self.number, self.prompt_ids = number, prompt_ids
        self.token_ids: list[int] = []
        self.text, self.finish_reason, self.is_done = "", "length", False
        self._eos_id, self._on_text = opened.tokenizer.eos_id, on_text
        self._max_tokens = min(config.max_new_tokens, opened.config.seq_len - len(prompt_ids))
        self._stream = TextStream(opened.tokenizer, prompt_ids)
        self._stop = StopText(config.stop)
        self._decodes_each_token = on_text is not None or bool(config.stop)

    def add(self, token_id: int) -> None:
        """Take the next token; the sequence may end with it."""
        if token_id == self._eos_id:
            self.finish_reason, self.is_done = "stop", True
            return
        self.token_ids.append(token_id)
        if self._decodes_each_token:
            self._write(self._stop.add(self._stream.add(token_id)))
        if self._stop.found:
            self.finish_reason, self.is_done = "stop", True
        elif len(self.token_ids) == self._max_tokens:
            self.is_done = True

    def finish(self) -> None:
        """Write the rest of the text."""
        if not self._decodes_each_token:
            for token_id in self.token_ids:
                self._write(self._stream.add(token_id))
        self._write(self._stop.add(self._stream.finish()))
        if self._stop.found:
            self.finish_reason = "stop"
        self._write(self._stop.finish())

    def _write(self, chunk: str) -> None:
        self.text += chunk
        if chunk and self._on_text is not None:
            self._on_text(self.number, chunk)
