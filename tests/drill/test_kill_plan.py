"""Kills are spread over the run as the plan says, and the same for the same seed."""

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tinyllama.drill.kill_plan import AIMS, SAVER_ACTIVITIES, RunSchedule, kills_of_a_run, plan_kills
from tinyllama.parallel.rank_progress import Activity

INTERVAL = RunSchedule(total_steps=120, save_every_steps=5, validate_every_steps=6)


def test_next_step_with_a_place_by_hand():
    assert [INTERVAL.next_with(place, 7) for place in AIMS] == [7, 7, 10, 10, 12]
    assert RunSchedule(10, 4, 100).next_with(Activity.COMMIT, 9) == 10  # the last step saves
    assert RunSchedule(10, 4, 100).next_with(Activity.VALIDATION, 1) == 10


@given(seed=st.integers(0, 10**9), sizes=st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=3))
def test_every_plan_is_possible(seed: int, sizes: list[int]):
    for planned in islice(plan_kills(100, INTERVAL, sizes, seed), 3):
        assert len(planned) == kills_of_a_run(100, INTERVAL) == 40
        for kill in planned:
            assert 1 <= kill.step <= INTERVAL.total_steps
            assert kill.step == INTERVAL.next_with(kill.aim, kill.step)
            assert kill.ranks in sizes
            assert 0 <= kill.rank < kill.ranks
            assert 0 <= kill.fraction < 1
            assert kill.everyone or kill.ranks > 1


def test_each_aim_comes_equally_often():
    planned = [kill for run in islice(plan_kills(100, INTERVAL, [1, 2], 0), 3) for kill in run][:100]
    assert Counter(kill.aim for kill in planned) == dict.fromkeys(AIMS, 20)


def test_the_seed_decides():
    plans = [next(plan_kills(10, INTERVAL, [1, 2, 4], seed)) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_steps_of_a_place_at_its_interval_by_hand():
    interval = RunSchedule(total_steps=20, save_every_steps=5, validate_every_steps=8)
    wanted = {
        Activity.FORWARD: [1, 5, 6, 16, 17, 20],
        Activity.WRITE: [5, 5, 10, 20, 20, 20], Activity.COMMIT: [5, 5, 10, 20, 20, 20],
        Activity.VALIDATION: [8, 8, 8, 16, 20, 20],
    }  # fmt: skip
    for place, steps in wanted.items():
        assert [interval.next_with(place, step) for step in (1, 5, 6, 16, 17, 20)] == steps


def test_kills_of_a_run_leave_three_steps_each():
    assert [kills_of_a_run(100, RunSchedule(steps, 1, 1)) for steps in (1, 2, 3, 5, 6, 300, 301, 303)] == [
        1, 1, 1, 1, 2, 100, 100, 100,
    ]  # fmt: skip
    assert [kills_of_a_run(kills, RunSchedule(30, 1, 1)) for kills in (1, 9, 10, 11)] == [1, 9, 10, 10]


def test_everything_is_drawn_and_saving_is_rank_0_s():
    planned = [kill for run in islice(plan_kills(100, INTERVAL, [1, 4], 3), 5) for kill in run]
    assert Counter(kill.ranks for kill in planned) == {1: 100, 4: 100}
    of_saver, of_loop = (
        [kill for kill in planned if (kill.aim in SAVER_ACTIVITIES) == saves] for saves in (True, False)
    )
    assert {kill.rank for kill in of_saver} == {0}
    assert {kill.rank for kill in of_loop if kill.ranks == 4} == {0, 1, 2, 3}
    assert all(kill.everyone for kill in planned if kill.ranks == 1)
    assert 25 < sum(kill.everyone for kill in planned if kill.ranks == 4) < 75
    steps = [kill.step for kill in planned if kill.aim == Activity.FORWARD]
    assert min(steps) < 20
    assert max(steps) > 100
    assert 0.3 < sum(kill.fraction for kill in planned) / len(planned) < 0.7


def test_steps_of_a_run_rise_but_for_places_that_come_later():
    for run in islice(plan_kills(100, RunSchedule(120, 1, 1), [1], 1), 3):
        steps = [kill.step for kill in run]
        assert steps == sorted(steps)
        assert min(steps) >= 1
