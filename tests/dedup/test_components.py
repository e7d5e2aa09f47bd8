"""Connected components: SciPy's, large-star/small-star in rounds of tasks, and the obvious way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.cleaning import clean_run
from tinyllama.dedup import components, hash_records

assert clean_run


def spread(edges: list[tuple[int, int]]) -> dict[int, int]:
    """Of each node with an edge the least node that can be reached, the obvious way."""
    least = {node: node for edge in edges for node in edge}
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(least[a], least[b])
            changed |= (least[a], least[b]) != (low, low)
            least[a] = least[b] = low
    return least


some_edges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda e: e[0] != e[1]), max_size=40)


@settings(deadline=None)
@given(some_edges)
def test_in_memory(edges: list[tuple[int, int]]) -> None:
    found = components.components_in_memory(np.array(edges, np.int64).reshape(-1, 2))
    assert dict(found.tolist()) == spread(edges)


@settings(deadline=None)
@given(some_edges)
def test_stars_without_tasks(edges: list[tuple[int, int]]) -> None:
    now = np.array(edges, np.int64).reshape(-1, 2)
    for _ in range(60):
        now = np.sort(now, axis=1)[:, ::-1]
        now = components.small_star(now)
        now = components.large_star(np.concatenate([now, now[:, ::-1]]))
    found: dict[int, int] = {int(node): int(low) for node, low in now}
    assert found == {node: low for node, low in spread(edges).items() if node != low}


def test_stars_by_hand() -> None:
    path = np.array([[2, 1], [3, 2], [4, 3]])
    assert components.small_star(path).tolist() == [[2, 1], [3, 2], [4, 3]]
    both = np.concatenate([path, path[:, ::-1]])
    assert components.large_star(both).tolist() == [[2, 1], [3, 1], [4, 2]]


@pytest.mark.parametrize("ranges", [1, 3])
def test_rounds_of_tasks_agree_with_memory(tmp_path: Path, ranges: int) -> None:
    """A path of 200 documents, the worst case for labels that spread, a star and scattered pairs."""
    chance = np.random.default_rng(5)
    path = np.stack([np.arange(200), np.arange(1, 201)], axis=1)
    star = np.stack([np.full(50, 999), np.arange(300, 350)], axis=1)
    pairs = chance.integers(1000, 5000, (1500, 2))
    edges = chance.permutation(np.concatenate([path, star, pairs[pairs[:, 0] != pairs[:, 1]]]))
    files = []
    for number, part in enumerate(np.array_split(edges, 4)):
        files.append(tmp_path / f"{number}.npy")
        hash_records.write_array(files[-1], part)
    found = components.components_in_rounds(files, tmp_path / "rounds", ranges, workers=1)
    rows = np.concatenate([hash_records.read_array(path) for group in found for path in group])
    rows = rows[rows[:, 0] < rows[:, 1]]
    expected = components.components_in_memory(edges)
    expected = expected[expected[:, 0] != expected[:, 1]][:, ::-1]
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))
    for place, group in enumerate(found):  # whole components together
        for path in group:
            roots = hash_records.read_array(path)
            assert np.all(components.range_of(roots[roots[:, 0] < roots[:, 1], 0], ranges) == place)
