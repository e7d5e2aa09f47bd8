"""AdamW over the network's parameters, with decay where it belongs."""

import torch
from torch import Tensor, nn

from tinyllama.train.train_config import TrainConfig


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), fused; weight decay on matrices, not on norms and embeddings."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() >= 2 and not name.startswith("embedding.")
        (decayed if is_matrix else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.peak_lr, betas=(train.beta1, train.beta2), eps=train.adam_eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` for the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def scale_and_clip(parameters: list[nn.Parameter], scale: Tensor, max_norm: float) -> Tensor:
    """Multiply all gradients by `scale`, then bring their global norm down to `max_norm` (0: leave it).

    Returns the norm before clipping, a 0-dimensional tensor: nothing waits for the device (Pascanu et al. 2013).
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) * scale
    factor = scale * (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm > 0 else scale
    torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage] (one launch for all)
    return norm
