"""The generator of dropout's masks, bit by bit, beside its definition in Python's own integers.

lowbias32 (C. Wellons): x ^= x >> 16, x *= 0x7feb352d, x ^= x >> 15, x *= 0x846ca68b, x ^= x >> 16, modulo 2^32.
"""

import pytest
import torch

from tinyllama.model.dropout import (
    ATTENTION,
    ATTENTION_RESIDUAL,
    EMBEDDING,
    FEED_FORWARD_RESIDUAL,
    dropout,
    dropout_rows,
    hash_32,
    keep_mask,
    layer_keys,
    sample_keys,
)

M = 2**32


def mixed(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D % M
    x ^= x >> 15
    x = x * 0x846CA68B % M
    return x ^ x >> 16


def chain(*parts: int) -> int:
    """Each part is joined to the state before it, which begins with 0."""
    state = 0
    for part in parts:
        state = mixed((state * 31 + part + 1) % M)
    return state


def test_the_hash_value_by_value():
    values = [0, 1, 2, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, M - 1]
    assert hash_32(torch.tensor(values)).tolist() == [mixed(value) for value in values]
    assert (mixed(1), mixed(0xDEADBEEF)) == (0x688990C0, 0xE628C683)


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 7, 2**40 - 1])
def test_keys_of_samples(seed: int):
    samples = [0, 1, 3, 2**32 + 3, 2**35 - 1]
    found = sample_keys(seed, 12, torch.tensor(samples)).tolist()
    assert found == [chain(seed % M, seed // M, 12, sample % M, sample // M) for sample in samples]


def test_keys_of_layers_begin_with_the_embedding():
    keys = torch.tensor([5, M - 1])
    for layer in (-1, 0, 3):
        found = layer_keys(keys, layer)
        assert found is not None
        assert found.tolist() == [mixed((key * 31 + layer + 2) % M) for key in keys.tolist()]
    assert layer_keys(None, 0) is None


@pytest.mark.parametrize("first", [0, 11])
@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_the_mask_value_by_value(probability: float, first: int):
    keys, site = torch.tensor([5, 9]), 2
    found = keep_mask(torch.Size((2, 3, 4)), probability, keys, site, first)
    wanted = [
        [mixed(mixed(first + place) ^ mixed((key * 31 + site + 1) % M)) >= int(probability * M) for place in range(12)]
        for key in (5, 9)
    ]
    assert found.flatten(1).tolist() == wanted
    values = torch.arange(1.0, 25.0).view(2, 3, 4)
    dropped = dropout(values, probability, keys, site, first)
    torch.testing.assert_close(dropped, torch.where(found, values / (1 - probability), 0.0))
    rows = dropout_rows(values.flatten(0, 1)[2:5], probability, keys, site, 2, 3)
    whole = dropout(values, probability, keys, site).flatten(0, 1)
    torch.testing.assert_close(rows, whole[2:5])


def test_rows_without_keys_or_probability_are_as_they_were():
    rows = torch.ones(2, 3)
    assert dropout_rows(rows, 0.5, None, 1, 0, 2) is rows
    assert dropout_rows(rows, 0.0, torch.tensor([1]), 1, 0, 2) is rows


def test_sites_are_numbered_once_and_for_all():
    """A run that is taken up by a later version drops what it would have dropped."""
    assert (EMBEDDING, ATTENTION, ATTENTION_RESIDUAL, FEED_FORWARD_RESIDUAL) == (0, 1, 2, 3)
