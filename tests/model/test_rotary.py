from math import cos, pi, sin

import pytest
import torch

from tests.tiny_model import tiny_config
from tinyllama.model.rotary import rotary_frequencies, rotary_table, rotate

CPU = torch.device("cpu")


def test_rotation_turns_pairs_by_the_position():
    config = tiny_config(head_dim=4, rope_theta=100.0)
    table = rotary_table(torch.tensor([[0, 1, 5]]), config, torch.float64)
    x = torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64).expand(1, 1, 3, 4)
    turned = rotate(x, *table)[0, 0]
    # pairs (0, 2) and (1, 3); their angles are p and p / 10
    wanted = [[cos(p), 2 * cos(p / 10), sin(p), 2 * sin(p / 10)] for p in (0, 1, 5)]
    assert torch.allclose(turned, torch.tensor(wanted, dtype=torch.float64), atol=1e-14)


def test_linear_scaling_divides_every_angle():
    plain, stretched = (
        rotary_frequencies(tiny_config(head_dim=8, **changes), CPU, torch.float64)
        for changes in ({}, {"rope_scaling": "linear", "rope_factor": 4.0})
    )
    assert torch.equal(stretched * 4, plain)


def test_llama3_scaling_by_hand():
    # pairs turn 100, 10, 2.5, 1 and 0.1 times within the old context of 1,000 tokens
    turns = [100, 10, 2.5, 1, 0.1]
    kept = [1, 1, 0.5, 0, 0]  # of the way from 1 turn to 4
    config = tiny_config(
        head_dim=10, rope_scaling="llama3", rope_factor=8.0, rope_low_freq_factor=1.0, rope_high_freq_factor=4.0,
        rope_original_seq_len=1000,
    )  # fmt: skip
    for turned, part in zip(turns, kept, strict=True):
        # the theta at which the second of the five pairs turns so many times
        theta = (2 * pi * turned / 1000) ** -5
        at = type(config)(**(config.to_dict() | {"rope_theta": theta}))
        found = rotary_frequencies(at, CPU, torch.float64)[1].item()
        plain = 2 * pi * turned / 1000
        assert found == pytest.approx(part * plain + (1 - part) * plain / 8, rel=1e-9)


def test_angles_are_exact_in_short_formats():
    cosines, _ = rotary_table(torch.tensor([[4095, 4096]]), tiny_config(), torch.bfloat16)
    assert cosines.dtype == torch.bfloat16
    assert cosines[0, 0, 0, 0].item() == pytest.approx(cos(4095), abs=0.004)
    assert cosines[0, 0, 1, 0].item() == pytest.approx(cos(4096), abs=0.004)
