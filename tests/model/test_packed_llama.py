"""The network in the form that trains, against the network that is there to be read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.test_llama import SHAPES
from tests.tiny_model import random_tokens, tiny_config, tiny_llama
from tinyllama.model.attention import fastest_first
from tinyllama.model.dropout import sample_keys
from tinyllama.model.llama import Llama
from tinyllama.model.loss import next_token_loss
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.model.packed_llama import PackedLlama, Recompute

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
TOKENS = random_tokens(3, 17)
INPUTS, TARGETS = TOKENS[:, :-1], TOKENS[:, 1:]


def reference_gradients(model: Llama, keys: Tensor | None = None) -> dict[str, Tensor]:
    sums = next_token_loss(model.hidden(INPUTS, dropout_keys=keys), model.output_weight, TARGETS)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(sums.loss, list(model.parameters())), strict=True))


def packed_gradients(network: PackedLlama, keys: Tensor | None = None) -> dict[str, Tensor]:
    with fastest_first():
        hidden = network.hidden(INPUTS.to(network.device), keys)
        targets = TARGETS.to(network.device)
        _, hidden_gradient, head = loss_and_gradients(hidden.detach(), network.output_weight.detach(), targets)
        hidden.backward(hidden_gradient)
    found = {}
    for parameter in network.packed:
        gradient = parameter.leaf.grad
        if parameter is network.output:
            gradient = head if gradient is None else head + gradient
        assert gradient is not None, parameter.names
        found |= parameter.canonical(gradient)
        parameter.leaf.grad = None
    return found


def relative_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Norm of the difference over the norm, all parameters together."""
    assert found.keys() == wanted.keys()
    difference = sum((found[name].double() - wanted[name].double()).square().sum() for name in wanted)
    return float((difference / sum(value.double().square().sum() for value in wanted.values())) ** 0.5)


@pytest.mark.parametrize("shape", [*SHAPES.values(), {"embedding_dim": 16}], ids=[*SHAPES, "projections"])
@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_it_computes_what_the_network_does(shape: dict[str, Any], recompute: Recompute):
    model = tiny_llama(dtype=torch.float64, **shape)
    wanted, gradients = model.hidden(INPUTS), reference_gradients(model)
    network = PackedLlama(model, recompute=recompute)
    torch.testing.assert_close(network.hidden(INPUTS), wanted, rtol=1e-12, atol=1e-12)
    assert relative_error(packed_gradients(network), gradients) < 1e-13


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_dropout_drops_the_same_values(recompute: Recompute):
    model = tiny_llama(dtype=torch.float64, dropout=0.2, attention_dropout=0.3)
    keys = sample_keys(1, 2, torch.arange(3))
    gradients = reference_gradients(model, keys)
    assert relative_error(packed_gradients(PackedLlama(model, recompute=recompute), keys), gradients) < 1e-13


@pytest.mark.parametrize("tied_head", [False, True])
def test_short_formats_are_near_and_masters_stay_fp32(tied_head: bool):
    model = tiny_llama(tied_head=tied_head)
    wanted = reference_gradients(tiny_llama(tied_head=tied_head).double())
    errors = {}
    for name, compute, stream in (
        ("fp32", None, None),
        ("fp16", torch.float16, None),
        ("bf16", torch.bfloat16, torch.bfloat16),
    ):
        network = PackedLlama(model, compute, stream)
        assert network.hidden(INPUTS).dtype == (compute or torch.float32)
        errors[name] = relative_error(packed_gradients(network), wanted)
    assert errors["fp32"] < 2e-6 < errors["fp16"] < 4e-3 < errors["bf16"] < 4e-2
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("compute", [None, torch.bfloat16])
def test_canonical_weights_are_the_packed_ones(compute: torch.dtype | None):
    model = tiny_llama()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    network = PackedLlama(model, compute)
    names = [name for parameter in network.packed for name in parameter.names]
    assert sorted(names) == sorted(before)
    for parameter in network.packed:
        for name, part in parameter.canonical(parameter.master).items():
            assert torch.equal(part, before[name])
            assert part.data_ptr() == model.get_parameter(name).data_ptr()
        assert (parameter.copy is None) == (
            compute is None or parameter.master.dim() == 1 or "embedding" in parameter.names[0]
        )


def test_refresh_brings_changed_weights_into_the_computation():
    model = tiny_llama()
    network = PackedLlama(model, torch.bfloat16, torch.bfloat16)
    before = network.hidden(INPUTS)
    model.load_state_dict(tiny_llama(seed=9).state_dict())
    network.refresh()
    wanted = PackedLlama(tiny_llama(seed=9), torch.bfloat16, torch.bfloat16).hidden(INPUTS)
    assert torch.equal(network.hidden(INPUTS), wanted)
    assert not torch.equal(before, wanted)


def test_recompute_keeps_less():
    """Bytes that autograd keeps for the backward pass, from most to least."""
    config = tiny_config(n_layers=6)
    kept = []
    for recompute in RECOMPUTE:
        network, saved = PackedLlama(Llama(config), recompute=recompute), {}
        network.packed[0].master.zero_()

        def keep(tensor: Tensor, saved: dict = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network.hidden(INPUTS)
        kept.append(sum(saved.values()))
    assert kept[0] > kept[1] > kept[2]
