"""The network in the form that trains, against the network that is there to be read."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.test_llama import SHAPES
from tests.tiny_model import random_tokens, tiny_config, tiny_llama
from tinyllama.model import packed_llama
from tinyllama.model.attention import fastest_first
from tinyllama.model.dropout import sample_keys
from tinyllama.model.llama import Llama
from tinyllama.model.loss import next_token_loss
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.model.packed_llama import PackedLayer, PackedLlama, Recompute, rms_norm

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


# -- which form stands between the products ----------------------------------------------------------------------------


class Refused:
    """Kernels that must not be asked."""

    MAX_DIM = 1 << 30

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is for a GPU")


def test_a_cpu_uses_no_kernels_whatever_is_there(monkeypatch: pytest.MonkeyPatch):
    wanted = PackedLlama(tiny_llama(), torch.bfloat16, torch.bfloat16).hidden(INPUTS)
    for name in ("norm_kernel", "swiglu_kernel"):
        monkeypatch.setattr(packed_llama, name, Refused())
    network = PackedLlama(tiny_llama(), torch.bfloat16, torch.bfloat16)
    assert torch.equal(network.hidden(INPUTS), wanted)
    layer: Any = network.layers[0]
    assert [layer._uses_kernels(torch.ones(2, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)] == [False] * 2


@pytest.mark.parametrize(
    ("is_cuda", "n_bytes", "is_linear", "uses"),
    [(True, 2, True, True), (False, 2, True, False), (True, 4, True, False), (True, 2, False, False)],
)
def test_kernels_are_for_short_products_that_are_plain(is_cuda: bool, n_bytes: int, is_linear: bool, uses: bool):
    layer: Any = PackedLlama(tiny_llama()).layers[0]
    if not is_linear:
        layer.down = torch.nn.Sequential(layer.down)  # as an fp8 product is of another kind
    values: Any = SimpleNamespace(is_cuda=is_cuda, element_size=lambda: n_bytes)
    assert layer._uses_kernels(values) == uses


@pytest.mark.parametrize(
    ("max_dim", "stream", "asked"),
    [(32, torch.bfloat16, True), (31, torch.bfloat16, False), (32, torch.float32, False)],
)
def test_addition_with_norm_is_a_kernel_s_where_it_can(
    monkeypatch: pytest.MonkeyPatch, max_dim: int, stream: torch.dtype, asked: bool
):
    """Rows no wider than it holds, and a stream of the products' format."""
    calls: list[str] = []

    def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        calls.append("norm")
        assert x.dim() == delta.dim() == 2
        total = x + delta
        return total, rms_norm(total, weight, eps, x.dtype), total[:, 0]

    def swiglu(gate_up: Tensor) -> Tensor:
        calls.append("swiglu")
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    wanted = PackedLlama(tiny_llama(), torch.bfloat16, stream).hidden(INPUTS)
    monkeypatch.setattr(packed_llama, "norm_kernel", SimpleNamespace(MAX_DIM=max_dim, add_rms_norm=add_rms_norm))
    monkeypatch.setattr(packed_llama, "swiglu_kernel", SimpleNamespace(swiglu=swiglu))
    monkeypatch.setattr(PackedLayer, "_uses_kernels", lambda self, x: True)
    found = PackedLlama(tiny_llama(), torch.bfloat16, stream).hidden(INPUTS)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)
    assert calls == (["norm", "swiglu", "norm"] * 2 if asked else ["swiglu"] * 2)
