"""Triton's kernels between the products, against the formulas in float64. They need a GPU; without one all is skipped."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.model.test_packed_llama import packed_gradients, reference_gradients, relative_error
from tests.tiny_model import tiny_llama
from tinyllama.model import packed_llama
from tinyllama.model.packed_llama import PackedLlama, rms_norm

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("triton") is None, reason="needs a GPU and Triton"
)
DTYPES = [torch.bfloat16, torch.float16]


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "width"), [(1, 48), (37, 344), (1030, 1408), (4, 5632), (513, 512)])
def test_swiglu_is_the_formula(N: int, width: int, dtype: torch.dtype):
    from tinyllama.model.swiglu_kernel import swiglu

    gate_up, gradient = random(N, 2 * width, dtype=dtype).requires_grad_(), random(N, width, dtype=dtype)
    exact = gate_up.detach().double().requires_grad_()
    gate, up = exact.chunk(2, -1)
    wanted, found = F.silu(gate) * up, swiglu(gate_up)
    (wanted_gradient,) = torch.autograd.grad(wanted, exact, gradient.double())
    (found_gradient,) = torch.autograd.grad(found, gate_up, gradient)
    assert relative(found, wanted) < 3e-3
    assert relative(found_gradient, wanted_gradient) < 3e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "D"), [(1, 32), (37, 72), (5000, 512), (700, 2048), (3, 16_384)])
def test_addition_and_norm_are_the_formula(N: int, D: int, dtype: torch.dtype):
    from tinyllama.model.norm_kernel import add_rms_norm

    x, delta = (random(N, D, dtype=dtype).requires_grad_() for _ in range(2))
    weight = (1 + 0.2 * torch.randn(D, device="cuda")).requires_grad_()
    gradients = random(N, D, dtype=dtype), random(N, D, dtype=dtype)
    exact = [value.detach().double().requires_grad_() for value in (x, delta, weight)]
    total = exact[0] + exact[1]
    wanted = total, rms_norm(total, exact[2], 1e-5, torch.float64)
    found = add_rms_norm(x, delta, weight, 1e-5)[:2]
    for one, two in zip(found, wanted, strict=True):
        assert relative(one, two) < 4e-3
    wanted_gradients = torch.autograd.grad(wanted, exact, [value.double() for value in gradients])
    found_gradients = torch.autograd.grad(found, (x, delta, weight), gradients)
    for one, two in zip(found_gradients, wanted_gradients, strict=True):
        assert relative(one, two) < 4e-3
    assert found_gradients[2].dtype == torch.float32


@pytest.mark.parametrize("shape", [{}, {"n_heads": 8, "n_kv_heads": 2, "head_dim": 64, "dim": 256, "ffn_dim": 704}])
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_gradients_are_as_near_float64s_as_without_them(
    shape: dict[str, Any], is_compiled: bool, recompute: Any, monkeypatch: pytest.MonkeyPatch
):
    torch._dynamo.reset()
    model = tiny_llama(**shape)
    wanted = {name: value.cuda() for name, value in reference_gradients(tiny_llama(**shape).double()).items()}
    errors = []
    for has_kernels in (True, False):
        if not has_kernels:
            monkeypatch.setattr(packed_llama, "norm_kernel", None)
            monkeypatch.setattr(packed_llama, "swiglu_kernel", None)
            torch._dynamo.reset()
        network = PackedLlama(model.cuda(), torch.bfloat16, torch.bfloat16, recompute)
        if is_compiled:
            network.compile()
        errors.append(relative_error(packed_gradients(network), wanted))
    assert errors[0] < max(1.3 * errors[1], 1e-2), errors
