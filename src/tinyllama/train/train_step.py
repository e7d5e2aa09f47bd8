"""One optimizer update."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from tinyllama.parallel.rank_progress import Activity
from tinyllama.train.forward_backward import DeviceBatch
from tinyllama.train.optimizer import clip_factor
from tinyllama.train.train_config import OptimizerConfig
from tinyllama.train.train_state import TrainState


@dataclass(frozen=True)
class StepResult:
    """What one update reports; tensors of one value, still on the device."""

    loss: Tensor  # mean nats per token
    accuracy: Tensor  # share of targets that were the likeliest token
    grad_norm: Tensor  # before clipping
    requests: Tensor  # how often each request of some rank was counted, (n,)
    is_skipped: Tensor  # 1 where the update was skipped: overflow in fp16, or a loss or gradient that is not finite


def train_step(
    state: TrainState, micro_batches: Iterable[DeviceBatch], train: OptimizerConfig, *, step: int, lr: float
) -> StepResult:
    """Accumulate the gradient of all micro-batches' summed loss, divide by the step's tokens, clip, update.

    k micro-batches equal one k times larger, because only sums are accumulated and the count divides once. Of a run of
    several ranks each gives its own micro-batches here, and all make the same update.
    """
    gradients, loss_scale, ranks = state.gradients, state.loss_scale, state.ranks
    ranks.progress.enter(Activity.DATA, step + 1)
    totals = state.passes.accumulate(micro_batches, step)
    loss, correct, count = totals[:3]
    ranks.progress.enter(Activity.UPDATE, step + 1)
    scale = 1 / (count * loss_scale.factor)  # from the sums to the mean's gradient
    with ranks.waiting():
        grad_norm = gradients.norm() * scale
    is_skipped = (~(grad_norm + loss).isfinite()).to(loss_scale.factor.dtype)
    state.optimizer.step(gradients.all(), lr, scale * clip_factor(grad_norm, train.max_grad_norm), is_skipped)
    loss_scale.update(is_skipped)
    gradients.clear()
    return StepResult(loss / count, correct / count, grad_norm, totals[3:], is_skipped)
