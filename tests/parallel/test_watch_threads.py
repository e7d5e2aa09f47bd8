"""The watch of one rank over another, with a store in memory and beats of hundredths of a second."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from tinyllama.parallel import heartbeat
from tinyllama.parallel.heartbeat import NO_STORE, Beat, Failure, Heartbeat, describe
from tinyllama.parallel.rank_progress import VARIABLE, Activity, ActivityAt, ProgressFile, RankProgress

Make = Callable[..., Heartbeat]
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # of ends that are caught


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes watches of ranks with one store; the process does not end, what would have ended it is kept."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "GRACE_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "STORE_SECONDS", 5.0)
    store: Any = HashStore()
    made: list[Heartbeat] = []

    def one(rank: int = 0, size: int = 2, timeout_seconds: float = 60.0, own_store: Any = None) -> Heartbeat:
        made.append(Heartbeat(own_store or store, rank, size, RankProgress(rank), timeout_seconds))
        return made[-1]

    yield one
    for each in made:
        each.end()
    time.sleep(0.02)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the process would have written and how it would have ended."""
    found: list[Any] = []
    monkeypatch.setattr(heartbeat.os, "write", lambda place, text: found.append((place, text.decode())))

    def end(code: int) -> None:
        found.append(code)
        raise SystemExit  # of the thread

    monkeypatch.setattr(heartbeat.os, "_exit", end)
    return found


def wait_until(condition: Callable[[], Any]) -> None:
    ends_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.005)


class Gone:
    """A store whose host is gone after so many answers."""

    def __init__(self, answers: int) -> None:
        self.left = answers

    def _answer(self, *_: Any) -> bool:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("Connection reset")
        return False

    set = check = get = compare_set = _answer


# -- what is published -------------------------------------------------------------------------------------------------


def test_the_first_reason_counts_for_all(make: Make):
    first, second = make(0), make(1)
    assert first.look() is None
    assert second.publish("one", 3) == Failure("one", 3, True)
    assert first.publish("two", 4) == Failure("one", 3, False)
    assert first.look() == Failure("one", 3, False)
    assert second.publish("three", 5) == second.look() == Failure("one", 3, True)
    assert first.find_lost("x") == Failure("one", 3, False)


def test_what_another_rank_published_is_seen_before_one_looks_for_the_lost(make: Make):
    first, second = make(0), make(1)
    second.publish("one", 3)
    assert first.find_lost("x") == Failure("one", 3, False)


def test_a_rank_without_signs_of_life_is_lost(make: Make):
    first, second = make(0), make(1)
    second._progress.enter(Activity.DATA, 3)
    wait_until(lambda: first._beats()[1].mark == ActivityAt(3, Activity.DATA))
    second.end()
    time.sleep(0.05)
    wanted = Failure("rank 1 is lost, last seen in reading its micro-batch of step 3; rank 0 waited in x", 69, True)
    assert first.find_lost("x") == wanted


def test_a_rank_that_never_came_is_named(make: Make):
    assert make(0, size=3).find_lost("x").reason == "ranks 1, 2 never came; rank 0 waited in x"


def test_signs_of_life_are_numbered(make: Make):
    first, _ = make(0), make(1)
    before = first._beats()
    assert before.keys() == {0, 1}
    wait_until(lambda: first._beats()[1].number >= before[1].number + 2)


@pytest.mark.parametrize(("rank", "is_first"), [(0, False), (1, True), (2, False)])
def test_without_a_store_rank_1_speaks(make: Make, rank: int, is_first: bool):
    alone = make(rank, 3, own_store=Gone(1))
    assert alone.publish("why", 5) == Failure(f"{NO_STORE}; why", 5, is_first)
    other = make(rank, 3, own_store=Gone(1))
    assert other.find_lost("x") == Failure(f"{NO_STORE}; rank {rank} waited in x", 69, is_first)


def test_a_store_that_is_lost_while_signs_are_compared(make: Make):
    assert make(0, own_store=Gone(1))._describe("x") == f"{NO_STORE}; rank 0 waited in x"


# -- the end of a process ----------------------------------------------------------------------------------------------


def test_a_process_that_waits_too_long_ends(make: Make, ended: list[Any]):
    first, second = make(0), make(1)
    seen: list[Failure] = []
    first.before_exit = seen.append
    first._progress.enter(Activity.REDUCTION, 7)
    second._progress.enter(Activity.DATA, 7)
    wait_until(lambda: first._beats()[1].mark == ActivityAt(7, Activity.DATA))
    first._progress.since -= 61
    first.is_on = True
    wait_until(lambda: len(ended) == 2)
    (place, text), code = ended
    assert (place, code) == (2, 69)
    assert text.startswith("tinyllama: rank 1 hangs in reading its micro-batch of step 7; rank 0 waited in the sum of")
    assert text.endswith(
        "the gradients of step 7 for 61 seconds; run the same command to resume from the last checkpoint\n"
    )
    assert [verdict.exit_code for verdict in seen] == [69]


@pytest.mark.parametrize(("way", "seconds"), [("off", 61), ("ended", 61), ("on", 30)])
def test_a_process_goes_on_that_is_not_watched_or_has_time(make: Make, ended: list[Any], way: str, seconds: float):
    first = make(0, 1)
    if way == "ended":
        first.end()
        time.sleep(0.05)
    first._progress.since -= seconds
    first.is_on = way != "off"
    time.sleep(0.2)
    assert ended == []
    assert first.failure is None


@pytest.mark.parametrize(("rank", "speaks"), [(0, True), (1, True), (2, False)])
def test_all_leave_with_the_first_reason(make: Make, ended: list[Any], rank: int, speaks: bool):
    """Rank 1 found it out: it and rank 0 say so."""
    watches = [make(number, 3) for number in range(3)]
    watches[1].publish("no more", 75)
    watches[rank].is_on = True
    wait_until(lambda: 75 in ended)
    assert [text for text in ended if text != 75] == (
        [(2, "tinyllama: no more; run the same command to resume from the last checkpoint\n")] if speaks else []
    )


def test_a_main_thread_that_leaves_by_itself_is_left_alone(
    make: Make, ended: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(heartbeat, "GRACE_SECONDS", 5.0)
    first = make(0)
    leaving = threading.Thread(target=first._leave, args=(Failure("x", 3, True),))
    leaving.start()
    first.end()
    leaving.join(2)
    assert not leaving.is_alive()
    assert ended == []


def test_a_store_that_answers_no_more_is_a_lost_rank(make: Make, ended: list[Any]):
    alone = make(1, 2, own_store=Gone(3))
    alone.is_on = True
    wait_until(lambda: 69 in ended)
    assert alone.failure == Failure(f"{NO_STORE}; rank 1 was in the start", 69, True)


def test_failures_are_counted_in_a_row(make: Make, ended: list[Any]):
    """Two of three answers fail, for long: no loss."""

    class Shaky(Gone):
        def _answer(self, *_: Any) -> bool:
            self.left -= 1
            if self.left < 0 and self.left % 12 < 3:
                raise RuntimeError("Connection reset")
            return False

        set = check = get = compare_set = _answer

    alone = make(1, 2, own_store=Shaky(1))
    alone.is_on = True
    time.sleep(0.4)
    assert ended == []
    assert alone.failure is None


# -- who is named ------------------------------------------------------------------------------------------------------

AT, BEHIND = ActivityAt(7, Activity.REDUCTION), ActivityAt(7, Activity.FORWARD)


@pytest.mark.parametrize(
    ("before", "after", "rank", "expected"),
    [
        # several silent ones, at several places, sorted
        (
            [(1, AT), (1, AT), (1, BEHIND)], [(2, AT), (1, AT), (1, BEHIND)], 0,
            "ranks 1, 2 is lost, last seen in the forward pass of step 7, the sum of the gradients of step 7; "
            "rank 0 waited in x",
        ),
        # the one who asks is never silent, whatever its own sign says
        ([(1, AT), (1, BEHIND)], [(1, AT), (2, BEHIND)], 0,
         "rank 1 hangs in the forward pass of step 7; rank 0 waited in x"),
        # silence goes before being behind
        ([(1, BEHIND), (1, AT), (1, AT)], [(2, BEHIND), (2, AT), (1, AT)], 0,
         "rank 2 is lost, last seen in the sum of the gradients of step 7; rank 0 waited in x"),
        # who came only at the second look is not silent
        ([(1, AT)], [(2, AT), (1, BEHIND)], 0, "rank 1 hangs in the forward pass of step 7; rank 0 waited in x"),
        # a later step is further, at whatever place
        ([(1, AT), (1, ActivityAt(8, Activity.START))], [(2, AT), (2, ActivityAt(8, Activity.START))], 1,
         "rank 0 hangs in the sum of the gradients of step 7; rank 1 waited in x"),
        # all but one are behind, itself among them
        ([(1, BEHIND), (1, BEHIND), (1, AT)], [(2, BEHIND), (2, BEHIND), (2, AT)], 0,
         "ranks 0, 1 hangs in the forward pass of step 7; rank 0 waited in x"),
    ],
)  # fmt: skip
def test_who_is_named(before: list[Any], after: list[Any], rank: int, expected: str):
    looks = [{number: Beat(*row) for number, row in enumerate(rows)} for rows in (before, after)]
    assert describe(looks[0], looks[1], rank, len(after), "x") == expected


def test_one_that_never_came_goes_before_silent_ones():
    looks = {0: Beat(1, AT), 1: Beat(1, AT)}
    assert describe(looks, looks, 0, 3, "x") == "rank 2 never came; rank 0 waited in x"


# -- places ------------------------------------------------------------------------------------------------------------


def test_places_in_words_and_in_order():
    assert [place.words for place in Activity] == [
        "the start", "reading its micro-batch", "the forward pass", "the backward pass", "the sum of the gradients",
        "the update", "recording metrics", "validation", "saving", "writing the checkpoint", "committing the checkpoint",
        "the end",
    ]  # fmt: skip
    assert [int(place) for place in Activity] == list(range(12))
    assert ActivityAt(0, Activity.SAVE).words == "saving"
    assert ActivityAt(1, Activity.SAVE).words == "saving of step 1"


def test_since_when_a_rank_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    place = RankProgress()
    place.since = 0.0
    place.stay()
    assert abs(place.since - time.monotonic()) < 1
    assert place.mark == ActivityAt(0, Activity.START)
    place.since = 0.0
    place.enter_saver(Activity.WRITE, 3)  # of another thread: the loop's mark stays
    assert (place.since, place.mark) == (0.0, ActivityAt(0, Activity.START))
    place.enter(Activity.DATA, 3)
    assert abs(place.since - time.monotonic()) < 1


def test_marks_of_three_ranks_lie_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    marks = ProgressFile(tmp_path / "marks", ranks=3)
    assert (tmp_path / "marks").stat().st_size == 3 * 2 * 8
    monkeypatch.setenv(VARIABLE, str(tmp_path / "marks"))
    places = [RankProgress(rank) for rank in range(3)]
    for rank, place in enumerate(places):
        place.enter(Activity(rank + 1), 10 + rank)
        place.enter_saver(Activity(rank + 5), 20 + rank)
    for rank in range(3):
        assert marks.of(rank) == (ActivityAt(10 + rank, Activity(rank + 1)), ActivityAt(20 + rank, Activity(rank + 5)))
