"""In 16 bits slices round partial products and their sums, where one process rounds once: that much, and no more."""

from pathlib import Path

import pytest

from benchmarks.rounding_error import by_part, measure, table

# Of n roundings of like size the error is sqrt(n) of one's. Two slices round each half of a sum, which together are as far
# off as one rounding of the whole, and the sum: two where one process has one. All other roundings are the same.
MOST_OF_A_PART = 1.3
MOST_OF_ALL = 1.08


def check(rows: list[dict]) -> None:
    for (_, _, part), (one, layout) in by_part(rows).items():
        assert 1e-4 < one < 0.1, "one process's own error must be there to compare with"
        assert layout <= (MOST_OF_ALL if part == "all" else MOST_OF_A_PART) * one, f"{part}\n{table(rows)}"


def test_two_slices_are_about_as_exact_as_one_process(tmp_path: Path):
    check(measure(2, tmp_path / "rows.json", ["untied"], ["bf16"], [{"tensor": 2}], steps=4))


@pytest.mark.full
def test_layouts_of_two_are_about_as_exact_as_one_process(tmp_path: Path):
    cases = ["untied", "tied, dropout, z-loss", "article-1.1b, dropout"]
    check(measure(2, tmp_path / "rows.json", cases, ["bf16", "fp16"]))
