"""Kills are spread over the run as the plan says, and the same for the same seed."""

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tinyllama.drill.kill_plan import AIMS, Interval, kills_of_a_run, plan_kills
from tinyllama.parallel.whereabouts import Place

INTERVAL = Interval(total_steps=120, save_every_steps=5, validate_every_steps=6)


def test_next_step_with_a_place_by_hand():
    assert [INTERVAL.next_with(place, 7) for place in AIMS] == [7, 7, 10, 10, 12]
    assert Interval(10, 4, 100).next_with(Place.COMMIT, 9) == 10  # the last step saves
    assert Interval(10, 4, 100).next_with(Place.VALIDATION, 1) == 10


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
