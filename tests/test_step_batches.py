"""`training_batches` returns the very tokens that the trainer reads."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyllama
from tests.conftest import overrides
from tinyllama import api, files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.errors import InputError
from tinyllama.shards.batches import Batches, MicroBatch
from tinyllama.train.data_read import documents_of_step

Reads = dict[tuple[int, int], MicroBatch]


@pytest.fixture(scope="module")
def trained(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reads]:
    """A run of several epochs, and every micro-batch that its trainer read, by step (from 0) and first sequence."""
    run_dir = Path(shutil.copytree(prepared_run, tmp_path_factory.mktemp("batches") / "run"))
    read: Reads = {}
    micro_batch = Batches.micro_batch

    def noted(self: Batches, step: int, start: int, count: int) -> MicroBatch:
        return read.setdefault((step, start), micro_batch(self, step, start, count))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "micro_batch", noted)
        api.pretrain("small-120m", run_dir, overrides(train__tokens_per_step=4096, train__steps=60))
    return run_dir, read


def test_tokens_are_those_that_the_trainer_read(trained: tuple[Path, Reads]):
    run_dir, read = trained
    assert len(read) == 60 * 32
    epochs = set()
    for step in (1, 2, 30, 59, 60):
        found = tinyllama.training_batches(run_dir, step)
        assert (found.step, found.micro_batch_size) == (step, 4)
        assert found.tokens.shape == (128, 33)
        assert found.tokens.dtype == np.int64
        assert len(found.micro_batches) == 32
        for number, tokens in enumerate(found.micro_batches):
            theirs = read[step - 1, number * 4]
            assert (tokens[:, :-1] == theirs.inputs).all()
            assert (tokens[:, 1:] == theirs.targets).all()
            assert np.shares_memory(tokens, found.tokens)
        explained = documents_of_step(run_dir, step)
        assert (found.epoch, found.windows) == (explained["epoch"], explained["windows"])
        epochs.add(found.epoch)
    assert len(epochs) > 1


def test_windows_in_quarantine_are_left_out(trained: tuple[Path, Reads], tmp_path: Path):
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    before = {step: tinyllama.training_batches(run_dir, step) for step in (5, 6)}
    newest = form.checkpoints(run_dir / "checkpoints")[0]
    state = files.read_json(newest / form.STATE)
    state["quarantine"] = [{"after_step": 5, "windows": before[6].windows[:3]}]
    files.write_json(newest / form.STATE, state)
    assert (tinyllama.training_batches(run_dir, 5).tokens == before[5].tokens).all()
    after = tinyllama.training_batches(run_dir, 6)
    assert after.windows == documents_of_step(run_dir, 6)["windows"]
    assert (after.tokens[:-3] == before[6].tokens[3:]).all()


def test_before_the_first_checkpoint_the_recipe_says_what_a_step_reads(trained: tuple[Path, Reads], tmp_path: Path):
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    wanted = tinyllama.training_batches(run_dir, 7)
    shutil.rmtree(run_dir / "checkpoints")
    found = tinyllama.training_batches(run_dir, 7)
    assert (found.tokens == wanted.tokens).all()
    assert found.windows == wanted.windows
    with pytest.raises(InputError, match="no step 61; the run has steps 1 to 60"):
        tinyllama.training_batches(run_dir, 61)
    (run_dir / "recipe.toml").unlink()
    with pytest.raises(InputError, match=r"neither a checkpoint nor recipe\.toml"):
        tinyllama.training_batches(run_dir, 7)


@pytest.mark.parametrize("step", [-1, 0, 61])
def test_steps_that_a_run_does_not_have(trained: tuple[Path, Reads], step: int):
    with pytest.raises(InputError, match=rf"no step {step}; the run has steps 1 to 60"):
        tinyllama.training_batches(trained[0], step)


def test_a_run_by_tokens_has_as_many_steps_as_they_need(trained: tuple[Path, Reads], tmp_path: Path):
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    newest = form.checkpoints(run_dir / "checkpoints")[0]
    state: dict[str, Any] = files.read_json(newest / form.STATE)
    state["train"] |= {"steps": 0, "tokens": 3 * 4096 + 1}
    files.write_json(newest / form.STATE, state)
    assert tinyllama.training_batches(run_dir, 4).step == 4
    with pytest.raises(InputError, match="steps 1 to 4"):
        tinyllama.training_batches(run_dir, 5)


def test_shards_that_are_missing_or_others(trained: tuple[Path, Reads], tmp_path: Path):
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    index = run_dir / "shards" / "train" / "index.json"
    index.write_text(index.read_text() + "\n")
    with pytest.raises(InputError, match=r"index\.json: not the shards that .*step_00000060 was trained on"):
        tinyllama.training_batches(run_dir, 1)
    shutil.rmtree(run_dir / "shards")
    with pytest.raises(InputError, match="shards/train: no training shards"):
        tinyllama.training_batches(run_dir, 1)
