"""Every layout gives the training of one process, in float64 within 1e-9: losses and gradient norms, the gradients of step
1, the weights after the last step, and what a batch is judged like with them.

So do emulated fp8 products where all else is in float64: with other scales, each value would be rounded another way.
`benchmarks/layout_equality.py` has the layouts and the cases; one launch for each number of processes.
"""

from pathlib import Path

import pytest

from benchmarks.layout_equality import CASES, LAYOUTS, compare, is_equal, table

HARD = "tied, dropout, z-loss"
ARTICLE = "article-1.1b, dropout"
BOTH = ["float64", "fp8 in float64"]
FEW = 3  # updates, the last one by a state that was given what a checkpoint holds


def check(rows: list[dict], launched: int, dtypes: int = 1) -> None:
    assert len(rows) == launched * dtypes
    for row in rows:
        assert is_equal(row), table([row])
        assert row["clipped"], "clipping must be active"


def test_each_axis_alone(tmp_path: Path):
    check(compare(2, tmp_path / "rows.json", [HARD], BOTH, steps=FEW), len(LAYOUTS[2]), dtypes=2)


def test_each_axis_alone_near_one_process_in_short_formats(tmp_path: Path):
    """The copies that products read follow the weights that were read, and fp16's loss scale reaches every gradient."""
    cut = [{"shard": 2}, {"tensor": 2}, {"pipeline": 2}]
    check(compare(2, tmp_path / "rows.json", [HARD], ["bf16", "fp16"], cut, steps=FEW), len(cut), dtypes=2)


def test_stages_of_unequal_numbers_of_layers(tmp_path: Path):
    """Four layers on three stages: one, two, and one with the head."""
    check(compare(3, tmp_path / "rows.json", [HARD], ["float64"], steps=FEW), len(LAYOUTS[3]))


def test_pairs_of_axes(tmp_path: Path):
    """Every pair, and both ways to gather shards; tied and untied tables, projections, and rows that do not divide."""
    pairs = [layout for layout in LAYOUTS[4] if len(layout) > 1]
    assert len(pairs) == 8
    check(compare(4, tmp_path / "rows.json", [HARD, ARTICLE], ["float64"], pairs, steps=FEW), 2 * len(pairs))


@pytest.mark.full
def test_each_axis_alone_in_every_case(tmp_path: Path):
    dtypes = ["float64", "float32", "fp8 in float64", "fp8"]
    check(compare(2, tmp_path / "rows.json", list(CASES), dtypes), len(CASES) * len(LAYOUTS[2]), dtypes=4)


@pytest.mark.full
def test_pairs_of_axes_in_every_case(tmp_path: Path):
    check(compare(4, tmp_path / "rows.json", list(CASES), ["float64"]), len(CASES) * len(LAYOUTS[4]))


@pytest.mark.full
def test_fp8_in_pairs_of_axes(tmp_path: Path):
    cases = [HARD, ARTICLE, "recompute selective"]
    check(compare(4, tmp_path / "rows.json", cases, ["fp8 in float64"]), len(cases) * len(LAYOUTS[4]))


@pytest.mark.full
def test_unequal_stages_with_each_other_axis(tmp_path: Path):
    cases = [HARD, ARTICLE, "recompute full"]
    check(compare(6, tmp_path / "rows.json", cases, ["float64"]), len(cases) * len(LAYOUTS[6]))


@pytest.mark.full
@pytest.mark.parametrize("processes", [8, 16])
def test_three_axes_and_all_of_them(tmp_path: Path, processes: int):
    for dtype, cases in (("float64", [HARD, ARTICLE]), ("fp8 in float64", [ARTICLE])):
        check(compare(processes, tmp_path / "rows.json", cases, [dtype]), len(cases) * len(LAYOUTS[processes]))


@pytest.mark.full
def test_compiled_layers_in_layouts(tmp_path: Path):
    """The compiler sees through slices and shards in one graph, recomputed or not."""
    layouts = [{"shard": 2}, {"shard": 2, "gather": "step"}, {"tensor": 2}, {"pipeline": 2}]
    cases = ["compiled", "compiled, recompute full"]
    check(compare(2, tmp_path / "rows.json", cases, BOTH, layouts), len(layouts) * len(cases), dtypes=2)
