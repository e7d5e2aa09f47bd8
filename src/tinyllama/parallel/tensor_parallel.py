"""Collectives of one layer on several ranks: each has some heads, some columns of the feed-forward, some of the vocabulary.

A column-parallel matmul (q, k, v, gate, up) reads all tokens and gives some columns; the row-parallel one after it (o,
down) reads these and gives a partial sum, for all tokens. Between such pairs each rank has its share of the tokens only
(sequence parallelism, Korthikanti et al. 2022): the sum over ranks is a reduce-scatter, and the next pair begins with an
all-gather. Shares are of all samples' rows one after another: no collective has to rearrange memory.
Letters as in model/partition.py.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch import Tensor
from torch.nn import functional as F

from tinyllama.model.dropout import dropout_rows
from tinyllama.model.loss import IGNORED, LossSums
from tinyllama.model.loss_gradient import CHUNK_TOKENS, loss_and_gradients
from tinyllama.model.partition import Collectives

# The newer names, from torch 2.13 on; these can be differentiated and compiled.
_gather: Any = getattr(collectives, "all_gather_single_autograd", collectives.all_gather_tensor_autograd)
_scatter: Any = getattr(collectives, "reduce_scatter_single_autograd", collectives.reduce_scatter_tensor_autograd)
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class TensorCollectives(Collectives):
    """Slice `at` of `size`, with the others in `group`."""

    is_sliced = True

    def __init__(self, group: dist.ProcessGroup, at: int, size: int, first_head: int) -> None:
        self.group, self.at, self.size, self.first_head = group, at, size, first_head

    def embed(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Each rank looks up what is in its rows of the vocabulary; the sum has one term that is not zero."""
        inside, local = self.own_tokens(tokens.flatten(), len(weight))
        found = F.embedding(local, weight) * inside[:, None]  # (B T, E)
        return self.scatter(found)

    def own_tokens(self, ids: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
        """Whether ids are among this rank's `n_rows` of the vocabulary, and their number there, 0 for others."""
        local = ids - self.at * n_rows
        inside = (local >= 0) & (local < n_rows)
        return inside, torch.where(inside, local, 0)

    def gather(self, rows: Tensor) -> Tensor:
        return _gather(rows.contiguous(), 0, self.group)

    def scatter(self, partial: Tensor) -> Tensor:
        return _scatter(partial.contiguous(), "sum", 0, self.group)

    def dropout(self, rows: Tensor, probability: float, keys: Tensor | None, site: int, seq_len: int) -> Tensor:
        return dropout_rows(rows, probability, keys, site, self.at * len(rows), seq_len)

    # -- without gradients ---------------------------------------------------------------------------------------------

    def all_rows(self, rows: Tensor) -> Tensor:
        """As `gather`, without gradients."""
        out = rows.new_empty(self.size * rows.shape[0], *rows.shape[1:])
        _all_gather(out, rows.contiguous(), group=self.group)
        return out

    def own_rows(self, partial: Tensor) -> Tensor:
        """As `scatter`, without gradients."""
        out = partial.new_empty(partial.shape[0] // self.size, *partial.shape[1:])
        _reduce_scatter(out, partial.contiguous(), group=self.group)
        return out

    def reduce(self, tensor: Tensor, operation: Any = dist.ReduceOp.SUM) -> Tensor:
        """Over the ranks, in place."""
        dist.all_reduce(tensor, operation, group=self.group)
        return tensor


# Next-token loss where each rank has some rows of the head: a softmax over ranks, without all logits on any of them.
#
# Ranks exchange the largest logit, the sum of exponentials and the target's logit of each token: three numbers, not V.
# Letters: N = B T tokens, n of a chunk, R rows of this rank, E embedding_dim, V rows of the head on this rank.


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

    Every rank gets the same sums; the gradients are of its own rows (R, E) and of its own slice of the head (V, E).
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
    in_fp32 = logits.to(torch.promote_types(logits.dtype, torch.float32))
    counted = targets != IGNORED
    inside, index = slices.own_tokens(torch.where(counted, targets, -1), logits.shape[1])
    largest = slices.reduce(in_fp32.amax(dim=-1), dist.ReduceOp.MAX)  # (n,)
    wanted = in_fp32.gather(1, index[:, None])[:, 0] * inside
    in_fp32.sub_(largest[:, None]).exp_()
    total, wanted = slices.reduce(torch.stack([in_fp32.sum(dim=-1), wanted]))
    log_partition = largest + total.log()
    correct = (wanted >= largest) & counted
    loss = (log_partition - wanted) * counted
    z = log_partition.square() * counted
    in_fp32.div_(total[:, None])  # probabilities
    if z_loss:
        in_fp32.mul_((1 + 2 * z_loss * log_partition)[:, None])
    in_fp32.scatter_add_(1, index[:, None], -inside[:, None].to(in_fp32.dtype))
    in_fp32.mul_(counted[:, None] if scale is None else counted[:, None] * scale)
    if in_fp32 is not logits:
        logits.copy_(in_fp32)
    return loss, z, correct
