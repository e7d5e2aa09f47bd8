"""Next-token loss as (sum, count), so that an update can divide by the count of the whole step."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100  # targets that are not counted


@dataclass(frozen=True)
class LossSums:
    """Sums over the counted targets of one batch, as 0-dimensional tensors, so that the host need not wait."""

    loss: Tensor  # negative log-likelihood in nats, fp32
    z_loss: Tensor  # squared log-partition
    correct: Tensor  # targets that have the highest logit
    count: Tensor  # counted targets


def next_token_loss(
    hidden: Tensor, output_weight: Tensor, targets: Tensor, *, chunk_tokens: int = 4096, with_z_loss: bool = False
) -> LossSums:
    """Loss of hidden (B, T, E) against targets (B, T), computed in chunks of tokens.

    The softmax is in fp32. Chunks bound memory without a gradient; with one, autograd keeps the logits.
    """
    flat_hidden, flat_targets = hidden.flatten(0, 1), targets.flatten()  # (N, E), (N,)
    zero = torch.zeros((), device=hidden.device, dtype=torch.promote_types(hidden.dtype, torch.float32))
    loss, z_loss, correct = zero, zero, zero.long()
    for chunk, wanted in zip(flat_hidden.split(chunk_tokens), flat_targets.split(chunk_tokens), strict=True):
        logits = F.linear(chunk, output_weight.to(chunk.dtype)).to(zero.dtype)  # (n, V)
        loss = loss + F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        if with_z_loss:
            log_partition = logits.logsumexp(dim=-1) * (wanted != IGNORED)
            z_loss = z_loss + log_partition.square().sum()
        correct = correct + (logits.detach().argmax(dim=-1) == wanted).sum()
    return LossSums(loss, z_loss, correct, (flat_targets != IGNORED).sum())


def token_losses(
    hidden: Tensor, output_weight: Tensor, targets: Tensor, *, chunk_tokens: int = 4096
) -> tuple[Tensor, Tensor]:
    """For each target of (B, T): negative log-likelihood (fp32; 0 if ignored), and whether it has the highest logit."""
    shape, losses, correct = targets.shape, [], []
    flat = zip(hidden.flatten(0, 1).split(chunk_tokens), targets.flatten().split(chunk_tokens), strict=True)
    for chunk, wanted in flat:
        logits = F.linear(chunk, output_weight.to(chunk.dtype))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (n, V)
        losses.append(F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="none"))
        correct.append(logits.argmax(dim=-1) == wanted)
    return torch.cat(losses).view(shape), torch.cat(correct).view(shape)
