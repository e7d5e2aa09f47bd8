"""The processes that train one network together, seen from one of them; a run of one process is a rank of its own."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

from tinyllama import errors
from tinyllama.errors import LostRankError, RecipeError, TinyllamaError
from tinyllama.parallel.heartbeat import Heartbeat, Store
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.rank_progress import Activity, RankProgress
from tinyllama.parallel.reductions import tree_sum

POLL_SECONDS = 0.01


class Ranks:
    """Rank `rank` of `size`. What ranks tell each other goes through a common store as JSON, tensors through collectives.

    Whoever waits for a rank that is gone gets LostRankError.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Store | None = None,
        timeout_seconds: float = 600.0, parallel: ParallelConfig | None = None,
    ) -> None:  # fmt: skip
        """`parallel`: default a copy of the network on each rank."""
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.parallel = parallel or ParallelConfig(replicate=size)
        self.mesh = RankMesh(self.parallel, rank)
        self.progress = RankProgress(rank)
        self._store, self._timeout_seconds = store, timeout_seconds
        self.heartbeat: Heartbeat | None = None
        self._said = 0  # how many things rank 0 has told the others
        self.requests: Callable[[], list[float]] = list  # what this rank asks of all, counted in each step's sums
        if store is not None:
            self.heartbeat = Heartbeat(store.clone(), rank, size, self.progress, timeout_seconds)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    @property
    def data_rank(self) -> int:
        """Number of this rank among the `data_size` that have micro-batches of their own."""
        return self.parallel.data_rank(self.rank)

    @property
    def data_size(self) -> int:
        return self.parallel.data_ranks

    # -- telling each other --------------------------------------------------------------------------------------------

    def on_rank_0(self, work: Callable[[], Any]) -> Any:
        """What `work` returns on rank 0, JSON values, on every rank; the others wait. Faults of the user are shared too."""
        if self.is_alone:
            return work()
        self._said += 1
        key = f"said/{self._said}"
        if not self.is_first:
            return _unwrapped(json.loads(self._wait_for(key)))
        try:
            value = work()
        except TinyllamaError as error:
            self._put(key, {"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
            raise
        self._put(key, {"value": value})
        return value

    def gather(self, value: Any) -> list[Any]:
        """What every rank says, JSON values, by rank; for small things and few of them, all stay in the store."""
        if self.is_alone:
            return [value]
        self._said += 1
        self._put(f"told/{self._said}/{self.rank}", value)
        return [json.loads(self._wait_for(f"told/{self._said}/{rank}")) for rank in range(self.size)]

    def call(self, words: list[str]) -> None:
        """Of rank 0: call the others to work, with some words."""
        self._put("call", words)

    def await_call(self) -> list[str] | None:
        """Of the others: the words with which rank 0 calls, however late; None when it left without a call.

        Raises what made it leave: LostRankError for its crash, RunStoppedError for a fault that it names itself.
        """
        try:
            return json.loads(self._wait_for("call", unless="left/0"))
        except KeyError:
            return None

    def check_equal(self, name: str, facts: dict[str, Any]) -> None:
        """Hold every rank's facts against rank 0's. Raises RecipeError that names rank, fact and both values."""
        if self.is_alone:
            return
        self._put(f"{name}/{self.rank}", facts)
        theirs = [json.loads(self._wait_for(f"{name}/{rank}")) for rank in range(self.size)]
        for rank, other in enumerate(theirs):
            if "error" in other:
                raise RecipeError(f"rank {rank}: {other['error']}")
            for key, value in other.items():
                if value != theirs[0].get(key):
                    raise RecipeError(f"rank {rank}: its {key} is {value}, rank 0's is {theirs[0].get(key)}")

    def on_all_ranks(self, name: str, begin: Callable[[], dict[str, Any] | None]) -> None:
        """Let every rank begin its work; a fault of one is every rank's. `begin` returns facts on which all must agree."""
        try:
            facts = begin()
        except TinyllamaError as error:
            if not self.is_alone:
                self._put(f"{name}/{self.rank}", {"error": str(error)})
            raise
        self.check_equal(name, facts or {})

    def _put(self, key: str, value: Any) -> None:
        assert self._store is not None
        self._store.set(key, json.dumps(value))

    def _wait_for(self, key: str, unless: str = "") -> bytes:
        """A value of the store, as soon as it is there. Raises KeyError when `unless` comes before it."""
        assert self._store is not None
        assert self.heartbeat is not None
        try:
            while not self._store.check([key]):
                is_too_late = bool(unless) and self._store.check([unless])
                if self.heartbeat.look() is not None:  # whoever leaves for a reason has said so before
                    raise self._lost(f"what {key} says")
                if is_too_late and not self._store.check([key]):
                    raise KeyError(key)
                time.sleep(POLL_SECONDS)
            return self._store.get(key)
        except RuntimeError:
            raise self._lost(f"what {key} says") from None

    # -- tensors -------------------------------------------------------------------------------------------------------

    def connect(self, device: torch.device) -> None:
        """Join the ranks' collectives: gloo on CPUs, nccl on GPUs. From now on a lack of progress counts."""
        if self.is_alone or dist.is_initialized():
            return
        assert self._store is not None
        assert self.heartbeat is not None
        self.heartbeat.is_on = True
        with self.waiting("the ranks' connection"):
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore("collectives", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=2 * self._timeout_seconds + 60),  # the watch is earlier
                device_id=device if device.type == "cuda" else None,
            )
            self.mesh.connect(device)

    def stop_watching(self) -> None:
        """What comes now is no work of all ranks: no progress is looked for."""
        self.progress.enter(Activity.END, self.progress.mark.step)
        if self.heartbeat is not None:
            self.heartbeat.is_on = False

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Give rank 0's values to all, in place."""
        if self.is_alone:
            return
        with self.waiting("rank 0's state"):
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a small tensor over the ranks, in place."""
        if not self.is_alone:
            with self.waiting():
                dist.all_reduce(tensor)
        return tensor

    def tree_sum(self, tensors: list[Tensor]) -> None:
        """Sums over the ranks, in place, in an order that no number of ranks changes."""
        if not self.is_alone:
            with self.waiting():
                tree_sum(tensors, self.size)

    @contextmanager
    def waiting(self, waited_for: str = "", *, with_work: bool = False) -> Iterator[None]:
        """Around what waits for other ranks: their loss becomes LostRankError. `waited_for`: default where this rank is.
        Nothing of one process.

        `with_work`: there is work in it too, whose own errors stay what they are.
        """
        try:
            yield
        except RuntimeError as error:  # what torch.distributed and gloo raise when a connection ends
            is_own = isinstance(error, torch.OutOfMemoryError) or (with_work and not _is_of_connection(error))
            if is_own or self.is_alone:
                raise
            raise self._lost(waited_for or self.progress.mark.words) from error

    def _lost(self, waited_for: str) -> LostRankError:
        assert self.heartbeat is not None
        failure = self.heartbeat.find_lost(waited_for)
        return LostRankError(
            f"{failure.reason}; the same command goes on from the last checkpoint", failure.exit_code, failure.is_first
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, error: BaseException | None = None) -> None:
        """Part from the other ranks; with an error, say why, so that they need not find out."""
        if self.heartbeat is None or self._store is None:
            return
        if error is not None and not isinstance(error, LostRankError):
            is_ours = isinstance(error, TinyllamaError)
            reason = str(error) if is_ours else f"{type(error).__name__}: {error}"
            code = error.exit_code if isinstance(error, TinyllamaError) else errors.LOST_RANK_EXIT_CODE
            self.heartbeat.publish(f"rank {self.rank} stopped: {reason}", code)
        self.heartbeat.end()
        if error is None and dist.is_initialized():
            dist.destroy_process_group()
        self._see_others_off(10.0 if error is None else 2.0)

    def _see_others_off(self, seconds: float) -> None:
        """The store that rank 0 keeps must stand until the others have read in it."""
        assert self._store is not None
        try:
            self._store.set(f"left/{self.rank}", "")
            if not self.is_first or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                return
            ends_at = time.monotonic() + seconds
            keys = [f"left/{rank}" for rank in range(self.size)]
            while time.monotonic() < ends_at and not self._store.check(keys):
                time.sleep(POLL_SECONDS)
        except RuntimeError:
            return


def _is_of_connection(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that of a collective; gloo's have no type of their own."""
    while error is not None:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo/", "NCCL", "onnection ")):
            return True
        error = error.__cause__
    return False


def _unwrapped(said: dict[str, Any]) -> Any:
    if "error" not in said:
        return said["value"]
    kind = getattr(errors, said["error"])
    if issubclass(kind, errors.RunStoppedError):
        raise kind(said["message"], said["exit_code"])
    raise kind(said["message"])


ALONE = Ranks()
