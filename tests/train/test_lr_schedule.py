"""The schedule by hand: every value below was computed on paper."""

import math

import pytest

from tinyllama.train.lr_schedule import LrSchedule, lr_schedule
from tinyllama.train.train_config import TrainConfig


def schedule(**changes) -> LrSchedule:
    values = {
        "kind": "cosine",
        "total_steps": 100,
        "warmup_steps": 10,
        "cooldown_steps": 0,
        "peak_lr": 1.0,
        "min_lr": 0.1,
    }
    return LrSchedule(**(values | changes))


def schedule_of(train: TrainConfig) -> LrSchedule:
    return lr_schedule(train, train.total_steps)


def test_warmup_is_linear_and_reaches_the_peak():
    assert [schedule().lr_at(step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])


def test_cosine_falls_to_the_minimum_at_the_last_step():
    assert schedule().lr_at(55) == pytest.approx(0.1 + 0.9 * 0.5)  # half way from step 10 to step 100
    assert schedule().lr_at(100) == pytest.approx(0.1)
    quarter = schedule(total_steps=50).lr_at(20)  # a quarter of the way from 10 to 50
    assert quarter == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))


def test_cooldown_falls_in_a_line_to_zero_after_the_last_step():
    cooled = schedule(cooldown_steps=9)
    assert cooled.lr_at(91) == pytest.approx(0.1)  # the cosine's end
    assert [cooled.lr_at(step) for step in (92, 96, 100)] == pytest.approx([0.09, 0.05, 0.01])


def test_warmup_stable_decay_stays_at_the_peak():
    wsd = schedule(kind="wsd", cooldown_steps=19)
    assert {wsd.lr_at(step) for step in range(10, 82)} == {1.0}
    assert [wsd.lr_at(step) for step in (82, 91, 100)] == pytest.approx([0.95, 0.5, 0.05])


def test_without_warmup_the_first_step_has_nearly_the_peak():
    assert schedule(warmup_steps=0, total_steps=1).lr_at(1) == pytest.approx(0.1)
    assert schedule(warmup_steps=0, kind="wsd").lr_at(1) == 1.0


def test_a_warmup_longer_than_the_run_is_cut_to_a_tenth():
    train = TrainConfig(steps=50, warmup_steps=2000)
    assert schedule_of(train).warmup_steps == 5
    assert schedule_of(TrainConfig(steps=5, warmup_steps=9)).warmup_steps == 1
    assert schedule_of(TrainConfig(steps=5000, warmup_steps=2000)).warmup_steps == 2000


def test_every_step_of_short_runs_has_a_rate_above_zero():
    for total in range(1, 8):
        for cooldown in range(total + 1):
            made = schedule_of(TrainConfig(steps=total, warmup_steps=2, cooldown_steps=cooldown))
            assert all(made.lr_at(step) > 0 for step in range(1, total + 1)), (total, cooldown)


def test_the_recipe_s_values_are_the_schedule_s():
    train = TrainConfig(lr_schedule="wsd", steps=40, warmup_steps=3, cooldown_steps=7, peak_lr=0.5, min_lr=0.25)
    assert schedule_of(train) == LrSchedule("wsd", 40, 3, 7, 0.5, 0.25)


@pytest.mark.parametrize(
    ("steps", "warmup", "cooldown", "wanted"),
    [
        (10, 6, 4, (6, 4)), (10, 7, 4, (1, 4)),  # exactly the room that cooldown leaves, and one step more
        (100, 2000, 90, (10, 90)), (100, 2000, 95, (5, 95)),  # a tenth, but no more than the room
        (9, 8, 9, (0, 9)), (9, 8, 12, (0, 9)), (20, 30, 0, (2, 0)), (19, 30, 0, (1, 0)),
    ],
)  # fmt: skip
def test_warmup_and_cooldown_are_cut_to_the_run(steps: int, warmup: int, cooldown: int, wanted: tuple[int, int]):
    made = schedule_of(TrainConfig(steps=steps, warmup_steps=warmup, cooldown_steps=cooldown))
    assert (made.warmup_steps, made.cooldown_steps) == wanted


def test_cosine_between_warmup_and_cooldown():
    made = schedule(total_steps=20, warmup_steps=4, cooldown_steps=4)  # from step 4 to step 16
    thirds = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * third / 3)) for third in range(4)]
    assert [made.lr_at(step) for step in (4, 8, 12, 16)] == pytest.approx(thirds)
    assert made.lr_at(17) == pytest.approx(0.1 * 4 / 5)
