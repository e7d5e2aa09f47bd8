"""The lines of each folder of the source: a limit that falls as code is simplified, and rises only with a new part."""

from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tinyllama"
MAX_LINES = {
    ".": 1940,
    "bench": 860,
    "checkpoint": 580,
    "cleaning": 3110,
    "commands": 910,
    "dedup": 700,
    "demo_site": 840,
    "drill": 600,
    "evaluation": 410,
    "exchange": 1680,
    "generate": 1290,
    "harness": 2130,
    "model": 1390,
    "parallel": 2190,
    "planning": 1470,
    "report": 1030,
    "shards": 1110,
    "sources": 1620,
    "tokenizer": 1030,
    "train": 2730,
    "workers": 340,
}


def lines(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in folder.glob("*.py"))


@pytest.mark.parametrize("folder", sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()))
def test_a_folder_does_not_grow(folder: str):
    assert lines(SOURCE / folder) <= MAX_LINES[folder]


def test_what_belongs_to_no_folder_does_not_grow():
    assert lines(SOURCE) <= MAX_LINES["."]
