"""Log-probabilities of the tokens of a text."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyllama.exchange.open_model import OpenedModel
from tinyllama.model.llama import Llama

LOGITS_CHUNK_TOKENS = 512
LARGEST_EXPONENT = 709.0  # e^709 is the largest whole power that fits a float


def score(opened: OpenedModel, text: str) -> dict[str, Any]:
    """Log-probability of each token of `text`, after BOS if the model uses one; no EOS.

    Returns `token_ids`, `token_logprobs` (natural log; None for the first token, which has no context) and `mean_logprob`
    of the others (None if there are none). A text longer than the context is read in windows that overlap by half, so
    that each token has at least half a context before it.
    """
    token_ids = opened.with_bos(opened.tokenizer.encode(text))
    found = token_logprobs(opened.model, token_ids)
    return {
        "token_ids": token_ids,
        "token_logprobs": [None, *found] if token_ids else [],
        "mean_logprob": sum(found) / len(found) if found else None,
    }


def perplexity(mean_nats: float) -> float:
    """e^mean_nats, at most e^709."""
    return math.exp(min(mean_nats, LARGEST_EXPONENT))


@torch.inference_mode()
def token_logprobs(model: Llama, token_ids: list[int]) -> list[float]:
    """Natural log of the probability of each of token_ids[1:] given those before it: len(token_ids) - 1 values."""
    device, seq_len = model.embedding.weight.device, model.config.seq_len
    stride = max(seq_len // 2, 1)
    found: list[float] = []
    start = 0
    while len(found) < len(token_ids) - 1:
        window = torch.tensor([token_ids[start : start + seq_len + 1]], device=device)  # (1, T + 1)
        new = start + window.shape[1] - 1 - len(found)  # targets that no earlier window has scored
        hidden = model.hidden(window[:, :-1])[0, -new:]  # (new, E)
        found += _logprobs(hidden, model.output_weight, window[0, -new:])
        start += stride
    return found


def _logprobs(hidden: Tensor, output_weight: Tensor, targets: Tensor) -> list[float]:
    """Log-probability of targets (N,) after hidden (N, E), in fp32; logits are computed and freed in chunks."""
    values: list[float] = []
    for chunk, wanted in zip(hidden.split(LOGITS_CHUNK_TOKENS), targets.split(LOGITS_CHUNK_TOKENS), strict=True):
        logits = F.linear(chunk, output_weight).float()  # (n, V)
        values += (-F.cross_entropy(logits, wanted, reduction="none")).tolist()
    return values
