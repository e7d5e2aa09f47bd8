"""Which token comes next. Logits are of one position, shape (V,); what is left out becomes -inf.

The order is fixed: temperature, then top-k, then top-p on what is left (as in Hugging Face's generate).
"""

import torch
from torch import Tensor

LEFT_OUT = float("-inf")


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature (> 0), shifted so that the largest is 0: no temperature overflows."""
    return (logits - logits.max()) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Leave out all but the k largest logits, and those equal to the k-th; k = 0 keeps all."""
    if k == 0 or k >= logits.numel():
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[-1], LEFT_OUT)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities reach p together (Holtzman et al. 2019); at least one."""
    if p >= 1:
        return logits
    ordered, order = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    reached_before = probabilities.cumsum(dim=-1) - probabilities >= p
    reached_before[0] = False
    return logits.scatter(-1, order[reached_before], LEFT_OUT)


def sample(logits: Tensor, *, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> int:
    """One token id: the likeliest when temperature is 0 (the lowest id among equals), else drawn with `generator`."""
    if temperature == 0:
        return int(logits.argmax())
    kept = keep_top_p(keep_top_k(with_temperature(logits, temperature), top_k), top_p)
    return int(torch.multinomial(kept.softmax(dim=-1), 1, generator=generator))
