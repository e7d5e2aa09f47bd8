import torch

from tinyllama.train.precision import FIRST_SCALE, GROWTH_INTERVAL, LARGEST_SCALE, LossScale

CPU, TOKENS = torch.device("cpu"), 128
FIRST, LARGEST = FIRST_SCALE / TOKENS, LARGEST_SCALE / TOKENS
ON, OFF = torch.zeros(()), torch.ones(())


def test_overflow_halves_and_good_updates_double():
    scale = LossScale(True, TOKENS, CPU)
    scale.update(OFF)
    assert scale.factor.item() == FIRST / 2
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(ON)
    assert scale.factor.item() == FIRST / 2
    scale.update(ON)
    assert scale.factor.item() == FIRST
    assert scale.good_updates.item() == 0


def test_an_overflow_begins_the_count_anew():
    scale = LossScale(True, TOKENS, CPU)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(ON)
    scale.update(OFF)
    scale.update(ON)
    assert (scale.factor.item(), scale.good_updates.item()) == (FIRST / 2, 1)


def test_it_never_grows_past_its_limit():
    scale = LossScale(True, TOKENS, CPU)
    scale.factor.fill_(LARGEST)
    for _ in range(GROWTH_INTERVAL):
        scale.update(ON)
    assert scale.factor.item() == LARGEST


def test_state_round_trip():
    scale, other = LossScale(True, TOKENS, CPU), LossScale(True, TOKENS, CPU)
    scale.update(OFF)
    scale.update(ON)
    other.load(scale.state())
    assert other.state() == scale.state() == {"factor": FIRST / 2, "good_updates": 1}


def test_the_factor_begins_at_2_to_the_16_of_a_mean_and_is_never_above_2_to_the_24():
    scale = LossScale(True, TOKENS, CPU)
    assert scale.factor.item() == 65536 / 128
    for _ in range(9):  # 2 ** 16 to 2 ** 25
        for _ in range(1000):
            scale.update(ON)
    assert (scale.factor.item(), scale.good_updates.item()) == (2**24 / 128, 0)


def test_it_grows_after_every_thousandth_good_update():
    scale = LossScale(True, 1, CPU)
    for number in range(2001):
        assert scale.factor.item() == 65536 * 2 ** (number // 1000)
        assert scale.good_updates.item() == number % 1000
        scale.update(ON)


def test_two_overflows_quarter():
    scale = LossScale(True, 1, CPU)
    scale.update(OFF)
    scale.update(OFF)
    assert (scale.factor.item(), scale.good_updates.item()) == (16384, 0)


def test_between_half_the_limit_and_the_limit_it_grows_to_the_limit():
    scale = LossScale(True, 1, CPU)
    scale.load({"factor": 0.75 * 2**24, "good_updates": 999})
    scale.update(ON)
    assert scale.factor.item() == 2**24


def test_where_none_is_needed_it_stays_one():
    scale = LossScale(False, TOKENS, CPU)
    for is_skipped in [OFF, *[ON] * 1001]:
        scale.update(is_skipped)
    assert scale.state() == {"factor": 1.0, "good_updates": 0}


def test_its_tensors_are_on_the_device():
    scale = LossScale(True, 1, torch.device("meta"))
    assert scale.factor.device.type == scale.good_updates.device.type == "meta"
