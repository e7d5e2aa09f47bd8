"""Which rank is named, by hand; marks that survive their process."""

from pathlib import Path

import pytest

from tinyllama.parallel.heartbeat import Beat, describe
from tinyllama.parallel.rank_progress import VARIABLE, Activity, ActivityAt, ProgressFile, RankProgress

WAITING = ActivityAt(7, Activity.REDUCTION)


def beats(*rows: tuple[int, ActivityAt]) -> dict[int, Beat]:
    return {rank: Beat(*row) for rank, row in enumerate(rows)}


def test_a_silent_rank_is_named():
    behind = ActivityAt(7, Activity.FORWARD)
    before = beats((5, WAITING), (5, WAITING), (5, behind))
    after = beats((8, WAITING), (8, WAITING), (5, behind))
    assert describe(before, after, 0, 3, "the sum") == (
        "rank 2 is lost, last seen in the forward pass of step 7; rank 0 waited in the sum"
    )


def test_a_rank_that_lives_but_does_not_come_on_is_named():
    behind = ActivityAt(7, Activity.DATA)
    before = beats((5, WAITING), (5, behind), (5, WAITING))
    after = beats((8, WAITING), (8, behind), (8, WAITING))
    assert describe(before, after, 2, 3, "the sum") == (
        "rank 1 hangs in reading its micro-batch of step 7; rank 2 waited in the sum"
    )
    assert describe(before, after, 1, 3, "x") == "rank 1 hangs in reading its micro-batch of step 7"


def test_when_all_wait_the_connection_is_named():
    before, after = beats((5, WAITING), (5, WAITING)), beats((8, WAITING), (8, WAITING))
    assert describe(before, after, 0, 2, "the sum") == (
        "no rank makes progress; all are in the sum of the gradients of step 7: the ranks' connection is broken"
    )


def test_ranks_that_never_came_are_named():
    assert describe({}, beats((8, WAITING)), 0, 3, "the start") == "ranks 1, 2 never came; rank 0 waited in the start"


def test_marks_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    marks = ProgressFile(tmp_path / "marks", ranks=2)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "marks"))
    places = [RankProgress(rank) for rank in range(2)]
    assert marks.of(1) == (ActivityAt(0, Activity.START), ActivityAt(0, Activity.START))
    places[1].enter(Activity.BACKWARD, 2**40)
    places[0].enter_saver(Activity.COMMIT, 3)
    assert marks.of(1)[0] == places[1].mark == ActivityAt(2**40, Activity.BACKWARD)
    assert marks.of(0) == (ActivityAt(0, Activity.START), ActivityAt(3, Activity.COMMIT))
