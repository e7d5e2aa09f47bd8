import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_model import random_tokens, tiny_llama
from tinyllama.model.loss import IGNORED, next_token_loss, token_losses

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0], [0.0, 0.0]])  # p of token 1: 3/4, 1/5, 1/2


def sums_of(targets: list[int], **options: object):
    identity = torch.eye(2)  # hidden states are then the logits
    return next_token_loss(LOGITS[None], identity, torch.tensor([targets]), **options)  # pyright: ignore[reportArgumentType]


def test_by_hand():
    sums = sums_of([1, 0, 1], with_z_loss=True)
    assert sums.loss.item() == pytest.approx(-math.log(3 / 4) - math.log(4 / 5) - math.log(1 / 2))
    assert sums.z_loss.item() == pytest.approx(math.log(4) ** 2 + math.log(5) ** 2 + math.log(2) ** 2)
    assert sums.correct.item() == 2  # equal logits: the lower id is taken for the likeliest
    assert sums.count.item() == 3


def test_ignored_targets_count_nowhere():
    sums = sums_of([1, IGNORED, IGNORED], with_z_loss=True)
    assert sums.loss.item() == pytest.approx(-math.log(3 / 4))
    assert sums.z_loss.item() == pytest.approx(math.log(4) ** 2)
    assert (sums.correct.item(), sums.count.item()) == (1, 1)


def test_z_loss_is_only_made_where_it_is_asked_for():
    assert sums_of([1, 0, 1]).z_loss.item() == 0
    assert IGNORED == -100, "what Hugging Face's and PyTorch's losses leave out"


@pytest.mark.parametrize("chunk_tokens", [1, 2, 4, 100])
def test_each_target_s_loss_by_hand(chunk_tokens: int):
    """Two rows of two tokens; one is ignored, one is a tie, of which the lower id is the likeliest."""
    hidden = torch.stack([LOGITS[[0, 1]], LOGITS[[2, 2]]])
    targets = torch.tensor([[1, 1], [IGNORED, 0]])
    losses, right = token_losses(hidden, torch.eye(2), targets, chunk_tokens=chunk_tokens)
    wanted = [[-math.log(3 / 4), -math.log(1 / 5)], [0.0, -math.log(1 / 2)]]
    assert losses.tolist() == [pytest.approx(row, abs=1e-6) for row in wanted]
    assert right.tolist() == [[True, False], [False, True]]
    short, _ = token_losses(hidden.bfloat16(), torch.eye(2), targets)
    assert short.dtype == torch.float32
    exact, _ = token_losses(hidden.double(), torch.eye(2), targets)
    assert exact.dtype == torch.float64


def test_all_ignored_is_zero_and_no_nan():
    sums = sums_of([IGNORED] * 3)
    assert (sums.loss.item(), sums.count.item()) == (0.0, 0)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40))
def test_chunks_change_nothing(chunk_tokens: int):
    model, tokens = tiny_llama(dtype=torch.float64), random_tokens(3, 13)
    hidden = model.hidden(tokens[:, :-1]).detach()
    whole = next_token_loss(hidden, model.output_weight, tokens[:, 1:], with_z_loss=True)
    parts = next_token_loss(hidden, model.output_weight, tokens[:, 1:], with_z_loss=True, chunk_tokens=chunk_tokens)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-12)
    assert parts.z_loss.item() == pytest.approx(whole.z_loss.item(), rel=1e-12)
    assert (parts.correct, parts.count) == (whole.correct, whole.count)


def test_softmax_of_bf16_is_in_fp32():
    hidden, weight = torch.randn(1, 64, 16), torch.randn(1000, 16)
    sums = next_token_loss(hidden.bfloat16(), weight.bfloat16(), torch.zeros(1, 64, dtype=torch.int64))
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    wanted = -logits.log_softmax(-1)[..., 0].sum()
    assert sums.loss.dtype == torch.float32
    assert sums.loss.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1), (2, 2)])
def test_micro_batches_equal_one_larger(sizes: tuple[int, ...]):
    tokens = random_tokens(4, 13)
    targets = tokens[:, 1:].clone()
    targets[0, 3:] = IGNORED  # so that a mean of means would be wrong

    def gradients(groups: tuple[int, ...]) -> list[torch.Tensor]:
        model = tiny_llama(dtype=torch.float64)
        count = 0
        for inputs, wanted in zip(tokens[:, :-1].split(groups), targets.split(groups), strict=True):
            sums = next_token_loss(model.hidden(inputs), model.output_weight, wanted)
            sums.loss.backward()
            count += sums.count.item()
        return [value.grad / count for value in model.parameters() if value.grad is not None]

    for found, wanted in zip(gradients(sizes), gradients((4,)), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-14)
