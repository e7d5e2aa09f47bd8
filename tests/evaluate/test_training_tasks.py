from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from tests.conftest import overrides
from tests.evaluate.task_files import write_task_files
from tests.tiny_model import tiny_llama
from tinyllama.errors import InputError
from tinyllama.evaluate.run_tasks import TaskSettings, evaluate_tasks
from tinyllama.evaluate.training_tasks import TrainingTasks
from tinyllama.exchange.open_model import open_model
from tinyllama.files import read_jsonl
from tinyllama.phases import pretrain
from tinyllama.recipe import load_recipe
from tinyllama.tokenizer.bpe import Tokenizer


def test_tasks_in_training_are_those_of_the_checkpoint(prepared_run: Path, tmp_path: Path):
    import shutil

    run_dir, data = tmp_path / "run", write_task_files(tmp_path / "data")
    shutil.copytree(prepared_run, run_dir)
    chosen = overrides(
        train__evaluate_tasks=["piqa", "lambada"], train__evaluate_every_steps=4, train__evaluate_data_dir=str(data)
    )
    pretrain(load_recipe(None, chosen), run_dir)
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows if "tasks" in row] == [4, 8, 12]
    after = evaluate_tasks(open_model(run_dir, "cpu"), ["piqa", "lambada"], TaskSettings(data), tmp_path / "out")[
        "tasks"
    ]
    for name, scores in rows[-1]["tasks"].items():
        assert {key: after[name][key] for key in scores} == pytest.approx(scores, rel=1e-5)
    assert rows[-1]["tasks"]["piqa"].keys() == {"acc_norm", "acc_norm_stderr", "acc", "acc_stderr", "n"}


def test_faults_are_said_before_the_first_step(tmp_path: Path):
    with pytest.raises(InputError, match=r"--tasks piqqa: no such task; did you mean piqa\?"):
        TrainingTasks(["piqqa"], "", 10)
    with pytest.raises(InputError, match="no such file"):
        TrainingTasks(["piqa"], str(tmp_path), 10)


def test_a_training_network_needs_no_run(prepared_run: Path, tmp_path: Path):
    data = write_task_files(tmp_path / "data")
    tokenizer = Tokenizer.load(prepared_run / "tokenizer")
    found = TrainingTasks(["piqa"], str(data), 2).measure(tiny_llama(), tokenizer)
    assert found["piqa"]["n"] == 2
