"""Which kills a drill makes: spread over the run's steps, over the parts of a step's work, and over the ranks. No torch."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tinyllama.parallel.rank_progress import Activity

Value = TypeVar("Value")
AIMS = (Activity.FORWARD, Activity.REDUCTION, Activity.WRITE, Activity.COMMIT, Activity.VALIDATION)
SAVER_ACTIVITIES = (Activity.WRITE, Activity.COMMIT)  # of rank 0's saving thread; the loop goes on beside it


@dataclass(frozen=True)
class RunSchedule:
    """The steps of a run, and how often it saves and validates."""

    total_steps: int
    save_every_steps: int
    validate_every_steps: int

    def next_with(self, activity: Activity, step: int) -> int:
        """The first step from `step` on in which a run comes to `place`."""
        every = 1
        if activity in SAVER_ACTIVITIES:
            every = self.save_every_steps
        elif activity == Activity.VALIDATION:
            every = self.validate_every_steps
        return min(-(-step // every) * every, self.total_steps)


@dataclass(frozen=True)
class PlannedKill:
    """SIGKILL when `rank` is at `aim` in `step` or later, after `fraction` of the time that it usually stays there.

    `everyone`: all ranks are killed, as when a machine goes away; else that one, and the others must notice.
    """

    aim: Activity
    step: int
    fraction: float
    ranks: int
    rank: int
    everyone: bool


def plan_kills(kills: int, interval: RunSchedule, world_sizes: list[int], seed: int) -> Iterator[list[PlannedKill]]:
    """The kills of one run after another, without end: every list is one run's, its steps rising.

    Each aim and each number of ranks comes equally often, in an order drawn anew; all else is drawn evenly.
    """
    chance = random.Random(seed)
    aims, sizes = _equally_often(AIMS, chance), _equally_often(world_sizes, chance)
    while True:
        steps = sorted(chance.randint(1, interval.total_steps) for _ in range(kills_of_a_run(kills, interval)))
        planned = []
        for step in steps:
            aim, ranks = next(aims), next(sizes)
            rank = 0 if aim in SAVER_ACTIVITIES else chance.randrange(ranks)
            everyone = ranks == 1 or chance.random() < 0.5
            planned.append(PlannedKill(aim, interval.next_with(aim, step), chance.random(), ranks, rank, everyone))
        yield planned


def _equally_often(values: Sequence[Value], chance: random.Random) -> Iterator[Value]:
    while True:
        yield from chance.sample(values, len(values))


def kills_of_a_run(kills: int, interval: RunSchedule) -> int:
    """So many that between two of them there are some steps."""
    return max(1, min(kills, interval.total_steps // 3))
