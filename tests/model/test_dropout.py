from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_model import random_tokens, tiny_llama
from tinyllama.model.dropout import dropout, dropout_rows, hash_32, keep_mask, layer_keys, sample_keys

SAMPLES = torch.tensor([3, 4, 5, 6])


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_rate(probability: float):
    keys = sample_keys(1, 2, torch.arange(64))
    mask = keep_mask(torch.Size((64, 10_000)), probability, keys, 1)
    deviation = (probability * (1 - probability) / mask.numel()) ** 0.5
    assert abs(1 - mask.double().mean().item() - probability) < 5 * deviation


def test_mean_is_kept():
    values = torch.ones(16, 20_000)
    dropped = dropout(values, 0.25, sample_keys(1, 2, torch.arange(16)), 1)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)


def test_evaluation_and_probability_zero_change_nothing():
    values = torch.randn(4, 5)
    assert dropout(values, 0.5, None, 1) is values
    assert dropout(values, 0.0, sample_keys(1, 2, SAMPLES), 1) is values


def test_mask_of_a_sample_is_the_same_in_any_batch():
    whole = keep_mask(torch.Size((4, 7, 9)), 0.5, sample_keys(1, 2, SAMPLES), 1)
    for row in range(4):
        alone = keep_mask(torch.Size((1, 7, 9)), 0.5, sample_keys(1, 2, SAMPLES[row : row + 1]), 1)
        assert torch.equal(whole[row], alone[0])


@pytest.mark.parametrize("changed", [(9, 2, 0, 1), (1, 9, 0, 1), (1, 2, 9, 1), (1, 2, 0, 2), (1 + 2**40, 2, 0, 1)])
def test_each_part_of_the_key_gives_another_mask(changed: tuple[int, int, int, int]):
    def mask(seed: int, step: int, layer: int, site: int) -> torch.Tensor:
        keys = layer_keys(sample_keys(seed, step, SAMPLES), layer)
        assert keys is not None
        return keep_mask(torch.Size((4, 4096)), 0.5, keys, site)

    agreement = (mask(1, 2, 0, 1) == mask(*changed)).double().mean().item()
    assert abs(agreement - 0.5) < 5 * 0.5 / (4 * 4096) ** 0.5  # as often as two independent masks


def test_neighbouring_samples_and_positions_are_independent():
    mask = keep_mask(torch.Size((128, 2048)), 0.5, sample_keys(0, 0, torch.arange(128)), 0).double() * 2 - 1
    bound = 5 / mask.numel() ** 0.5
    assert abs((mask[1:] * mask[:-1]).mean().item()) < bound
    assert abs((mask[:, 1:] * mask[:, :-1]).mean().item()) < bound


@given(st.sets(st.integers(0, 2**32 - 1), min_size=2, max_size=50))
def test_hash_is_a_permutation_of_32_bits(values: set[int]):
    hashed = hash_32(torch.tensor(sorted(values))).tolist()
    assert len(set(hashed)) == len(values)
    assert all(0 <= value < 2**32 for value in hashed)


@pytest.mark.parametrize("rates", [{"dropout": 0.2}, {"attention_dropout": 0.2}])
def test_network_drops_by_sample_and_lets_gradients_through(rates: dict[str, Any]):
    model, tokens = tiny_llama(dtype=torch.float64, **rates), random_tokens(4, 12)
    keys = sample_keys(7, 1, SAMPLES)
    dropped = model(tokens, dropout_keys=keys)
    assert not torch.allclose(dropped, model(tokens))
    assert torch.equal(dropped, model(tokens, dropout_keys=keys))
    halves = [model(tokens[rows], dropout_keys=keys[rows]) for rows in (slice(0, 1), slice(1, 4))]
    assert torch.allclose(dropped, torch.cat(halves), atol=1e-12)
    dropped.sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())


@given(samples=st.integers(1, 3), tokens=st.integers(1, 6), parts=st.integers(1, 4), seed=st.integers(0, 2**40))
def test_a_share_of_all_rows_drops_what_the_whole_drops(samples: int, tokens: int, parts: int, seed: int):
    D, keys = 5, sample_keys(seed, 3, torch.arange(samples))
    values = torch.randn(samples, tokens * parts, D)
    whole = dropout(values, 0.4, keys, 2).flatten(0, 1)
    share = samples * tokens
    for part in range(parts):
        rows = values.flatten(0, 1)[part * share : (part + 1) * share]
        assert torch.equal(
            dropout_rows(rows, 0.4, keys, 2, part * share, tokens * parts), whole[part * share :][:share]
        )


def test_some_heads_drop_what_all_heads_drop():
    keys, weights = sample_keys(1, 2, torch.arange(2)), torch.randn(2, 4, 3, 3)
    whole = dropout(weights, 0.4, keys, 1)
    assert torch.equal(dropout(weights[:, 2:], 0.4, keys, 1, first=2 * 9), whole[:, 2:])
