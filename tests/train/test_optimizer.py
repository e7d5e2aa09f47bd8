"""AdamW in one pass against the formula, its short state, its off switch, and the sums of gradients that feed it."""

import importlib.util
from typing import Literal

import pytest
import torch
from torch import Tensor

from tests.tiny_model import tiny_llama
from tinyllama.model.packed_llama import PackedLlama, PackedParameter
from tinyllama.train.gradients import Gradients
from tinyllama.train.optimizer import MOMENTS, AdamW, clip_factor
from tinyllama.train.train_config import TrainConfig

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() and importlib.util.find_spec("triton") else [])


def packed(device: str, compute: torch.dtype | None) -> list[PackedParameter]:
    return PackedLlama(tiny_llama().to(device), compute).packed


def gradients_like(parameters: list[PackedParameter], dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [parameter.master for parameter in parameters]
    return [torch.randn(value.shape, generator=generator).to(dtype).to(value.device) for value in shapes]


def by_formula(weight: Tensor, gradients: list[Tensor], lr: float, decay: float) -> Tensor:
    """Decoupled AdamW as written in Loshchilov and Hutter 2019, algorithm 2, in float64."""
    beta1, beta2, eps = 0.9, 0.95, 1e-8
    weight, first, second = weight.double(), torch.zeros(()), torch.zeros(())
    for t, gradient in enumerate((gradient.double() for gradient in gradients), start=1):
        first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
        step = first / (1 - beta1**t) / ((second / (1 - beta2**t)).sqrt() + eps)
        weight = weight - lr * step - lr * decay * weight
    return weight


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compute", [None, torch.bfloat16])
@pytest.mark.parametrize("state", ["fp32", "bf16"])
def test_updates_follow_the_formula(device: str, compute: torch.dtype | None, state: Literal["fp32", "bf16"]):
    parameters = packed(device, compute)
    before = [parameter.master.clone() for parameter in parameters]
    optimizer = AdamW(parameters, TrainConfig(optimizer_state=state))
    rounds = [gradients_like(parameters, compute or torch.float32, seed) for seed in range(4)]
    on, scale = torch.zeros((), device=device), torch.tensor(0.5, device=device)
    for gradients in rounds:
        optimizer.step(gradients, 1e-2, scale, on)
    for number, parameter in enumerate(parameters):
        decays = parameter.master.dim() == 2 and not parameter.names[0].startswith("embedding")
        mine = [gradients[number] * 0.5 for gradients in rounds]
        wanted = by_formula(before[number], mine, 1e-2, 0.1 if decays else 0.0)
        moved, wanted_move = parameter.master.double() - before[number], wanted - before[number]
        assert (moved - wanted_move).norm() < (1e-5 if state == "fp32" else 5e-3) * wanted_move.norm()
        if parameter.copy is not None:
            assert torch.equal(parameter.copy, parameter.master.bfloat16())
    assert optimizer.updates.item() == 4


@pytest.mark.parametrize("device", DEVICES)
def test_an_update_that_is_off_changes_nothing(device: str):
    parameters = packed(device, torch.bfloat16)
    optimizer = AdamW(parameters, TrainConfig())
    before = [parameter.master.clone() for parameter in parameters]
    broken = [torch.full_like(gradient, torch.inf) for gradient in gradients_like(parameters, torch.bfloat16, 0)]
    optimizer.step(broken, 1e-2, torch.ones((), device=device), torch.ones((), device=device))
    assert all(torch.equal(parameter.master, old) for parameter, old in zip(parameters, before, strict=True))
    assert not any(moment.any() for moment in optimizer.moments().values())
    assert optimizer.updates.item() == 0


def test_moments_have_canonical_names():
    model = tiny_llama()
    parameters = PackedLlama(model, torch.bfloat16).packed
    optimizer = AdamW(parameters, TrainConfig())
    gradients = gradients_like(parameters, torch.float32, 1)
    optimizer.step(gradients, 1e-3, torch.ones(()), torch.zeros(()))
    moments = optimizer.moments()
    assert moments.keys() == {f"{moment}.{name}" for moment in MOMENTS for name, _ in model.named_parameters()}
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for name, part in parameter.canonical(gradient).items():
            torch.testing.assert_close(moments[f"exp_avg.{name}"], 0.1 * part)


def test_clipping_by_hand():
    assert clip_factor(torch.tensor(5.0), 1.0).item() == pytest.approx(0.2, rel=1e-6)
    assert clip_factor(torch.tensor(0.5), 1.0).item() == 1.0
    assert clip_factor(torch.tensor(5.0), 0.0).item() == 1.0


def test_sums_of_short_gradients_are_made_in_fp32():
    parameters = packed("cpu", torch.bfloat16)
    sums = Gradients(parameters)
    rounds = [gradients_like(parameters, torch.bfloat16, seed) for seed in range(3)]
    for number_of_rounds, gradients in enumerate(rounds, start=1):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            loss = (parameter.leaf * gradient.to(parameter.leaf.dtype)).sum()
            loss.backward()
            assert parameter.leaf.grad is None
        for number, total in enumerate(sums.all()):
            exact = sum(one[number].float() for one in rounds[:number_of_rounds])
            assert isinstance(exact, Tensor)
            assert torch.equal(total.float(), exact)
    sums.clear()
    assert sums.all() == []


def test_norm_of_16_bit_gradients_is_not_rounded():
    parameters = packed("cpu", torch.bfloat16)
    sums = Gradients(parameters)
    for number, gradient in enumerate(gradients_like(parameters, torch.bfloat16, 5)):
        sums[number] = gradient
    wanted = torch.cat([total.flatten() for total in sums.all()]).double().norm()
    assert sums.norm().item() == pytest.approx(wanted.item(), rel=1e-5)  # bf16 would be 4e-3 off
