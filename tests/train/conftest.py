import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_dir(prepared_run: Path, tmp_path: Path) -> Path:
    """A run folder of the test's own, ready to be trained."""
    return Path(shutil.copytree(prepared_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def small_data(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory, reference_texts: list[str]) -> Path:
    """A run folder with little text, of two kinds, so that validation takes no time. Never written to."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tinyllama import phases
    from tinyllama.phase_runner import run_phase
    from tinyllama.recipe import load_recipe

    run_dir = tmp_path_factory.mktemp("small")
    texts = {"train": [text[:2500] for text in reference_texts[4:16]], "validation": ["Spam, eggs. " * 9, "Ham?" * 40]}
    for split, chosen in texts.items():
        (run_dir / "clean" / split).mkdir(parents=True)
        kinds = ["web", "book"] * (len(chosen) // 2)
        rows = {"id": [f"{split}{number}" for number in range(len(chosen))], "text": chosen, "kind": kinds}
        pq.write_table(pa.table(rows), run_dir / "clean" / split / "00000.parquet")
    shutil.copytree(prepared_run / "tokenizer", run_dir / "tokenizer")
    recipe = load_recipe(None, ["tokenizer.vocab_size=512"])
    run_phase(phases.shards_phase(recipe, (run_dir / "clean",), run_dir / "tokenizer", run_dir / "shards"))
    return run_dir


@pytest.fixture
def small_run(small_data: Path, tmp_path: Path) -> Callable[[str], Path]:
    """`small_run(name)`: a new run folder on the data of `small_data`."""

    def make(name: str) -> Path:
        run_dir = tmp_path / name
        run_dir.mkdir()
        for part in ("shards", "tokenizer"):
            (run_dir / part).symlink_to(small_data / part, target_is_directory=True)
        return run_dir

    return make
