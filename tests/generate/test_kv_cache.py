import pytest
import torch

from tests.tiny_model import random_tokens, tiny_config, tiny_llama
from tinyllama.generate.kv_cache import KVCache, OneTokenEach

PORTIONS = [(20,), (1,) * 20, (7, 1, 1, 5, 6), (19, 1)]


@pytest.mark.parametrize("portions", PORTIONS, ids=str)
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_logits_with_a_cache_are_those_without(
    portions: tuple[int, ...], n_kv_heads: int, dtype: torch.dtype, tolerance: float
):
    model, tokens = tiny_llama(n_kv_heads=n_kv_heads, dtype=dtype), random_tokens(3, 20)
    wanted = model(tokens)
    cache = KVCache(model.config, 3, 20, "cpu", dtype)
    found = torch.cat([model(part, cache=cache) for part in tokens.split(portions, dim=1)], dim=1)
    assert cache.n_tokens == 20
    assert ((found - wanted).abs().max() / wanted.abs().max()).item() < tolerance


def test_tokens_count_when_the_last_layer_has_them():
    cache = KVCache(tiny_config(), 1, 5, "cpu", torch.float32)
    k = torch.ones(1, 2, 3, 8)
    assert cache.update(0, k, 2 * k)[0].shape == (1, 2, 3, 8)
    assert cache.n_tokens == 0
    cache.update(1, k, 2 * k)
    assert cache.n_tokens == 3


def test_layers_are_kept_apart():
    cache = KVCache(tiny_config(), 1, 5, "cpu", torch.float32)
    k = torch.ones(1, 2, 1, 8)
    for layer in range(2):
        found_k, found_v = cache.update(layer, k * layer, k * (layer + 10))
        assert (found_k == layer).all()
        assert (found_v == layer + 10).all()


def test_more_tokens_than_it_holds():
    cache = KVCache(tiny_config(), 1, 5, "cpu", torch.float32)
    with pytest.raises(ValueError, match="6 tokens in a cache of 5"):
        cache.update(0, torch.ones(1, 2, 6, 8), torch.ones(1, 2, 6, 8))


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_sequences_of_several_lengths_in_one_cache(n_kv_heads: int, dtype: torch.dtype, tolerance: float):
    model, lengths = tiny_llama(n_kv_heads=n_kv_heads, dtype=dtype), [7, 1, 12, 4]
    tokens = random_tokens(4, 20)
    cache = KVCache(model.config, 4, 20, "cpu", dtype)
    padded = torch.where(torch.arange(12) < torch.tensor(lengths)[:, None], tokens[:, :12], 0)
    model.hidden(padded, cache=cache)
    for step in range(8):
        positions = torch.tensor(lengths) + step
        reach = int(positions.max()) + 1
        mask = (torch.arange(reach) <= positions[:, None])[:, None, None]
        new = tokens.gather(1, positions[:, None])
        found = model(new, positions[:, None], mask, OneTokenEach(cache, positions, reach))[:, 0]
        for n, length in enumerate(lengths):
            wanted = model(tokens[n : n + 1, : length + step + 1])[0, -1]
            assert ((found[n] - wanted).abs().max() / wanted.abs().max()).item() < tolerance


def test_sequences_of_several_lengths_need_positions():
    cache = OneTokenEach(KVCache(tiny_config(), 2, 5, "cpu", torch.float32), torch.tensor([0, 3]), 5)
    with pytest.raises(ValueError, match="give positions"):
        tiny_llama().hidden(random_tokens(2, 1), cache=cache)
