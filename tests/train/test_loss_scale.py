import torch

from tinyllama.train import loss_scale
from tinyllama.train.loss_scale import LossScale

CPU = torch.device("cpu")
ON, OFF = torch.zeros(()), torch.ones(())


def test_overflow_halves_and_good_updates_double():
    scale = LossScale(True, CPU)
    scale.update(OFF)
    assert scale.factor.item() == loss_scale.FIRST / 2
    for _ in range(loss_scale.GROWTH_INTERVAL - 1):
        scale.update(ON)
    assert scale.factor.item() == loss_scale.FIRST / 2
    scale.update(ON)
    assert scale.factor.item() == loss_scale.FIRST
    assert scale.good_updates.item() == 0


def test_an_overflow_begins_the_count_anew():
    scale = LossScale(True, CPU)
    for _ in range(loss_scale.GROWTH_INTERVAL - 1):
        scale.update(ON)
    scale.update(OFF)
    scale.update(ON)
    assert (scale.factor.item(), scale.good_updates.item()) == (loss_scale.FIRST / 2, 1)


def test_it_never_grows_past_its_limit():
    scale = LossScale(True, CPU)
    scale.factor.fill_(loss_scale.LARGEST)
    for _ in range(loss_scale.GROWTH_INTERVAL):
        scale.update(ON)
    assert scale.factor.item() == loss_scale.LARGEST


def test_only_where_it_is_on_are_updates_called_off():
    for norm, wanted in ((torch.tensor(3.0), 0), (torch.tensor(torch.inf), 1), (torch.tensor(torch.nan), 1)):
        assert LossScale(True, CPU).overflow(norm).item() == wanted
        assert LossScale(False, CPU).overflow(norm).item() == 0


def test_state_round_trip():
    scale, other = LossScale(True, CPU), LossScale(True, CPU)
    scale.update(OFF)
    scale.update(ON)
    other.load(scale.state())
    assert other.state() == scale.state() == {"factor": loss_scale.FIRST / 2, "good_updates": 1}
