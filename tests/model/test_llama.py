"""The network against Hugging Face's Llama with the same random weights: logits, loss, every gradient."""

from math import pi
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from tests.tiny_model import random_tokens, tiny_config, tiny_llama
from tinyllama.exchange.hugging_face_names import config_to_hugging_face
from tinyllama.exchange.tensor_names import to_hugging_face
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import PRESETS
from tinyllama.model.loss import next_token_loss

LLAMA3: dict[str, Any] = {
    "rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_seq_len": 24, "head_dim": 32, "rope_theta": 500.0,
}  # fmt: skip


def scaled_down(name: str) -> dict[str, Any]:
    """A preset with its heads and its proportions, about 128 wide."""
    config = PRESETS[name]
    head_dim = max(2, 128 // config.n_heads // 2 * 2)
    dim = head_dim * config.n_heads
    return {
        "dim": dim, "ffn_dim": config.ffn_dim * dim // config.dim, "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads, "rope_theta": config.rope_theta, "norm_eps": config.norm_eps,
        "tied_head": config.tied_head, "n_layers": 3,
    }  # fmt: skip


SHAPES: dict[str, dict[str, Any]] = {
    "32 heads, 4 groups": {"dim": 64, "n_heads": 32, "n_kv_heads": 4, "head_dim": 64, "norm_eps": 1e-6},
    "9 heads, 3 groups, tied": {"dim": 72, "n_heads": 9, "n_kv_heads": 3, "tied_head": True, "rope_theta": 1e5},
    "multi-head": {"n_kv_heads": 4},
    "multi-query": {"n_kv_heads": 1},
    "free head_dim": {"head_dim": 12},
    "linear rope": {"rope_scaling": "linear", "rope_factor": 4.0},
    "llama3 rope": LLAMA3,
    **{f"{name} scaled down": scaled_down(name) for name in PRESETS},
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
    """Largest difference over the largest value; the floor is for gradients that are 0, q's and k's of a lone token."""
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)).item()


def compare(model: Llama, tolerance: float, length: int = 32) -> None:
    other, tokens = theirs(model), random_tokens(3, length + 1)
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


@pytest.fixture
def exact_transformers(monkeypatch: pytest.MonkeyPatch):
    """Hugging Face's norm and rotary embedding without their passage through fp32."""

    def norm(self: Any, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        inverse = torch.tensor(by_hand(self.config.head_dim, self.config.rope_parameters) * 2, dtype=x.dtype)
        angles = position_ids[..., None].to(x.dtype) * inverse
        return angles.cos(), angles.sin()

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", rotary)


def by_hand(head_dim: int, rope: dict[str, Any]) -> list[float]:
    """The angles of one position, pair by pair, as Llama 3.1's own code words it: by wavelengths."""
    found = []
    for pair in range(head_dim // 2):
        plain = rope["rope_theta"] ** -(2 * pair / head_dim)
        wavelength = 2 * pi / plain
        if rope["rope_type"] == "linear":
            plain /= rope["factor"]
        if rope["rope_type"] == "llama3":
            old, low, high = (
                rope[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
            )
            if wavelength > old / low:
                plain /= rope["factor"]
            elif wavelength >= old / high:
                smooth = (old / wavelength - low) / (high - low)
                plain = (1 - smooth) * plain / rope["factor"] + smooth * plain
        found.append(plain)
    return found


@pytest.mark.usefixtures("exact_transformers")
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_float64_agrees_to_its_own_precision(changes: dict[str, Any]):
    compare(tiny_llama(dtype=torch.float64, **changes), tolerance=1e-9)


@pytest.mark.usefixtures("exact_transformers")
@pytest.mark.parametrize("length", [1, 2, 17, 48], ids=["one", "two", "odd", "full context"])
def test_every_length_agrees(length: int):
    compare(tiny_llama(dtype=torch.float64, **LLAMA3), tolerance=1e-9, length=length)


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
