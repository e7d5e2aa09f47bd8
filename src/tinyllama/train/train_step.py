"""One optimizer update."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tinyllama.model.attention import fastest_first
from tinyllama.model.dropout import sample_keys
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.train.optimizer import clip_factor
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState


class DeviceBatch(NamedTuple):
    """A micro-batch on the device: token ids and their successors, (B, T), and each row's sample index, (B,)."""

    tokens: Tensor
    targets: Tensor
    samples: Tensor


@dataclass(frozen=True)
class StepResult:
    """What one update reports; tensors of one value, still on the device."""

    loss: Tensor  # mean nats a token
    accuracy: Tensor  # share of targets that were the likeliest token
    grad_norm: Tensor  # before clipping
    is_off: Tensor  # 1 where fp16's range was left and the update called off


def train_step(
    state: TrainState, micro_batches: Iterable[DeviceBatch], train: TrainConfig, *, step: int, lr: float
) -> StepResult:
    """Accumulate the gradient of all micro-batches' summed loss, divide by the step's tokens, clip, update.

    k micro-batches equal one k times larger, because only sums are accumulated and the count divides once.
    """
    network, gradients, loss_scale = state.network, state.gradients, state.loss_scale
    config = network.config
    has_dropout = config.dropout > 0 or config.attention_dropout > 0
    head = network.packed.index(network.output)
    totals = torch.zeros(3, device=network.device, dtype=torch.promote_types(network.embedding.dtype, torch.float32))
    for batch in micro_batches:
        keys = sample_keys(train.seed, step, batch.samples) if has_dropout else None
        with fastest_first():  # the backward pass too: what it computes again must choose the same kernel again
            hidden = network.hidden(batch.tokens, keys)
            sums, hidden_gradient, gradients[head] = loss_and_gradients(
                hidden.detach(), network.output_weight.detach(), batch.targets, gradients[head],
                z_loss=train.z_loss, scale=loss_scale.factor if loss_scale.is_on else None,
            )  # fmt: skip
            hidden.backward(hidden_gradient)
        totals += torch.stack([sums.loss, sums.correct, sums.count])
    loss, correct, count = totals
    scale = 1 / (count * loss_scale.factor)  # from the sums to the mean's gradient
    grad_norm = gradients.norm() * scale
    is_off = loss_scale.overflow(grad_norm)
    state.optimizer.step(gradients.all(), lr, scale * clip_factor(grad_norm, train.max_grad_norm), is_off)
    loss_scale.update(is_off)
    gradients.clear()
    return StepResult(loss / count, correct / count, grad_norm, is_off)
