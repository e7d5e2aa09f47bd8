"""The Python examples of the README and of docs/python.md run as they stand."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import overrides
from tinyllama import api

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which runs/quickstart is a tiny trained run."""
    folder = tmp_path_factory.mktemp("page")
    run_dir = Path(shutil.copytree(prepared_run, folder / "runs" / "quickstart"))
    api.pretrain("small-120m", run_dir, overrides())
    return folder


PRINTED = [
    r"^Return the.* (stop|length)$",
    "bits per byte",
    r"Size\(\[1, \d+, 512\]\) 2",
    r"^\(8, 33\) int64$",
    r"^\d+\.\d days, ",
]


@pytest.mark.parametrize(("page", "said"), [("README.md", []), ("docs/python.md", PRINTED)])
def test_examples_run(
    page: str, said: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    monkeypatch.chdir(folder)
    exec("\n".join(blocks), {})
    printed = capsys.readouterr().out
    for line in said:
        assert re.search(line, printed, re.M | re.S), f"{line} in {printed}"
