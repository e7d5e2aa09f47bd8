"""The processes that train one network, as one of them sees them; a single process is rank 0 of 1."""

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
    """Rank `rank` of `size`. Ranks exchange JSON through a common store and tensors through collectives.

    Waiting for a rank that is gone raises LostRankError.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Store | None = None,
        timeout_seconds: float = 600.0, parallel: ParallelConfig | None = None,
    ) -> None:  # fmt: skip
        """`parallel`: default a replica of the network on each rank."""
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.parallel = parallel or ParallelConfig(replicate=size)
        self.mesh = RankMesh(self.parallel, rank)
        self.progress = RankProgress(rank)
        self._store, self._timeout_seconds = store, timeout_seconds
        self.heartbeat: Heartbeat | None = None
        self._said = 0  # how many messages were exchanged through the store
        self.requests: Callable[[], list[float]] = (
            list  # what this rank asks all ranks to do, summed with each step's totals
        )
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
        """What `work` returns on rank 0, JSON values, on every rank; the others wait. A TinyllamaError is raised on all."""
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
        """Every rank's value (JSON), by rank; for few and small ones, as all stay in the store."""
        if self.is_alone:
            return [value]
        self._said += 1
        self._put(f"told/{self._said}/{self.rank}", value)
        return [json.loads(self._wait_for(f"told/{self._said}/{rank}")) for rank in range(self.size)]

    def call(self, words: list[str]) -> None:
        """On rank 0: send words to the others, which wait in `await_call`."""
        self._put("call", words)

    def await_call(self) -> list[str] | None:
        """On the others: the words that rank 0 sends, however late; None when it ended without a call.

        Raises what ended it: LostRankError for a crash, RunStoppedError for an error that it reports itself.
        """
        try:
            return json.loads(self._wait_for("call", unless="left/0"))
        except KeyError:
            return None

    def check_equal(self, name: str, facts: dict[str, Any]) -> None:
        """Compare every rank's facts with rank 0's. Raises RecipeError that names rank, fact and both values."""
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
        """Run `begin` on every rank; an error of one is raised on all. It returns facts that must be equal on all ranks."""
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
        """Wait for a value of the store. Raises KeyError when `unless` is set before it."""
        assert self._store is not None
        assert self.heartbeat is not None
        try:
            while not self._store.check([key]):
                is_too_late = bool(unless) and self._store.check([unless])
                if self.heartbeat.look() is not None:  # a rank that ends for a reason has published it before
                    raise self._lost(f"what {key} says")
                if is_too_late and not self._store.check([key]):
                    raise KeyError(key)
                time.sleep(POLL_SECONDS)
            return self._store.get(key)
        except RuntimeError:
            raise self._lost(f"what {key} says") from None

    # -- tensors -------------------------------------------------------------------------------------------------------

    def connect(self, device: torch.device) -> None:
        """Initialise the collectives: gloo on CPUs, nccl on GPUs. From now on a lack of progress counts."""
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
                timeout=timedelta(seconds=2 * self._timeout_seconds + 60),  # the heartbeat is earlier
                device_id=device if device.type == "cuda" else None,
            )
            self.mesh.connect(device)

    def stop_watching(self) -> None:
        """Progress is no longer checked: what follows is not the work of all ranks."""
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
        """Sums over the ranks, in place, in an order that does not depend on their number."""
        if not self.is_alone:
            with self.waiting():
                tree_sum(tensors, self.size)

    @contextmanager
    def waiting(self, waited_for: str = "", *, with_work: bool = False) -> Iterator[None]:
        """A context that waits for other ranks: losing one raises LostRankError. `waited_for`: default this rank's activity.

        `with_work`: the context computes too, and the errors of that are raised unchanged.
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
            f"{failure.reason}; run the same command to resume from the last checkpoint",
            failure.exit_code,
            failure.is_first,
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, error: BaseException | None = None) -> None:
        """Leave the other ranks; with an error, publish the reason, so that they need not detect it."""
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
        """Rank 0 hosts the store until the others have read it."""
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
    """Whether an error, or its cause, comes from a collective; gloo's errors have no type of their own."""
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
