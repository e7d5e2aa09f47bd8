"""Next-token loss together with its gradients, in one pass over the logits.

The gradient of a summed loss does not depend on later operations, so it is computed while a chunk's logits are in memory
and overwrites them: three matmuls, and the memory of one chunk whatever the batch size.

Letters: B batch, T tokens, n tokens of a chunk, E embedding_dim, V vocab_size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tinyllama.model.loss import IGNORED, LossSums

try:
    from tinyllama.model import loss_kernel
except ImportError:  # without Triton: PyTorch's own operations
    loss_kernel = None

CHUNK_TOKENS = 8192  # large enough for the matmuls' full speed; 0.5 GB of logits for 32,000 tokens


# Of logits (n, V), targets (n,), z_loss and scale: loss, squared log-partition, correctness; logits become their gradient.
LossInPlace = Callable[[Tensor, Tensor, float, Tensor | None], tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def loss_and_gradients(
    hidden: Tensor,
    output_weight: Tensor,
    targets: Tensor,
    weight_gradient: Tensor | None = None,
    *,
    z_loss: float = 0.0,
    scale: Tensor | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    loss_in_place: LossInPlace | None = None,
) -> tuple[LossSums, Tensor, Tensor]:
    """Loss of hidden (B, T, E) with output_weight (V, E) against targets (B, T), and its gradients.

    Returns the sums of `next_token_loss` and d/d hidden (B, T, E), in hidden's format, and d/d output_weight (V, E), in at
    least fp32, added to `weight_gradient` if that is given. Gradients are of (loss + z_loss * squared log-partition) *
    `scale`. A target that ties for the highest logit counts as correct. `loss_in_place`: for a chunk's logits; the default
    is for the whole vocabulary.
    """
    flat_hidden, flat_targets = hidden.flatten(0, 1), targets.flatten()
    hidden_gradient = torch.empty_like(flat_hidden)
    rows = []
    for start in range(0, len(flat_targets), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        logits = flat_hidden[chunk] @ output_weight.T  # (n, V)
        rows.append((loss_in_place or _loss_in_place)(logits, flat_targets[chunk], z_loss, scale))
        torch.mm(logits, output_weight, out=hidden_gradient[chunk])
        weight_gradient = _add_matmul(weight_gradient, logits, flat_hidden[chunk])
    loss, z_sum, correct = (torch.cat(column).sum() for column in zip(*rows, strict=True))
    assert weight_gradient is not None
    sums = LossSums(loss, z_sum, correct, (flat_targets != IGNORED).sum())
    return sums, hidden_gradient.view_as(hidden), weight_gradient


def _loss_in_place(
    logits: Tensor, targets: Tensor, z_loss: float, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, squared log-partition and correctness of each row, (n,) each; logits (n, V) become their gradient."""
    if logits.is_cuda and loss_kernel is not None and logits.dtype in loss_kernel.DTYPES:
        return loss_kernel.loss_in_place(logits, targets, z_loss, scale)
    return loss_in_place_reference(logits, targets, z_loss, scale)


def loss_in_place_reference(
    logits: Tensor, targets: Tensor, z_loss: float, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with PyTorch's operations, in at least fp32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    counted = targets != IGNORED
    index = torch.where(counted, targets, 0)[:, None]
    log_partition = wide.logsumexp(dim=-1, keepdim=True)  # (n, 1)
    wanted = wide.gather(1, index)
    correct = (wanted >= wide.amax(dim=-1, keepdim=True))[:, 0] & counted
    loss = (log_partition - wanted)[:, 0] * counted
    z = log_partition.square()[:, 0] * counted
    wide.sub_(log_partition).exp_()  # probabilities
    if z_loss:
        wide.mul_(1 + 2 * z_loss * log_partition)
    wide.scatter_add_(1, index, -torch.ones_like(wanted))
    wide.mul_(counted[:, None] if scale is None else counted[:, None] * scale)
    if wide is not logits:
        logits.copy_(wide)
    return loss, z, correct


def _add_matmul(total: Tensor | None, logits: Tensor, hidden: Tensor) -> Tensor:
    """total + logits^T hidden, (V, E), summed in at least fp32."""
    if not logits.is_cuda or logits.dtype not in (torch.bfloat16, torch.float16):
        gradient = logits.T @ hidden
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        return wide if total is None else total.add_(wide)
    if total is None:
        return torch.mm(logits.T, hidden, out_dtype=torch.float32)
    return torch.addmm(total, logits.T, hidden, out_dtype=torch.float32, out=total)  # in place, without another pass
