import torch

from tinyllama.train import loss_scale
from tinyllama.train.loss_scale import LossScale

CPU, TOKENS = torch.device("cpu"), 128
FIRST, LARGEST = loss_scale.FIRST / TOKENS, loss_scale.LARGEST / TOKENS
ON, OFF = torch.zeros(()), torch.ones(())


def test_overflow_halves_and_good_updates_double():
    scale = LossScale(True, TOKENS, CPU)
    scale.update(OFF)
    assert scale.factor.item() == FIRST / 2
    for _ in range(loss_scale.GROWTH_INTERVAL - 1):
        scale.update(ON)
    assert scale.factor.item() == FIRST / 2
    scale.update(ON)
    assert scale.factor.item() == FIRST
    assert scale.good_updates.item() == 0


def test_an_overflow_begins_the_count_anew():
    scale = LossScale(True, TOKENS, CPU)
    for _ in range(loss_scale.GROWTH_INTERVAL - 1):
        scale.update(ON)
    scale.update(OFF)
    scale.update(ON)
    assert (scale.factor.item(), scale.good_updates.item()) == (FIRST / 2, 1)


def test_it_never_grows_past_its_limit():
    scale = LossScale(True, TOKENS, CPU)
    scale.factor.fill_(LARGEST)
    for _ in range(loss_scale.GROWTH_INTERVAL):
        scale.update(ON)
    assert scale.factor.item() == LARGEST


def test_only_where_it_is_on_are_updates_called_off():
    for norm, wanted in ((torch.tensor(3.0), 0), (torch.tensor(torch.inf), 1), (torch.tensor(torch.nan), 1)):
        assert LossScale(True, TOKENS, CPU).overflow(norm).item() == wanted
        assert LossScale(False, TOKENS, CPU).overflow(norm).item() == 0


def test_state_round_trip():
    scale, other = LossScale(True, TOKENS, CPU), LossScale(True, TOKENS, CPU)
    scale.update(OFF)
    scale.update(ON)
    other.load(scale.state())
    assert other.state() == scale.state() == {"factor": FIRST / 2, "good_updates": 1}
