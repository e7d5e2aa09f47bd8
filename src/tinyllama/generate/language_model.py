"""The model that the Python API returns: it generates and scores text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.generate.decode import generate_many, prompt_tokens
from tinyllama.generate.decoder import Decoder
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.text_score import perplexity, score, token_logprobs


@dataclass(frozen=True)
class Generation:
    """A generated text."""

    prompt: str
    text: str  # what follows the prompt, up to a stop string
    token_ids: list[int]  # new tokens, without EOS; they include those of a stop string
    finish_reason: Literal["stop", "length"]  # stop: at EOS or a stop string; length: at a limit
    token_logprobs: list[float] | None = None  # natural log of each new token's probability under the model itself


@dataclass(frozen=True)
class TextScore:
    """How likely a text is. The measures are None if no token has a context."""

    token_ids: list[int]  # BOS first, if the model uses one
    token_logprobs: list[float | None]  # natural log; None for the first token, which has no context
    total_logprob: float | None  # the log-likelihood of the text, in nats
    mean_logprob: float | None  # per scored token
    perplexity: float | None
    bits_per_byte: float | None  # of the UTF-8 text of the scored tokens


class LanguageModel:
    """A trained network with its tokenizer; `tinyllama.open_model` returns one.

    `network` is a torch module in evaluation mode: token ids (B, T) int64 to logits (B, T, V). `config` is its
    LlamaConfig. `tokenizer` has `encode(text)`, which adds no BOS or EOS, and `decode(ids)`.
    """

    def __init__(self, opened: OpenedModel) -> None:
        self.network, self.config, self.tokenizer = opened.model, opened.config, opened.tokenizer
        self._opened = opened
        self._decoder = Decoder(opened.model, opened.tokenizer.vocab_size)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.95,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 1,
        num_samples: int = 1,
        logprobs: bool = False,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Generation]:
        """`num_samples` texts for each prompt, in the order of the prompts; the options are those of the command.

        Text n of the call uses seed + n, and is the same in a batch as alone. `logprobs`: also compute
        `token_logprobs`, before temperature and filters. `on_text` is called with n and each chunk of its text, as soon
        as it is there. Raises InputError for an option outside its range, a prompt that fills the context, and an empty
        prompt if the vocabulary has no BOS.
        """
        config = _generate_config(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, stop=_as_list(stop), seed=seed,
        )  # fmt: skip
        texts = [prompt for prompt in _as_list(prompts) for _ in range(num_samples)]
        found = generate_many(self._opened, texts, config, on_text=on_text, decoder=self._decoder)["sequences"]
        return [
            Generation(**one, token_logprobs=self._logprobs(one["prompt"], one["token_ids"]) if logprobs else None)
            for one in found
        ]

    def score(self, texts: str | Sequence[str]) -> list[TextScore]:
        """Log-probability of each token of each text, in order; a text may be longer than the context.

        Raises InputError for text that is not valid Unicode.
        """
        return [self._score(text) for text in _as_list(texts)]

    def _logprobs(self, prompt: str, new_ids: list[int]) -> list[float]:
        ids = prompt_tokens(self._opened, prompt) + new_ids
        return token_logprobs(self.network, ids)[len(ids) - 1 - len(new_ids) :]

    def _score(self, text: str) -> TextScore:
        found = score(self._opened, text)
        ids, logprobs, mean = found["token_ids"], found["token_logprobs"], found["mean_logprob"]
        if mean is None:
            return TextScore(ids, logprobs, None, None, None, None)
        total = sum(logprobs[1:])
        # Without BOS the first token is not scored.
        n_bytes = len(text.encode()) if self._opened.with_bos([]) else sum(map(self.tokenizer.token_bytes, ids[1:]))
        bits_per_byte = -total / math.log(2) / n_bytes if n_bytes else None
        return TextScore(ids, logprobs, total, mean, perplexity(-mean), bits_per_byte)


def _as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _generate_config(**options: Any) -> GenerateConfig:
    try:
        return GenerateConfig(**options)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"]))
        raise InputError(f"generate: {name} = {fault['input']!r} {fault['msg'].removeprefix('Input ')}") from None
