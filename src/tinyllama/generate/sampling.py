"""Choice of the next token. Logits are (..., V); those of excluded tokens become -inf.

The order is that of Hugging Face's generate: repetition penalty, temperature, top-k, top-p, min-p. Random numbers come from
a counter, not from a generator with a state: number n of a sequence is a pure function of its seed and n. So a sequence
is the same alone, in any batch and on every device, as far as its logits are the same.
"""

import math

import torch
from torch import Tensor

from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.model.dropout import hash_32

_MASK_32 = 0xFFFFFFFF


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens of `seen` (..., V) less likely: positive logits divided, negative ones multiplied by `penalty` > 0.

    Source: Keskar et al. 2019 (CTRL), as in Hugging Face. Prompt tokens count as seen.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature (> 0), shifted so that the largest is 0: no temperature overflows."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Exclude all but the k largest logits, and those equal to the k-th; k = 0 keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens, the most likely first, whose probabilities add up to p (Holtzman et al. 2019)."""
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    reached_before = probabilities.cumsum(dim=-1) - probabilities >= p
    reached_before[..., 0] = False  # at least one token is kept
    return logits.masked_fill(torch.zeros_like(reached_before).scatter(-1, order, reached_before), -math.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Exclude tokens below min_p times the probability of the most likely (Nguyen et al. 2024); 0 keeps all."""
    if min_p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(min_p), -math.inf)


def uniforms(seeds: Tensor, number: int | Tensor) -> Tensor:
    """Random number `number` of each of `seeds` (int64): float64 in (0, 1), the same shape, 2^32 different values."""
    state = torch.zeros_like(seeds)
    for word in (seeds & _MASK_32, (seeds >> 32) & _MASK_32, number):
        state = hash_32((state * 31 + word + 1) & _MASK_32)
    return (state.double() + 0.5) / 2**32


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Token ids (...): where the cumulative probabilities of `logits` (..., V) pass `uniform` (...), in (0, 1)."""
    cumulated = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    wanted = (uniform * cumulated[..., -1])[..., None]
    return torch.searchsorted(cumulated, wanted, right=True)[..., 0].clamp(max=logits.shape[-1] - 1)


def choose(
    logits: Tensor, config: GenerateConfig, seeds: Tensor, number: int | Tensor, seen: Tensor | None = None
) -> Tensor:
    """One token id for each row of logits (B, V): the most likely at temperature 0 (the lowest id of equals), else drawn
    with random number `number` of `seeds` (B,). `seen` (B, V): tokens to which the repetition penalty applies.

    -1 where a row's largest logit is not finite: the weights are damaged, or the number format is too narrow.
    """
    if seen is not None:
        logits = penalize_repetition(logits, seen, config.repetition_penalty)
    best, most_likely = logits.max(dim=-1)
    if config.temperature == 0:
        chosen = most_likely
    else:
        kept = keep_top_k(with_temperature(logits, config.temperature), config.top_k)
        chosen = draw(keep_min_p(keep_top_p(kept, config.top_p), config.min_p), uniforms(seeds, number))
    return torch.where(best.abs() < math.inf, chosen, -1)  # false for NaN too
