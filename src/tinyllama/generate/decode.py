"""Text out of the network, token by token, with a key-value cache."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.kv_cache import KVCache
from tinyllama.generate.sampling import sample
from tinyllama.model.llama import Cache, Llama
from tinyllama.tokenizer.bpe import Tokenizer


def generate(
    opened: OpenedModel, prompt: str, config: GenerateConfig, *, on_text: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Go on from `prompt` until EOS, `config.max_new_tokens`, or the end of the network's context.

    Returns `text` and `token_ids` (new ones only, without EOS), `tokens_per_second` of the new tokens, the prompt's
    reading included, and `finish_reason`: `stop` at EOS, `length` at a limit. `on_text` gets the text in pieces as it is
    made, never a part of a character. The seed fixes the text on the CPU. Raises InputError for a prompt that fills the
    context, or an empty one where the vocabulary has no BOS.
    """
    prompt_ids = prompt_tokens(opened, prompt)
    stream = TextStream(opened.tokenizer, prompt_ids)
    started = time.perf_counter()
    token_ids: list[int] = []
    finish_reason = "length"
    for token_id in new_tokens(opened, prompt_ids, config):
        if token_id == opened.tokenizer.eos_id:
            finish_reason = "stop"
            break
        token_ids.append(token_id)
        if (piece := stream.add(token_id)) and on_text:
            on_text(piece)
    seconds = time.perf_counter() - started
    if (piece := stream.finish()) and on_text:
        on_text(piece)
    return {
        "text": stream.text,
        "token_ids": token_ids,
        "tokens_per_second": round(len(token_ids) / seconds, 2) if token_ids else 0.0,
        "finish_reason": finish_reason,
    }


def prompt_tokens(opened: OpenedModel, prompt: str) -> list[int]:
    """The prompt's token ids, BOS first where the model wants it. Raises InputError when no token could follow."""
    ids = opened.with_bos(opened.tokenizer.encode(prompt))
    if not ids:
        raise InputError("prompt: empty, and this vocabulary has no BOS to start from; give some text")
    if len(ids) >= opened.config.seq_len:
        raise InputError(
            f"prompt: {len(ids)} tokens, BOS included, fill the model's context of {opened.config.seq_len}; shorten it"
        )
    return ids


@torch.inference_mode()
def new_tokens(opened: OpenedModel, prompt_ids: list[int], config: GenerateConfig) -> Iterator[int]:
    """Token ids after the prompt, EOS among them, until a limit. Sampling is on the CPU, in fp32, on every device."""
    most = min(config.max_new_tokens, opened.config.seq_len - len(prompt_ids))
    if most == 0:
        return
    device, dtype = opened.device, opened.model.embedding.weight.dtype
    cache = KVCache(opened.config, 1, len(prompt_ids) + most, device, dtype)
    generator = torch.Generator().manual_seed(config.seed)
    tokens = torch.tensor([prompt_ids], device=device)
    for made in range(1, most + 1):
        logits = next_logits(opened.model, tokens, cache)[0, : opened.tokenizer.vocab_size].float().cpu()
        if not torch.isfinite(logits).all():
            raise InputError(
                f"{opened.origin}: its logits are not finite; the weights are damaged or dtype is too narrow"
            )
        token_id = sample(
            logits, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p, generator=generator
        )
        yield token_id
        if made < most:
            tokens = torch.tensor([[token_id]], device=device)


def next_logits(model: Llama, tokens: Tensor, cache: Cache) -> Tensor:  # (B, T) -> (B, V)
    """Scores of the token after `tokens`, which follow those in the cache and join them."""
    return model.logits(model.hidden(tokens, cache=cache)[:, -1])


class TextStream:
    """Turns token ids into text as they come, in whole characters; the pieces together are the text of all new ids.

    Each piece is the difference of two decodings that start at the same earlier token, so that a blank inside a text is
    not taken for the one that encoding writes before it. A piece waits while the text ends in U+FFFD: the next token
    may bring the rest of the character.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids)  # from the last written piece on
        self._written = len(prompt_ids)  # of those, whose text is out
        self._known = tokenizer.decode(self._ids)
        self.text = ""

    def add(self, token_id: int) -> str:
        """The text that is ready after one more token; often one word, sometimes nothing."""
        self._ids.append(token_id)
        decoded = self._tokenizer.decode(self._ids)
        if len(decoded) <= len(self._known) or decoded.endswith("\ufffd"):
            return ""
        piece = decoded[len(self._known) :]
        self._ids = self._ids[self._written :]
        self._written = len(self._ids)
        self._known = self._tokenizer.decode(self._ids)
        self.text += piece
        return piece

    def finish(self) -> str:
        """What is left at the end, bytes that make no character as U+FFFD."""
        piece = self._tokenizer.decode(self._ids)[len(self._known) :]
        self._ids, self._written, self._known = [], 0, ""
        self.text += piece
        return piece
