import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run_dir(prepared_run: Path, tmp_path: Path) -> Path:
    """A run folder of the test's own, ready to be trained."""
    return Path(shutil.copytree(prepared_run, tmp_path / "run"))
