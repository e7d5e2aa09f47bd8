"""Loss and gradients in one pass, against autograd over the written-out loss."""

import importlib.util
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinyllama.model.loss import IGNORED, next_token_loss
from tinyllama.model.loss_gradient import loss_and_gradients, loss_in_place_reference

has_kernel = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


def case(
    n: int, V: int, E: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (1, n, E), head (V, E) and targets (1, n), every fifth of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, n, E, generator=generator, dtype=dtype)
    weight = torch.randn(V, E, generator=generator, dtype=dtype)
    targets = torch.randint(V, (1, n), generator=generator)
    targets[:, ::5] = IGNORED
    return hidden, weight, targets


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(2, 50), st.integers(1, 50), st.sampled_from([0.0, 0.01]))
def test_gradients_are_autograds(n: int, V: int, chunk_tokens: int, z_loss: float):
    hidden, weight, targets = case(n, V)
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    wanted = next_token_loss(*leaves, targets, with_z_loss=True)
    gradients = torch.autograd.grad((wanted.loss + z_loss * wanted.z_loss) * 3, leaves)
    before = torch.ones_like(weight)
    sums, hidden_gradient, weight_gradient = loss_and_gradients(
        hidden, weight, targets, before.clone(), z_loss=z_loss, scale=torch.tensor(3.0), chunk_tokens=chunk_tokens
    )
    for name in ("loss", "z_loss", "correct", "count"):
        torch.testing.assert_close(getattr(sums, name), getattr(wanted, name).detach())
    torch.testing.assert_close(hidden_gradient, gradients[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weight_gradient - before, gradients[1], rtol=1e-10, atol=1e-12)


def test_the_gradient_in_the_logits_place_by_hand():
    """Probabilities less the target, times scale, and with z-loss 1 + 2 z log-partition; of an ignored row nothing."""
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0], [0.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    targets = torch.tensor([1, 1, 1, IGNORED])
    place, scale = logits.clone(), torch.tensor(2.0, dtype=torch.float64)
    loss, z, correct = loss_in_place_reference(place, targets, 0.5, scale)
    ln4, ln5, ln2 = math.log(4), math.log(5), math.log(2)
    assert loss.tolist() == pytest.approx([-math.log(3 / 4), ln5, ln2, 0])
    assert z.tolist() == pytest.approx([ln4**2, ln5**2, ln2**2, 0])
    assert correct.tolist() == [True, False, True, False], "a tie counts, an ignored row does not"
    wanted = [
        [2 * (1 + ln4) / 4, 2 * ((1 + ln4) * 3 / 4 - 1)], [2 * (1 + ln5) * 4 / 5, 2 * ((1 + ln5) / 5 - 1)],
        [1 + ln2, 2 * ((1 + ln2) / 2 - 1)], [0, 0],
    ]  # fmt: skip
    assert place.tolist() == [pytest.approx(row) for row in wanted]
    place = logits.clone()
    loss_in_place_reference(place, targets, 0.0, None)
    assert place.tolist() == [pytest.approx(row) for row in ([1 / 4, -1 / 4], [4 / 5, -4 / 5], [1 / 2, -1 / 2], [0, 0])]


def test_a_loss_of_one_s_own_is_asked_chunk_by_chunk():
    hidden, weight, targets = case(10, 5)
    sizes = []

    def of_chunk(logits: Tensor, wanted: Tensor, z_loss: float, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        sizes.append((tuple(logits.shape), wanted.tolist(), z_loss, scale))
        return loss_in_place_reference(logits, wanted, z_loss, scale)

    sums, *gradients = loss_and_gradients(hidden, weight, targets, z_loss=0.1, chunk_tokens=4, loss_in_place=of_chunk)
    flat = targets.flatten().tolist()
    assert sizes == [((4, 5), flat[:4], 0.1, None), ((4, 5), flat[4:8], 0.1, None), ((2, 5), flat[8:], 0.1, None)]
    plain, *others = loss_and_gradients(hidden, weight, targets, z_loss=0.1)
    assert sums.loss.item() == pytest.approx(plain.loss.item())
    for found, wanted in zip(gradients, others, strict=True):
        torch.testing.assert_close(found, wanted)


def test_short_gradients_are_added_in_fp32():
    hidden, weight, targets = case(8, 5, dtype=torch.float32)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    _, _, once = loss_and_gradients(hidden, weight, targets)
    before = torch.full((5, 8), 1e-4)
    _, _, added = loss_and_gradients(hidden, weight, targets, before.clone())
    torch.testing.assert_close(added, before + once, rtol=1e-6, atol=1e-8)


def test_all_ignored_is_zero_and_no_nan():
    hidden, weight, targets = case(7, 5)
    sums, *gradients = loss_and_gradients(hidden, weight, torch.full_like(targets, IGNORED), z_loss=1.0)
    assert (sums.loss.item(), sums.count.item(), sums.correct.item()) == (0.0, 0, 0)
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_logits_have_their_softmax_in_fp32(dtype: torch.dtype):
    hidden, weight, targets = case(60, 1000, 16, dtype=torch.float32)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    sums, _, weight_gradient = loss_and_gradients(hidden, weight, targets)
    logits = (hidden @ weight.T).float()[0]
    wanted = torch.nn.functional.cross_entropy(logits, targets[0], reduction="sum")
    assert sums.loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert weight_gradient.dtype == torch.float32


@pytest.mark.skipif(not has_kernel, reason="needs a GPU and Triton")
@pytest.mark.parametrize("V", [5, 512, 4096, 32_000, 32_768, 50_257, 128_256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
def test_the_kernel_is_the_reference(V: int, dtype: torch.dtype, z_loss: float):
    from tinyllama.model.loss_kernel import loss_in_place

    generator = torch.Generator("cuda").manual_seed(V)
    logits = (3 * torch.randn(37, V, generator=generator, device="cuda")).to(dtype)
    targets = torch.randint(V, (37,), generator=generator, device="cuda")
    targets[::5] = IGNORED
    scale = torch.tensor(2.0, device="cuda")
    exact = logits.double()
    wanted = loss_in_place_reference(exact, targets, z_loss, scale)
    found = loss_in_place(logits, targets, z_loss, scale)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), two.double(), rtol=1e-5, atol=1e-5)
    assert (logits.double() - exact).norm() < 4e-3 * exact.norm()
