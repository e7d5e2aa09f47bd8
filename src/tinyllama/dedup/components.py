"""Connected components of near-duplicate pairs: SciPy's while the pairs fit in memory, else in rounds over ranges.

The rounds are large-star and small-star (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond"). Both link
all neighbours of a node to the least of them: large-star those with a larger number than the node, small-star the others
and the node itself. Repeated, every component becomes a star around its least node. A node's edges are all in one range, so
a round is a step of tasks: each reads one range's edges and writes those of the next half round, by range.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tinyllama.dedup import hash_records
from tinyllama.workers.worker_pool import results
from tinyllama.workers.worker_process import Progress

EDGE_BYTES = 96  # that SciPy's way needs for an edge at its peak: measured in benchmarks/clean_memory.py
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MOST_ROUNDS = 100  # log(nodes) squared is the proven bound; a handful in practice

Edges = NDArray[np.int64]  # shape (edges, 2)


def components_in_memory(edges: Edges) -> Edges:
    """(node, least node of its component) of every node that has an edge, by node: shape (nodes, 2)."""
    nodes, places = np.unique(edges, return_inverse=True)
    if not nodes.size:
        return np.zeros((0, 2), np.int64)
    ends = places.reshape(-1, 2).astype(np.int32 if nodes.size < 1 << 31 else np.int64)
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(nodes.size, nodes.size))
    labels = connected_components(graph, directed=False)[1]
    least = np.full(labels.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, labels, nodes)
    return np.stack([nodes, least[labels]], axis=1)


def large_star(edges: Edges) -> Edges:
    """Edges (v, m) for each (u, v) with v > u; m is the least of u and its neighbours. `edges` has both directions."""
    edges, least = _least_neighbours(edges)
    larger = edges[:, 1] > edges[:, 0]
    return _distinct(np.stack([edges[larger, 1], least[larger]], axis=1))


def small_star(edges: Edges) -> Edges:
    """Edges (v, m) and (u, m) for each (u, v), where all v < u; m is the least of them."""
    edges, least = _least_neighbours(edges)
    linked = np.concatenate([np.stack([edges[:, end], least], axis=1) for end in (0, 1)])
    return _distinct(linked[linked[:, 0] != linked[:, 1]])


def _least_neighbours(edges: Edges) -> tuple[Edges, NDArray[np.int64]]:
    """The edges sorted by their first node, and for each the least of that node and all its neighbours."""
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
    """Task: half a round on one range of nodes. `inputs`: files of edges; `out`: folder of its edges, a file for each
    of `ranges` ranges; `step`: `spread` (edges as they come), `large` or `small`; `last`: the result is (node, root)."""
    arrays = [hash_records.read_array(Path(path)) for path in task["inputs"]]
    edges = np.concatenate([np.zeros((0, 2), np.int64), *arrays])
    step = {"spread": _distinct, "large": large_star, "small": small_star}[task["step"]]
    edges = step(edges)
    larger_first = np.sort(edges, axis=1)[:, ::-1]
    if task["step"] == "small":  # the next half round is large-star: both directions
        edges = np.concatenate([larger_first, larger_first[:, ::-1]])
    else:
        edges = larger_first
    owners = range_of(edges[:, 0], task["ranges"])
    for number in range(task["ranges"]):
        hash_records.write_array(Path(task["out"]) / f"{number:05d}" / task["name"], edges[owners == number])
    return {"edges": len(larger_first), "digest": _digest(larger_first)}


def range_of(nodes: NDArray[np.int64], ranges: int) -> NDArray[np.int64]:
    """Which range each node is in: by the upper bits of its mixed number."""
    mixed = nodes.astype(np.uint64) * _MIX
    return ((mixed >> np.uint64(40)) * np.uint64(ranges) >> np.uint64(24)).astype(np.int64)


def _digest(edges: Edges) -> int:
    """A number that does not depend on the order of the edges; 0 of none."""
    mixed = (edges[:, 0].astype(np.uint64) * _MIX ^ edges[:, 1].astype(np.uint64)) * _MIX
    return int((mixed ^ mixed >> np.uint64(29)).sum() % np.uint64(1 << 53)) if len(edges) else 0


def components_in_rounds(edges: list[Path], work: Path, ranges: int, workers: int) -> list[list[Path]]:
    """The same as `components_in_memory`, from files of edges to files of (node, root) by range of the root.

    `work`: an empty folder. Each half round leaves a folder, and a killed run starts the rounds again.
    """
    before: list[int] = []
    before_out = work
    step, folder = "spread", [[path] for path in edges]
    for number in range(2 * _MOST_ROUNDS):
        out = work / f"{number:03d}-{step}"
        tasks = [
            {"inputs": [str(path) for path in paths], "out": str(out), "step": step, "ranges": ranges,
             "name": f"{place:05d}.npy"}
            for place, paths in enumerate(folder)
        ]  # fmt: skip
        found = results("dedup.components:star_task", tasks, workers)
        if number:
            shutil.rmtree(before_out)
        before_out = out
        folder = [sorted((out / f"{place:05d}").glob("*.npy")) for place in range(ranges)]
        if step == "small":
            now = [sum(one[name] for one in found) for name in ("edges", "digest")]
            if now == before:
                return folder
            before = now
        step = "large" if step == "small" else "small"
    raise AssertionError("the rounds did not end")
