"""Next-token loss where each rank has some rows of the head: a softmax over ranks, without all logits on any of them.

Ranks tell each other the largest logit, the sum of exponentials and the wanted logit of each token: three numbers, not V.
Letters: N = B T tokens, n of a chunk, R rows of this rank, E embedding_dim, V rows of the head on this rank.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from tinyllama.model.loss import IGNORED, LossSums
from tinyllama.model.loss_gradient import CHUNK_TOKENS, loss_and_gradients
from tinyllama.parallel.tensor_parallel import TensorCollectives


@torch.no_grad()
def vocabulary_loss(
    rows: Tensor,
    output_weight: Tensor,
    targets: Tensor,
    weight_gradient: Tensor | None,
    slices: TensorCollectives,
    *,
    z_loss: float = 0.0,
    scale: Tensor | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[LossSums, Tensor, Tensor]:
    """`loss_gradient.loss_and_gradients` of hidden rows (R, E) under this rank's output_weight (V, E); targets (B, T).

    Every rank gets the same sums; the gradients are of its own rows (R, E) and of its own part of the head (V, E).
    """
    sums, gradient, weight_gradient = loss_and_gradients(
        slices.all_rows(rows)[None], output_weight, targets, weight_gradient, z_loss=z_loss, scale=scale,
        chunk_tokens=chunk_tokens, loss_in_place=partial(_loss_in_place, slices),
    )  # fmt: skip
    return sums, slices.own_rows(gradient[0]), weight_gradient


@torch.no_grad()
def vocabulary_token_losses(
    rows: Tensor, output_weight: Tensor, targets: Tensor, slices: TensorCollectives, *, chunk_tokens: int = CHUNK_TOKENS
) -> tuple[Tensor, Tensor]:
    """`loss.token_losses` of hidden rows (R, E): negative log-likelihood and hit of each target (B, T), on every rank."""
    losses, correct = [], []
    hidden = slices.all_rows(rows)
    for chunk, wanted in zip(hidden.split(chunk_tokens), targets.flatten().split(chunk_tokens), strict=True):
        loss, _, right = _loss_in_place(slices, chunk @ output_weight.T, wanted, 0.0, None)
        losses.append(loss)
        correct.append(right)
    return torch.cat(losses).view(targets.shape), torch.cat(correct).view(targets.shape)


def _loss_in_place(
    slices: TensorCollectives, logits: Tensor, targets: Tensor, z_loss: float, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, squared log-partition and correctness of each token, (n,) each; logits (n, V) become their gradient."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    counted = targets != IGNORED
    inside, index = slices.own_pieces(torch.where(counted, targets, -1), logits.shape[1])
    largest = slices.reduce(exact.amax(dim=-1), dist.ReduceOp.MAX)  # (n,)
    wanted = exact.gather(1, index[:, None])[:, 0] * inside
    exact.sub_(largest[:, None]).exp_()
    total, wanted = slices.reduce(torch.stack([exact.sum(dim=-1), wanted]))
    log_partition = largest + total.log()
    correct = (wanted >= largest) & counted
    loss = (log_partition - wanted) * counted
    z = log_partition.square() * counted
    exact.div_(total[:, None])  # probabilities
    if z_loss:
        exact.mul_((1 + 2 * z_loss * log_partition)[:, None])
    exact.scatter_add_(1, index[:, None], -inside[:, None].to(exact.dtype))
    exact.mul_(counted[:, None] if scale is None else counted[:, None] * scale)
    if exact is not logits:
        logits.copy_(exact)
    return loss, z, correct
