import math

import pytest
import torch

from tinyllama.model.attention import attend, attend_reference, causal_mask


def heads(n_heads: int, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n_heads, length, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 7), (3, 7), (1, 1)])
def test_fused_is_the_reference(n_kv_heads: int, queries: int, keys: int):
    q, k, v = heads(4, queries, 0), heads(n_kv_heads, keys, 1), heads(n_kv_heads, keys, 2)
    assert torch.allclose(attend(q, k, v, None), attend_reference(q, k, v, None), atol=1e-12)


def test_fused_is_the_reference_under_a_mask():
    q, k, v = heads(4, 5, 0), heads(2, 5, 1), heads(2, 5, 2)
    mask = causal_mask(5, 5, q.device) & (torch.arange(5) >= 2)[None, :]  # the first two keys are hidden ...
    mask |= torch.eye(5, dtype=torch.bool)  # ... except from themselves
    assert torch.allclose(attend(q, k, v, mask), attend_reference(q, k, v, mask), atol=1e-12)


def test_reference_by_hand():
    q = torch.tensor([[[[2.0], [2.0]]]])
    k = torch.tensor([[[[0.0], [math.log(3) / 2]]]])  # scores of the second query: 0 and ln 3
    v = torch.tensor([[[[10.0], [20.0]]]])
    out = attend_reference(q, k, v, None)
    assert out.flatten().tolist() == pytest.approx([10.0, (10 + 3 * 20) / 4])


def test_causal_mask_is_aligned_to_the_last_key():
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [[True, True, True, False], [True, True, True, True]]


def test_gradients_of_fused_are_the_references():
    q, k, v = (heads(n_heads, 6, seed).requires_grad_() for n_heads, seed in ((4, 1), (2, 2), (2, 3)))
    weight = heads(4, 6, 5)
    found = torch.autograd.grad((attend(q, k, v, None) * weight).sum(), (q, k, v))
    wanted = torch.autograd.grad((attend_reference(q, k, v, None) * weight).sum(), (q, k, v))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
