"""Connected components of near-duplicate pairs: by SciPy while the pairs fit in memory, else out of core in rounds.

The rounds are large-star and small-star (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond"). Both link
all neighbours of a node to the smallest of them: large-star the neighbours larger than the node, small-star the others and
the node itself. Repeated, they turn every component into a star around its smallest node. All edges of a node are in one
range, so a half round is one task per range, which writes the edges of the next half round by range.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tinyllama.dedup import hash_records
from tinyllama.workers.worker_pool import results
from tinyllama.workers.worker_process import Progress

EDGE_BYTES = 96  # peak memory of SciPy's algorithm per edge, measured in benchmarks/clean_memory.py
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MAX_ROUNDS = 100  # proven bound: log(nodes) squared; a handful in practice

Edges = NDArray[np.int64]  # shape (edges, 2)


def read_edges(paths: Iterable[str | Path]) -> Edges:
    """The edges of several files: shape (edges, 2)."""
    return np.concatenate([np.zeros((0, 2), np.int64), *(hash_records.read_array(Path(path)) for path in paths)])


def components_in_memory(edges: Edges) -> Edges:
    """(node, smallest node of its component) for every node that has an edge, sorted by node: shape (nodes, 2)."""
    nodes, indices = np.unique(edges, return_inverse=True)
    if not nodes.size:
        return np.zeros((0, 2), np.int64)
    ends = indices.reshape(-1, 2).astype(np.int32 if nodes.size < 1 << 31 else np.int64)
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(nodes.size, nodes.size))
    labels = connected_components(graph, directed=False)[1]
    smallest = np.full(labels.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, labels, nodes)
    return np.stack([nodes, smallest[labels]], axis=1)


def large_star(edges: Edges) -> Edges:
    """Edges (v, m) for each (u, v) with v > u; m is the smallest of u and its neighbours. `edges` has both directions."""
    edges, smallest = _smallest_neighbours(edges)
    larger = edges[:, 1] > edges[:, 0]
    return _distinct(np.stack([edges[larger, 1], smallest[larger]], axis=1))


def small_star(edges: Edges) -> Edges:
    """Edges (v, m) and (u, m) for each (u, v), where all v < u; m is the smallest of them."""
    edges, smallest = _smallest_neighbours(edges)
    linked = np.concatenate([np.stack([edges[:, end], smallest], axis=1) for end in (0, 1)])
    return _distinct(linked[linked[:, 0] != linked[:, 1]])


def _smallest_neighbours(edges: Edges) -> tuple[Edges, NDArray[np.int64]]:
    """The edges sorted by their first node, and for each the smallest of that node and its neighbours."""
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    starts = np.flatnonzero(np.diff(edges[:, 0], prepend=-1))
    sizes = np.diff(np.append(starts, len(edges)))
    return edges, np.repeat(np.minimum(edges[starts, 1], edges[starts, 0]), sizes)


def _distinct(edges: Edges) -> Edges:
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    new = np.ones(len(edges), bool)
    new[1:] = np.any(edges[1:] != edges[:-1], axis=1)
    return edges[new]


def star_task(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Task: half a round on one range of nodes.

    `inputs`: files of edges; `out`: folder for its edges, in one file `name` for each of `ranges` ranges; `step`:
    `spread` (no change), `large` or `small`. The last small step leaves (node, root).
    """
    step = {"spread": _distinct, "large": large_star, "small": small_star}[task["step"]]
    larger_first = edges = np.sort(step(read_edges(task["inputs"])), axis=1)[:, ::-1]
    if task["step"] == "small":  # the next half round is large-star, which needs both directions
        edges = np.concatenate([larger_first, larger_first[:, ::-1]])
    owners = range_of(edges[:, 0], task["ranges"])
    for number in range(task["ranges"]):
        hash_records.write_array(Path(task["out"]) / f"{number:05d}" / task["name"], edges[owners == number])
    return {"edges": len(larger_first), "digest": _digest(larger_first)}


def range_of(nodes: NDArray[np.int64], ranges: int) -> NDArray[np.int64]:
    """The range of each node, by the upper bits of its hash."""
    mixed = nodes.astype(np.uint64) * _MIX
    return ((mixed >> np.uint64(40)) * np.uint64(ranges) >> np.uint64(24)).astype(np.int64)


def _digest(edges: Edges) -> int:
    """A hash of a set of edges, whatever their order; 0 for none."""
    mixed = (edges[:, 0].astype(np.uint64) * _MIX ^ edges[:, 1].astype(np.uint64)) * _MIX
    return int((mixed ^ mixed >> np.uint64(29)).sum() % np.uint64(1 << 53)) if len(edges) else 0


def components_in_rounds(edges: list[Path], work: Path, ranges: int, workers: int) -> list[list[Path]]:
    """Like `components_in_memory`, from files of edges to files of (node, root) by range of the root.

    `work`: an empty folder. Each half round writes a folder; a killed run starts again with the first round.
    """
    before, before_out = [-1, -1], work
    step, folder = "spread", [[path] for path in edges]
    for number in range(2 * _MAX_ROUNDS):
        out = work / f"{number:03d}-{step}"
        tasks = [
            {"inputs": [str(path) for path in paths], "out": str(out), "step": step, "ranges": ranges,
             "name": f"{index:05d}.npy"}
            for index, paths in enumerate(folder)
        ]  # fmt: skip
        found = results("dedup.components:star_task", tasks, workers)
        if number:
            shutil.rmtree(before_out)
        before_out = out
        folder = [sorted((out / f"{index:05d}").glob("*.npy")) for index in range(ranges)]
        if step == "small":
            now = [sum(one[name] for one in found) for name in ("edges", "digest")]
            if now == before:
                return folder
            before = now
        step = "large" if step == "small" else "small"
    raise AssertionError("the rounds did not end")
