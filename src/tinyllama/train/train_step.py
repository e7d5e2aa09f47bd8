"""One optimizer update."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tinyllama.model.attention import fastest_first
from tinyllama.model.dropout import sample_keys
from tinyllama.model.loss import LossSums
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.parallel.whereabouts import Place
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
    requests: Tensor  # how often each request of some rank was counted, (n,)
    is_off: Tensor  # 1 where the update was called off: fp16's range was left, or loss or gradient are not finite


def train_step(
    state: TrainState, micro_batches: Iterable[DeviceBatch], train: TrainConfig, *, step: int, lr: float
) -> StepResult:
    """Accumulate the gradient of all micro-batches' summed loss, divide by the step's tokens, clip, update.

    k micro-batches equal one k times larger, because only sums are accumulated and the count divides once. Of a run of
    several ranks each gives its own micro-batches here, and all make the same update.
    """
    network, gradients, loss_scale, ranks = state.network, state.gradients, state.loss_scale, state.ranks
    config = network.config
    has_dropout = config.dropout > 0 or config.attention_dropout > 0
    ranks.where.at(Place.DATA, step + 1)
    for batch in micro_batches:
        ranks.where.at(Place.FORWARD, step + 1)
        gradients.begin()
        keys = sample_keys(train.seed, step, batch.samples) if has_dropout else None
        with fastest_first():  # the backward pass too: what it computes again must choose the same kernel again
            hidden = network.hidden(batch.tokens, keys)
            ranks.where.at(Place.BACKWARD, step + 1)
            sums, hidden_gradient, gradients[state.head] = loss_and_gradients(
                hidden.detach(), network.output_weight.detach(), batch.targets, gradients[state.head],
                z_loss=train.z_loss, scale=loss_scale.factor if loss_scale.is_on else None,
            )  # fmt: skip
            hidden.backward(hidden_gradient)
        gradients.end(_figures(sums, ranks.requests()))
        ranks.where.at(Place.DATA, step + 1)
    ranks.where.at(Place.REDUCTION, step + 1)
    totals = gradients.join()
    loss, correct, count = totals[:3]
    ranks.where.at(Place.UPDATE, step + 1)
    scale = 1 / (count * loss_scale.factor)  # from the sums to the mean's gradient
    grad_norm = gradients.norm() * scale
    is_off = (~(grad_norm + loss).isfinite()).to(loss_scale.factor.dtype)
    state.optimizer.step(gradients.all(), lr, scale * clip_factor(grad_norm, train.max_grad_norm), is_off)
    loss_scale.update(is_off)
    gradients.clear()
    return StepResult(loss / count, correct / count, grad_norm, totals[3:], is_off)


def _figures(sums: LossSums, requests: list[float]) -> Tensor:
    """Loss, hits, count and the requests of one micro-batch, in a row: what is summed beside the gradients."""
    row = torch.stack([sums.loss, sums.correct.to(sums.loss.dtype), sums.count.to(sums.loss.dtype)])
    if not requests:
        return row
    # A copy to a GPU would wait for it: only where there is something to say.
    asked = row.new_tensor(requests) if any(requests) else row.new_zeros(len(requests))
    return torch.cat([row, asked])
