"""AdamW over packed parameters, with decay where it belongs."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from tinyllama.model.packed_llama import PackedParameter
from tinyllama.train.train_config import OptimizerConfig

try:
    from tinyllama.train import optimizer_kernel
except ImportError:  # no Triton: PyTorch's own kernels do the same
    optimizer_kernel = None

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Rates:
    """AdamW's constants for one parameter."""

    weight_decay: float
    beta1: float
    beta2: float
    eps: float


class AdamW:
    """AdamW (Loshchilov and Hutter 2019): weight decay on matrices, not on norms and embeddings.

    `updates` counts those that were made, a tensor on the device: an update that the loss scale calls off is none.
    """

    def __init__(self, packed: list[PackedParameter], train: OptimizerConfig) -> None:
        self._packed = packed
        self._rates = [
            Rates(train.weight_decay if _decays(parameter) else 0.0, train.beta1, train.beta2, train.adam_eps)
            for parameter in packed
        ]
        device = packed[0].master.device
        self.updates = torch.zeros((), device=device)
        self._moments: list[tuple[Tensor, Tensor]] = []
        for parameter in packed:
            dtype = torch.bfloat16 if train.optimizer_state == "bf16" else parameter.master.dtype
            first, second = (torch.zeros_like(parameter.master, dtype=dtype) for _ in MOMENTS)
            self._moments.append((first, second))

    def moments(self) -> dict[str, Tensor]:
        """Both moments of every canonical parameter under `MOMENT.NAME`: views."""
        return {
            f"{moment}.{name}": part
            for parameter, pair in zip(self._packed, self._moments, strict=True)
            for moment, packed in zip(MOMENTS, pair, strict=True)
            for name, part in parameter.canonical(packed).items()
        }

    def packed_moments(self, number: int) -> list[Tensor]:
        """One of MOMENTS of every packed parameter."""
        return [pair[number] for pair in self._moments]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float, scale: Tensor, is_skipped: Tensor) -> None:
        """Update every master with its gradient times `scale`, and the copies of it; nothing where `is_skipped` is 1.

        `scale` and `is_skipped` are 0-dimensional fp32 tensors on the device: nothing waits for them.
        """
        self.updates += 1 - is_skipped
        if optimizer_kernel is not None and self.updates.is_cuda:
            corrections = [1 - beta ** self.updates.double() for beta in (self._rates[0].beta1, self._rates[0].beta2)]
            state = torch.stack([scale.double(), is_skipped.double(), *corrections]).float()
            rows = zip(self._packed, self._moments, gradients, self._rates, strict=True)
            for parameter, pair, gradient, rates in rows:
                optimizer_kernel.update(parameter.master, parameter.copy, gradient, pair, state, lr, rates)
            return
        in_fp32 = [
            gradient.to(parameter.master.dtype) for parameter, gradient in zip(self._packed, gradients, strict=True)
        ]
        for decay in {rates.weight_decay for rates in self._rates}:
            numbers = [number for number, rates in enumerate(self._rates) if rates.weight_decay == decay]
            self._step_group(numbers, in_fp32, lr, scale, is_skipped)
        for parameter in self._packed:
            if parameter.copy is not None:
                parameter.copy.copy_(parameter.master)

    def _step_group(
        self, numbers: list[int], gradients: list[Tensor], lr: float, scale: Tensor, is_skipped: Tensor
    ) -> None:
        """PyTorch's fused update of parameters of one decay, whose moments it wants in the masters' format."""
        rates = self._rates[numbers[0]]
        masters, moments = [self._packed[n].master for n in numbers], [self._moments[n] for n in numbers]
        before = self.updates - 1 + is_skipped
        first, second = ([pair[k].to(masters[0].dtype) for pair in moments] for k in range(2))
        adamw(
            masters, [gradients[n] for n in numbers], first, second, [], [before.clone() for _ in numbers],
            fused=True, grad_scale=(1 / scale).float(), found_inf=is_skipped, amsgrad=False, beta1=rates.beta1,
            beta2=rates.beta2, lr=lr, weight_decay=rates.weight_decay, eps=rates.eps, maximize=False,
        )  # fmt: skip
        for pair, *updated in zip(moments, first, second, strict=True):
            for kept, new in zip(pair, updated, strict=True):
                if kept is not new:
                    kept.copy_(new)


def _decays(parameter: PackedParameter) -> bool:
    return parameter.master.dim() >= 2 and not parameter.names[0].startswith("embedding.")


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """What brings gradients of this global norm down to `max_norm` (Pascanu et al. 2013); 1 for smaller ones, and for 0."""
    return (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm > 0 else torch.ones_like(norm)
