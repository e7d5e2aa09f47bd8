"""One update: accumulation equals one large batch, clipping and decay are what the papers say."""

import copy
from typing import Literal

import pytest
import torch

from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import preset
from tinyllama.train.optimizer import make_optimizer, scale_and_clip
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_step import DeviceBatch, train_step

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
CONFIG = preset("tiny-2m", vocab_size=64, seq_len=16, dim=32, n_layers=2, ffn_dim=48)


def batch(rows: int, seed: int = 0) -> DeviceBatch:
    ids = torch.randint(64, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return DeviceBatch(ids[:, :-1], ids[:, 1:], torch.arange(rows))


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def parts(whole: DeviceBatch, count: int) -> list[DeviceBatch]:
    return [DeviceBatch(*tensors) for tensors in zip(*(tensor.chunk(count) for tensor in whole), strict=True)]


def updated(model: Llama, batches: list[DeviceBatch], **changes) -> tuple[Llama, float, float]:
    train = TrainConfig(seq_len=16, tokens_per_step=128, micro_batch_size=8, precision="fp32", **changes)
    model = copy.deepcopy(model)
    result = train_step(model, make_optimizer(model, train), batches, train, step=3, lr=1e-2)
    return model, result.loss.item(), result.grad_norm.item()


def make_model(**changes) -> Llama:
    model = Llama(
        preset("tiny-2m", **({"vocab_size": 64, "seq_len": 16, "dim": 32, "n_layers": 2, "ffn_dim": 48} | changes))
    )
    model.init_weights(0)
    return model.double()


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_micro_batches_equal_one_large_batch(count: int, dropout: float):
    model = make_model(dropout=dropout, attention_dropout=dropout)
    whole = batch(8)
    one, loss, norm = updated(model, [whole], z_loss=1e-3)
    many, loss_of_many, norm_of_many = updated(model, parts(whole, count), z_loss=1e-3)
    assert loss_of_many == pytest.approx(loss, rel=1e-12)
    assert norm_of_many == pytest.approx(norm, rel=1e-12)
    for first, second in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


def test_gradients_are_scaled_then_clipped_to_the_global_norm():
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([6.0, 0.0]), torch.tensor([8.0])
    norm = scale_and_clip(weights, torch.tensor(0.5), max_norm=1.0)
    assert norm.item() == pytest.approx(5.0)  # of (3, 0, 4)
    assert [value for weight in weights for value in gradient(weight).tolist()] == pytest.approx(
        [0.6, 0, 0.8], rel=1e-5
    )


@pytest.mark.parametrize("max_norm", [0.0, 100.0])
def test_small_gradients_are_not_clipped(max_norm: float):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert scale_and_clip([weight], torch.tensor(1.0), max_norm).item() == pytest.approx(5.0)
    assert gradient(weight).tolist() == [3.0, 4.0]


def test_first_adamw_update_by_hand():
    """From zero moments, bias-corrected AdamW moves each weight by lr * sign(gradient), after decay by lr * 0.1."""
    model = make_model()
    before = copy.deepcopy(model)
    after, _, _ = updated(model, [batch(8)], max_grad_norm=0.0, adam_eps=1e-30)
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        decay = 0.1 if old.dim() >= 2 and not name.startswith("embedding.") else 0.0
        moved = new - old * (1 - 1e-2 * decay)
        touched = moved.abs() > 1e-9  # a token that did not occur leaves its tied row to the head's gradient alone
        assert touched.float().mean() > 0.99, name
        assert torch.allclose(moved[touched].abs(), torch.full_like(moved[touched], 1e-2), rtol=1e-6), name


def test_bf16_loss_is_near_fp32s():
    model = make_model().float()
    losses = {}
    for precision in PRECISIONS:
        config = TrainConfig(seq_len=16, tokens_per_step=128, micro_batch_size=8, precision=precision)
        fresh = copy.deepcopy(model)
        losses[precision] = train_step(
            fresh, make_optimizer(fresh, config), [batch(8)], config, step=0, lr=0.0
        ).loss.item()
        assert all(parameter.dtype == torch.float32 for parameter in fresh.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=1e-2)
    assert losses["bf16"] != losses["fp32"]
