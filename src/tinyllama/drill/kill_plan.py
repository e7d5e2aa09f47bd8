"""Plans the kills of a drill: spread over steps, over the activities of a step, and over ranks. Does not import torch."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tinyllama.parallel.rank_progress import Activity

Value = TypeVar("Value")
AIMS = (Activity.FORWARD, Activity.REDUCTION, Activity.WRITE, Activity.COMMIT, Activity.VALIDATION)
SAVER_ACTIVITIES = (
    Activity.WRITE,
    Activity.COMMIT,
)  # of rank 0's saving thread, beside the training loop


@dataclass(frozen=True)
class RunSchedule:
    """The number of steps of a run, and how often it saves and validates."""

    total_steps: int
    save_every_steps: int
    validate_every_steps: int

    def next_with(self, activity: Activity, step: int) -> int:
        """The first step, from `step` on, that has this activity."""
        every = 1
        if activity in SAVER_ACTIVITIES:
            every = self.save_every_steps
        elif activity == Activity.VALIDATION:
            every = self.validate_every_steps
        return min(-(-step // every) * every, self.total_steps)


@dataclass(frozen=True)
class PlannedKill:
    """SIGKILL when `rank` does `aim` in `step` or later, after `fraction` of the time that this activity usually takes.

    `everyone`: all ranks are killed, as when a machine fails; otherwise only `rank`, and the others must notice.
    """

    aim: Activity
    step: int
    fraction: float
    ranks: int
    rank: int
    everyone: bool


def plan_kills(kills: int, schedule: RunSchedule, world_sizes: list[int], seed: int) -> Iterator[list[PlannedKill]]:
    """Endless iterator over runs: the kills of each, by increasing step.

    Each aim and each number of ranks is used equally often, in random order; the rest is uniformly random.
    """
    chance = random.Random(seed)
    aims, sizes = _equally_often(AIMS, chance), _equally_often(world_sizes, chance)
    while True:
        steps = sorted(chance.randint(1, schedule.total_steps) for _ in range(kills_of_a_run(kills, schedule)))
        planned = []
        for step in steps:
            aim, ranks = next(aims), next(sizes)
            rank = 0 if aim in SAVER_ACTIVITIES else chance.randrange(ranks)
            everyone = ranks == 1 or chance.random() < 0.5
            planned.append(PlannedKill(aim, schedule.next_with(aim, step), chance.random(), ranks, rank, everyone))
        yield planned


def _equally_often(values: Sequence[Value], chance: random.Random) -> Iterator[Value]:
    while True:
        yield from chance.sample(values, len(values))


def kills_of_a_run(kills: int, schedule: RunSchedule) -> int:
    """Kills per run, few enough that some steps lie between them."""
    return max(1, min(kills, schedule.total_steps // 3))
