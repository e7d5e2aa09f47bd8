"""One optimizer update."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tinyllama.model.dropout import sample_keys
from tinyllama.model.llama import Llama
from tinyllama.model.loss import next_token_loss
from tinyllama.train.optimizer import scale_and_clip, set_lr
from tinyllama.train.precision import compute_format
from tinyllama.train.train_config import TrainConfig


class DeviceBatch(NamedTuple):
    """A micro-batch on the device: token ids and their successors, (B, T), and each row's sample index, (B,)."""

    tokens: Tensor
    targets: Tensor
    samples: Tensor


@dataclass(frozen=True)
class StepResult:
    """What one update reports; tensors of one value, still on the device."""

    loss: Tensor  # mean nats a token
    grad_norm: Tensor  # before clipping


def train_step(
    model: Llama,
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[DeviceBatch],
    train: TrainConfig,
    *,
    step: int,
    lr: float,
) -> StepResult:
    """Accumulate the gradient of all micro-batches' summed loss, divide by the step's tokens, clip, update.

    k micro-batches equal one k times larger, because only sums are accumulated and the count divides once.
    """
    device = model.embedding.weight.device
    has_dropout = model.config.dropout > 0 or model.config.attention_dropout > 0
    loss_sum = torch.zeros((), device=device)
    count = torch.zeros((), device=device)
    for batch in micro_batches:
        keys = sample_keys(train.seed, step, batch.samples) if has_dropout else None
        with compute_format(train.precision, device):
            hidden = model.hidden(batch.tokens, dropout_keys=keys)
            sums = next_token_loss(hidden, model.output_weight, batch.targets, with_z_loss=train.z_loss > 0)
        (sums.loss + train.z_loss * sums.z_loss).backward()
        loss_sum += sums.loss.detach()
        count += sums.count
    grad_norm = scale_and_clip(list(model.parameters()), 1 / count, train.max_grad_norm)
    set_lr(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss_sum / count, grad_norm)
