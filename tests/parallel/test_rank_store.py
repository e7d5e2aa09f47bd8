"""What two ranks tell each other, on threads of one process with one store; and how a run of one ends."""

import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from tinyllama.errors import InputError, LostRankError, RecipeError, RunStoppedError
from tinyllama.parallel import heartbeat, launch, ranks
from tinyllama.parallel.launch import Launched, launched
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.rank_progress import Activity
from tinyllama.parallel.ranks import Ranks, _is_of_connection

Pair = tuple[Ranks, Ranks]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ranks 0 and 1 of two, whose watch is fast."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.03)
    store: Any = HashStore()
    found = Ranks(0, 2, 0, store, 60.0), Ranks(1, 2, 1, store, 60.0)
    yield found
    for rank in found:
        assert rank.heartbeat is not None
        rank.heartbeat.end()


def both(first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """What each gives or raises, the second one begun first."""
    with ThreadPoolExecutor(2) as pool:
        later: Future[Any] = pool.submit(second)
        futures = [pool.submit(first), later]
        return [future.exception(10) or future.result() for future in futures]


def never() -> Any:
    raise AssertionError("only rank 0 does this")


def test_a_rank_alone_asks_nobody():
    alone = Ranks()
    assert (alone.is_first, alone.is_alone, alone.size, alone.data_rank, alone.data_size) == (True, True, 1, 0, 1)
    assert alone.on_rank_0(lambda: 3) == 3
    assert alone.gather(4) == [4]
    alone.check_equal("x", {"a": 1})
    alone.on_all_ranks("x", lambda: {"a": 1})
    alone.broadcast([torch.ones(1)])
    assert alone.sum(torch.ones(2)).tolist() == [1, 1]
    alone.tree_sum([torch.ones(1)])
    alone.connect(torch.device("cpu"))
    assert not dist.is_initialized()
    alone.close()
    assert alone.requests() == []


def test_places_in_the_layout():
    first = Ranks(5, 8, parallel=ParallelConfig(replicate=2, shard=2, tensor=2))
    assert (first.data_rank, first.data_size, first.is_first, first.is_alone) == (2, 4, False, False)
    assert (Ranks(3, 4).data_rank, Ranks(3, 4).data_size) == (3, 4)


def test_what_rank_0_does_is_known_to_all_in_turn(pair: Pair):
    for value in ([1], {"a": None}, "b"):
        assert (
            both(lambda value=value: pair[0].on_rank_0(lambda: value), lambda: pair[1].on_rank_0(never)) == [value] * 2
        )


@pytest.mark.parametrize("error", [RecipeError("r"), InputError("i"), RunStoppedError("s", 75)])
def test_a_fault_of_rank_0_is_every_rank_s(pair: Pair, error: Any):
    def fail() -> None:
        raise error

    first, second = both(lambda: pair[0].on_rank_0(fail), lambda: pair[1].on_rank_0(never))
    assert first is error
    assert type(second) is type(error)
    assert (str(second), second.exit_code) == (str(error), error.exit_code)


def test_what_ranks_say_is_gathered_by_rank(pair: Pair):
    for values in (("a", "b"), (1, [2])):
        found = both(lambda v=values: pair[0].gather(v[0]), lambda v=values: pair[1].gather(v[1]))
        assert found == [list(values)] * 2


def test_a_call_is_waited_for_and_words_come_with_it(pair: Pair):
    assert both(lambda: pair[0].call(["x", "y"]), pair[1].await_call) == [None, ["x", "y"]]


def test_a_call_that_does_not_come(pair: Pair):
    def leave() -> None:
        pair[0]._put("left/0", "")

    assert both(leave, pair[1].await_call) == [None, None]


def test_ranks_agree_or_the_first_difference_is_named(pair: Pair):
    facts = {"a": 1, "b": 2}
    assert both(lambda: pair[0].check_equal("one", facts), lambda: pair[1].check_equal("one", dict(facts))) == [
        None,
        None,
    ]
    found = both(lambda: pair[0].check_equal("two", facts), lambda: pair[1].check_equal("two", facts | {"b": 3}))
    assert [str(error) for error in found] == ["rank 1: its b is 3, rank 0's is 2"] * 2
    found = both(
        lambda: pair[0].on_all_ranks("three", lambda: facts), lambda: pair[1].on_all_ranks("three", lambda: None)
    )
    assert found == [None, None], "no facts, nothing to differ in"
    more = both(lambda: pair[0].check_equal("four", {}), lambda: pair[1].check_equal("four", {"a": 1}))
    assert [str(error) for error in more] == ["rank 1: its a is 1, rank 0's is None"] * 2


def test_a_rank_that_cannot_begin_is_named_by_all(pair: Pair):
    def fail() -> dict[str, Any]:
        raise InputError("no file")

    first, second = both(lambda: pair[0].on_all_ranks("begin", dict), lambda: pair[1].on_all_ranks("begin", fail))
    assert (type(first), str(first)) == (RecipeError, "rank 1: no file")
    assert (type(second), str(second)) == (InputError, "no file")


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (RecipeError("bad"), "rank 1 stopped: bad", 2),
        (RunStoppedError("enough", 75), "rank 1 stopped: enough", 75),
        (ValueError("what"), "rank 1 stopped: ValueError: what", 69),
        (KeyboardInterrupt(), "rank 1 stopped: KeyboardInterrupt: ", 69),
    ],
)
def test_who_leaves_with_an_error_says_why(pair: Pair, error: BaseException, reason: str, code: int):
    pair[1].close(error)
    with pytest.raises(LostRankError) as caught:
        pair[0]._wait_for("something")
    assert str(caught.value) == f"{reason}; run the same command to resume from the last checkpoint"
    assert (caught.value.exit_code, caught.value.is_first) == (code, False)


def test_who_was_lost_to_others_says_nothing_new(pair: Pair):
    pair[1].close(LostRankError("rank 0 is gone"))
    assert pair[0].heartbeat is not None
    assert pair[0].heartbeat.look() is None


def test_rank_0_keeps_its_store_until_all_have_left(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    leaving = threading.Thread(target=pair[0].close)
    leaving.start()
    leaving.join(0.2)
    assert leaving.is_alive()
    pair[1].close()
    leaving.join(5)
    assert not leaving.is_alive()


@pytest.mark.parametrize(("agent", "waits"), [("True", False), ("False", True), (None, True)])
def test_rank_0_does_not_wait_where_torchrun_keeps_the_store(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, agent: str | None, waits: bool
):
    if agent is not None:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", agent)
    sleeps: list[float] = []
    monkeypatch.setattr(ranks.time, "sleep", sleeps.append)
    pair[0]._see_others_off(0.05)
    assert bool(sleeps) == waits
    sleeps.clear()
    pair[1]._see_others_off(60)
    assert not sleeps


def test_what_comes_last_is_not_watched(pair: Pair):
    assert pair[0].heartbeat is not None
    pair[0].heartbeat.is_on = True
    pair[0].progress.enter(Activity.SAVE, 9)
    pair[0].stop_watching()
    assert not pair[0].heartbeat.is_on
    assert pair[0].progress.mark == (9, Activity.END)


# -- errors of collectives ---------------------------------------------------------------------------------------------


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_of_connection"),
    [
        (RuntimeError("[..gloo/transport/tcp/pair.cc:544] closed"), True),
        (RuntimeError("NCCL error"), True),
        (RuntimeError("Connection reset"), True),
        (dist.DistBackendError("x"), True),
        (raised(RuntimeError("pipeline"), RuntimeError("Connection closed")), True),
        (raised(RuntimeError("pipeline"), RuntimeError("shapes")), False),
        (RuntimeError("size mismatch"), False),
        (None, False),
    ],
)
def test_errors_of_a_connection(error: BaseException | None, is_of_connection: bool):
    assert _is_of_connection(error) == is_of_connection


@pytest.mark.parametrize(
    ("error", "with_work", "becomes_loss"),
    [
        (RuntimeError("anything"), False, True),
        (RuntimeError("size mismatch"), True, False),
        (RuntimeError("Connection reset"), True, True),
        (torch.OutOfMemoryError("gloo/"), False, False),
        (torch.OutOfMemoryError("gloo/"), True, False),
        (ValueError("x"), False, False),
    ],
)
def test_only_a_collective_s_error_is_a_lost_rank(pair: Pair, error: Exception, with_work: bool, becomes_loss: bool):
    pair[0].progress.enter(Activity.REDUCTION, 4)
    with pytest.raises(LostRankError if becomes_loss else type(error)) as caught, pair[0].waiting(with_work=with_work):
        raise error
    if becomes_loss:
        assert "the sum of the gradients of step 4" in str(caught.value)


def test_what_was_waited_for_is_said(pair: Pair):
    assert pair[1].heartbeat is not None
    pair[1].heartbeat.end()  # gives no more signs of life
    with (
        pytest.raises(LostRankError, match=r"rank 1 is lost, last seen in the start; rank 0 waited in the sums;"),
        pair[0].waiting("the sums"),
    ):
        raise RuntimeError


# -- how a process finds its ranks -------------------------------------------------------------------------------------


def environment(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    whole = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, text in (whole | changes).items():
        monkeypatch.setenv(key, text)


def test_places_that_the_launcher_gives(monkeypatch: pytest.MonkeyPatch):
    environment(monkeypatch, RANK="0", LOCAL_RANK="1")
    assert launched() == Launched(0, 2, 1)
    environment(monkeypatch, RANK="5", WORLD_SIZE="6", LOCAL_RANK="1")
    assert launched() == Launched(5, 6, 1)
    environment(monkeypatch, WORLD_SIZE="1", RANK="x")
    assert launched() == Launched(0, 1, 0)
    for key, value in (("RANK", "-1"), ("LOCAL_RANK", "y"), ("WORLD_SIZE", "z")):
        environment(monkeypatch, RANK="0", LOCAL_RANK="0")
        monkeypatch.setenv(key, value)
        with pytest.raises(RecipeError, match="environment: "):
            launched()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment(monkeypatch, RANK="0", LOCAL_RANK="0")
        monkeypatch.delenv(name)
        with pytest.raises(RecipeError, match=f"WORLD_SIZE is set but {name} is not"):
            launched()


def test_another_number_of_processes_is_refused_with_the_product(monkeypatch: pytest.MonkeyPatch):
    environment(monkeypatch, WORLD_SIZE="3")
    with (
        pytest.raises(
            RecipeError,
            match=r"^parallel: the layout has 12 ranks \(replicate x shard x tensor x pipeline = 1 x 2 x 3 x 2 = 12\), but "
            r"3 processes were started; .*-node 12 .* parallel\.replicate=3 and 1 on the other axes takes",
        ),
        launch.join(ParallelConfig(shard=2, tensor=3, pipeline=2)),
    ):
        pass


def test_every_start_of_torchrun_has_a_store_of_its_own(monkeypatch: pytest.MonkeyPatch):
    common = HashStore()
    asked: list[Any] = []

    def meet(url: str, timeout: Any) -> Any:
        asked.append((url, timeout.total_seconds()))
        return iter([(common, 0, 2)])

    monkeypatch.setattr(sys.modules["torch.distributed.rendezvous"], "rendezvous", meet)
    launch._store(7.0).set("a", "1")
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        assert launch._store(7.0).check(["a"]) == (count == "0")
    assert asked == [("env://", 7.0)] * 3


def test_ranks_that_do_not_all_come_are_lost(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("timed out\nat a place")

    monkeypatch.setattr(sys.modules["torch.distributed.rendezvous"], "rendezvous", fail)
    environment(monkeypatch, MASTER_PORT="29")
    with pytest.raises(LostRankError, match=r"did not all come to 127\.0\.0\.1:29 \(timed out\)$") as caught:
        launch._store(1.0)
    assert (caught.value.exit_code, caught.value.is_first) == (69, True)


def test_join_parts_from_the_others_whatever_happens(monkeypatch: pytest.MonkeyPatch):
    left: list[Any] = []
    monkeypatch.setattr(launch, "_store", lambda _: HashStore())
    monkeypatch.setattr(Ranks, "close", lambda self, error=None: left.append(error))
    environment(monkeypatch, RANK="1", LOCAL_RANK="3")
    with launch.join(ParallelConfig(replicate=2, timeout_seconds=9)) as found:
        assert found is not None
        assert (found.rank, found.size, found.local_rank, found._timeout_seconds) == (1, 2, 3, 9)
        assert found.heartbeat is not None
        found.heartbeat.end()
    error = KeyError("x")
    with pytest.raises(KeyError), launch.join(ParallelConfig(replicate=2)) as found:  # noqa: PT012
        assert found is not None
        assert found.heartbeat is not None
        found.heartbeat.end()
        raise error
    assert left == [None, error]
    for name in launch.VARIABLES:
        monkeypatch.delenv(name)
    with launch.join(ParallelConfig()) as found:
        assert found is None


def test_values_in_the_store_are_json(pair: Pair):
    pair[0]._put("key", {"a": [1, None]})
    assert json.loads(pair[1]._wait_for("key")) == {"a": [1, None]}
