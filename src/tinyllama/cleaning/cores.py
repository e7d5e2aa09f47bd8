"""How many processes may work at the same time."""

import os


def worker_count(asked: int) -> int:
    """`asked`, or for 0 the cores that this process may use (a container or `taskset` may leave it fewer than there are)."""
    return asked or len(os.sched_getaffinity(0))
