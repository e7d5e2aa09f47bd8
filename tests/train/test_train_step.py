"""One update: accumulation equals one large batch, clipping and decay are what the papers say."""

import copy
import os
from pathlib import Path
from typing import Literal

import pytest
import torch

from tinyllama.errors import RecipeError
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import preset
from tinyllama.parallel.fp8 import to_fp8
from tinyllama.train.precision import check_precision
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState, keep_compiled_code
from tinyllama.train.train_step import DeviceBatch, train_step

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


def batch(rows: int, seed: int = 0) -> DeviceBatch:
    ids = torch.randint(64, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return DeviceBatch(ids[:, :-1], ids[:, 1:], torch.arange(rows))


def parts(whole: DeviceBatch, count: int) -> list[DeviceBatch]:
    return [DeviceBatch(*tensors) for tensors in zip(*(tensor.chunk(count) for tensor in whole), strict=True)]


def state_of(model: Llama, **changes) -> tuple[TrainState, TrainConfig]:
    """A training state with the model's weights and format."""
    train = TrainConfig(
        **({"seq_len": 16, "tokens_per_step": 128, "micro_batch_size": 8, "precision": "fp32"} | changes)
    )
    state = TrainState(model.config, train, torch.device("cpu"), model.embedding.weight.dtype)
    state.model.load_state_dict(model.state_dict())
    state.network.refresh()
    return state, train


def updated(model: Llama, batches: list[DeviceBatch], **changes) -> tuple[Llama, float, float]:
    state, train = state_of(model, **changes)
    result = train_step(state, batches, train, step=3, lr=1e-2)
    return state.model, result.loss.item(), result.grad_norm.item()


def make_model(dtype: torch.dtype = torch.float64, **changes) -> Llama:
    model = Llama(
        preset("tiny-2m", **({"vocab_size": 64, "seq_len": 16, "dim": 32, "n_layers": 2, "ffn_dim": 48} | changes))
    )
    model.init_weights(0)
    return model.to(dtype)


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


def test_first_adamw_update_by_hand():
    """From zero moments, bias-corrected AdamW moves each weight by lr * sign(gradient), after decay by lr * 0.1."""
    model = make_model()
    before = copy.deepcopy(model)
    after, *_ = updated(model, [batch(8)], max_grad_norm=0.0, adam_eps=1e-30)
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        decay = 0.1 if old.dim() >= 2 and not name.startswith("embedding.") else 0.0
        moved = new - old * (1 - 1e-2 * decay)
        touched = moved.abs() > 1e-9  # a token that did not occur leaves its tied row to the head's gradient alone
        assert touched.float().mean() > 0.99, name
        assert torch.allclose(moved[touched].abs(), torch.full_like(moved[touched], 1e-2), rtol=1e-6), name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_short_formats_are_near_fp32(precision: Precision, recompute: Literal["none", "selective", "full"]):
    model = make_model(dtype=torch.float32, tied_head=False)
    _, wanted, wanted_norm = updated(model, [batch(8)])
    after, loss, norm = updated(model, parts(batch(8), 2), precision=precision, recompute=recompute)
    assert all(parameter.dtype == torch.float32 for parameter in after.parameters())
    assert loss == pytest.approx(wanted, rel=1e-2)
    assert norm == pytest.approx(wanted_norm, rel=3e-2)
    assert (loss != wanted) == (precision != "fp32")


def test_fp16_calls_off_an_update_that_left_its_range():
    model = make_model(dtype=torch.float32)
    with torch.no_grad():
        model.embedding.weight.mul_(1e3)  # tied: logits so large that their gradient's products overflow
    state, train = state_of(model, precision="fp16")
    state.loss_scale.factor.fill_(2.0**14)
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    result = train_step(state, [batch(8)], train, step=0, lr=1e-2)
    assert result.is_skipped.item() == 1
    assert state.loss_scale.factor.item() == 2.0**13
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_layers_compute_the_same(precision: Precision):
    model = make_model(dtype=torch.float32, dropout=0.1)
    _, loss, norm = updated(model, [batch(8)], precision=precision)
    _, loss_compiled, norm_compiled = updated(model, [batch(8)], precision=precision, compile="on")
    assert loss_compiled == pytest.approx(loss, rel=1e-3)
    assert norm_compiled == pytest.approx(norm, rel=1e-2)


def test_fp8_products_are_near_bf16s():
    """Emulated: rounded to fp8, multiplied in fp32."""
    pytest.importorskip("torchao")
    model = make_model(dtype=torch.float32, tied_head=False)
    losses = []
    for is_fp8 in (False, True):
        state, train = state_of(model, precision="bf16")
        if is_fp8:
            to_fp8(state.network, emulate=True)
        result = train_step(state, [batch(8)], train, step=0, lr=1e-2)
        losses.append((result.loss.item(), result.grad_norm.item()))
    assert losses[1] == pytest.approx(losses[0], rel=5e-2)
    assert losses[1] != losses[0]


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(RecipeError, match=r"'fp8' needs a GPU of compute capability 8\.9"):
        check_precision("fp8", torch.device("cpu"))


def test_compiled_code_is_kept_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch):
    environment = {"XDG_CACHE_HOME": "caches"}
    monkeypatch.setattr(os, "environ", environment)
    keep_compiled_code()
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == str(Path("caches") / "tinyllama" / "compiled")
    environment["TORCHINDUCTOR_CACHE_DIR"] = "elsewhere"
    keep_compiled_code()
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
