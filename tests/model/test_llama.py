"""The network against Hugging Face's Llama with the same random weights: logits, loss, every gradient."""

from math import cos, sin
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from tests.tiny_model import random_tokens, tiny_config, tiny_llama
from tinyllama.exchange.hugging_face_names import config_to_hugging_face, to_hugging_face
from tinyllama.model.llama import Llama, rotary_table, rotate
from tinyllama.model.loss import next_token_loss

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"dim": 64, "n_heads": 8, "n_kv_heads": 2},
    "tied": {"tied_head": True},
    "multi-head": {"n_kv_heads": 4},
    "multi-query": {"n_kv_heads": 1},
    "free head_dim": {"head_dim": 12},
    "32 heads, 4 groups": {"dim": 128, "n_heads": 32, "n_kv_heads": 4, "rope_theta": 500_000.0, "norm_eps": 1e-6},
}


def theirs(model: Llama) -> LlamaForCausalLM:
    """Hugging Face's network with the same weights."""
    settings = config_to_hugging_face(model.config, 1, 2)
    other = LlamaForCausalLM(TheirConfig(**settings))
    torch.nn.Module.to(other, model.embedding.weight.dtype)
    weights = {to_hugging_face(name): value.detach() for name, value in model.named_parameters()}
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if model.config.tied_head else set())
    return other


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def compare(model: Llama, tolerance: float) -> None:
    other, tokens = theirs(model), random_tokens(3, 33)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    their_logits = other(inputs).logits
    assert relative_error(model(inputs), their_logits) < tolerance

    sums = next_token_loss(model.hidden(inputs), model.output_weight, targets)
    their_loss = F.cross_entropy(their_logits.flatten(0, 1), targets.flatten(), reduction="sum")
    assert relative_error(sums.loss, their_loss) < tolerance

    sums.loss.backward()
    their_loss.backward()
    their_parameters = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        their_gradient = their_parameters[to_hugging_face(name)].grad
        assert parameter.grad is not None
        assert their_gradient is not None
        assert relative_error(parameter.grad, their_gradient) < tolerance, name


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_logits_loss_and_gradients_are_hugging_faces(changes: dict[str, Any]):
    compare(tiny_llama(**changes), tolerance=2e-5)


@pytest.mark.parametrize("changes", [SHAPES["grouped"], SHAPES["tied"]], ids=["grouped", "tied"])
def test_float64_agrees_to_its_own_precision(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    def norm(self: Any, x: Tensor) -> Tensor:  # Hugging Face's own two pass through fp32
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        head_dim = self.config.head_dim
        theta = self.config.rope_parameters["rope_theta"]
        inverse = torch.tensor([theta ** -(2 * i / head_dim) for i in range(head_dim // 2)] * 2, dtype=x.dtype)
        angles = position_ids[..., None].to(x.dtype) * inverse
        return angles.cos(), angles.sin()

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", rotary)
    compare(tiny_llama(dtype=torch.float64, **changes), tolerance=1e-12)


def test_rotation_turns_pairs_by_the_position():
    table = rotary_table(torch.tensor([[0, 1, 5]]), 4, 100.0, torch.float64)
    x = torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64).expand(1, 1, 3, 4)
    turned = rotate(x, *table)[0, 0]
    # pairs (0, 2) and (1, 3); their angles are p and p / 10
    wanted = [[cos(p), 2 * cos(p / 10), sin(p), 2 * sin(p / 10)] for p in (0, 1, 5)]
    assert torch.allclose(turned, torch.tensor(wanted, dtype=torch.float64), atol=1e-14)


def test_attention_depends_on_distance_alone():
    model, tokens = tiny_llama(dtype=torch.float64), random_tokens(2, 16)
    positions = torch.arange(16)[None, :]
    assert torch.allclose(model(tokens, positions), model(tokens, positions + 1000), atol=1e-9)


def test_no_token_sees_a_later_one():
    model, tokens = tiny_llama(), random_tokens(2, 16)
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 7) % 512
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_rows_of_a_batch_do_not_mix():
    model, tokens = tiny_llama(dtype=torch.float64), random_tokens(3, 16)
    alone = torch.cat([model(tokens[row : row + 1]) for row in range(3)])
    assert torch.allclose(model(tokens), alone, atol=1e-12)


def test_projections_join_narrow_embeddings():
    model = tiny_llama(embedding_dim=16, dtype=torch.float64)
    tokens = random_tokens(2, 8)
    assert model.embedding_projection is not None
    assert model.head_projection is not None
    assert model.hidden(tokens).shape == (2, 8, 16)
    assert model(tokens).shape == (2, 8, 512)


def test_initial_weights_follow_the_seed_and_the_table():
    config = tiny_config(vocab_size=2048, dim=128)
    first, again, other = (Llama(config) for _ in range(3))
    first.init_weights(5)
    again.init_weights(5)
    other.init_weights(6)
    stds = {name: value.std().item() for name, value in first.named_parameters()}
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    assert stds["embedding.weight"] == pytest.approx((2 / (5 * 128)) ** 0.5, rel=0.05)
    assert stds["layers.0.attention.q.weight"] == pytest.approx((2 / (5 * 128)) ** 0.5, rel=0.05)
    assert stds["layers.1.feed_forward.down.weight"] == pytest.approx(1 / (128**0.5 * 2), rel=0.05)
    assert (first.norm.weight == 1).all()
