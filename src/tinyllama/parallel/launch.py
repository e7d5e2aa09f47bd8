"""How a process finds its ranks: alone, or by what torchrun says in the environment (VARIABLES, and LOCAL_RANK).

torch is imported where there are several ranks, and not before.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyllama.errors import LOST_RANK_EXIT_CODE, LostRankError, RecipeError
from tinyllama.parallel.layout import AXES, ParallelConfig

if TYPE_CHECKING:
    from tinyllama.parallel.ranks import Ranks

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Launched(NamedTuple):
    """What the launcher says of this process."""

    rank: int
    world_size: int
    local_rank: int


def launched() -> Launched:
    """Raises RecipeError when the environment is only half that of a launcher."""
    if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return Launched(0, 1, 0)
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise RecipeError(f"environment: WORLD_SIZE is set but {missing[0]} is not; torchrun sets all of them")
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise RecipeError(f"environment: RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers ({error})") from None
    if not 0 <= rank < size:
        raise RecipeError(f"environment: RANK {rank} is outside WORLD_SIZE {size}")
    return Launched(rank, size, local_rank)


def _wrong_number(parallel: ParallelConfig, started: int) -> RecipeError:
    wanted = parallel.world_size
    key, product, others = "parallel.replicate", "", ""
    if parallel.is_model_parallel:
        sizes = _product([getattr(parallel, axis) for axis in AXES])
        key, product, others = (
            "parallel",
            f" (replicate x shard x tensor x pipeline = {sizes})",
            " and 1 on the other axes",
        )
    return RecipeError(
        f"{key}: the layout has {wanted} rank{'s' * (wanted > 1)}{product}, but {started} "
        f"process{'es were' if started > 1 else ' was'} started; `torchrun --nproc-per-node {wanted} -m tinyllama "
        f"pretrain ...` starts as many, or parallel.replicate={started}{others} takes those that are there"
    )


@contextmanager
def join(parallel: ParallelConfig) -> Iterator["Ranks | None"]:
    """The ranks of this run, while it works; None for a process alone.

    Raises RecipeError when the launcher started another number of processes than the recipe's layout has.
    """
    found = launched()
    if found.world_size != parallel.world_size:
        raise _wrong_number(parallel, found.world_size)
    if found.world_size == 1:
        yield None
        return
    from tinyllama.parallel.ranks import Ranks

    ranks = Ranks(*found, _store(parallel.timeout_seconds), parallel.timeout_seconds, parallel)
    try:
        yield ranks
    except BaseException as error:
        ranks.close(error)
        raise
    ranks.close()


def _product(sizes: list[int]) -> str:
    return f"{' x '.join(map(str, sizes))} = {math.prod(sizes)}"


def _store(timeout_seconds: float) -> Any:
    """The ranks' common store: torchrun's, or else rank 0's."""
    from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_seconds)))
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise LostRankError(f"the ranks did not all come to {where} ({reason})", LOST_RANK_EXIT_CODE, True) from None
    # torchrun's own store outlives its restarts: what ranks said before must not count again.
    return PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
