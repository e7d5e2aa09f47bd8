import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from tests.conftest import overrides
from tests.harness.task_files import TASKS, write_task_files
from tests.tiny_model import tiny_llama
from tests.train.rank_runs import RankRun
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import open_model
from tinyllama.files import read_jsonl
from tinyllama.harness.lm_model import HarnessModel
from tinyllama.harness.run_tasks import TaskSettings, evaluate_tasks
from tinyllama.harness.training_tasks import TrainingTasks
from tinyllama.parallel.ranks import Ranks
from tinyllama.phases import pretrain
from tinyllama.recipe import load_recipe
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.train.train_state import TrainState


def test_tasks_in_training_are_those_of_the_checkpoint(prepared_run: Path, tmp_path: Path):
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


def test_ranks_share_the_examples(prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two ranks as two threads: together they ask for each example once, and both know all scores."""
    tasks = TrainingTasks(["piqa", "cola", "lambada"], str(write_task_files(tmp_path / "data")), 3)
    tokenizer, store = Tokenizer.load(prepared_run / "tokenizer"), torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    wanted = tasks.measure(tiny_llama(), tokenizer)
    asked: list[int] = []
    real = HarnessModel.loglikelihood

    def count(self: HarnessModel, requests: list[Any], **named: Any) -> Any:
        asked.append(len(requests))
        return real(self, requests, **named)

    monkeypatch.setattr(HarnessModel, "loglikelihood", count)
    ranks = [Ranks(rank, 2, store=store) for rank in range(2)]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda each: tasks.measure(tiny_llama(), tokenizer, each), ranks))
    for each in reversed(ranks):  # the first waits for the others
        each.close()
    assert found[0] == found[1]
    assert len(asked) == 6
    assert sum(asked) == 3 * 2 + 3 * 2 + 2
    for name, scores in wanted.items():
        assert found[0][name] == pytest.approx(scores, rel=1e-5)


def scores_in_training(
    prepared_run: Path, tmp_path: Path, axes: dict[str, int], chosen: dict[str, Any]
) -> list[dict[str, dict[str, float]]]:
    """Scores by task, each time they were measured in a run of that layout."""
    run = RankRun(Path(shutil.copytree(prepared_run, tmp_path / "_".join(f"{axis}{n}" for axis, n in axes.items()))))
    run.to_its_end(math.prod(axes.values()), **chosen | {f"parallel__{axis}": n for axis, n in axes.items()})
    return [row["tasks"] for row in read_jsonl(run.run_dir / "metrics.jsonl") if "tasks" in row]


def assert_same_scores(
    one: list[dict[str, dict[str, float]]], other: list[dict[str, dict[str, float]]], rel: float
) -> None:
    assert len(one) == len(other) == 2
    for wanted, found in zip(one, other, strict=True):
        assert wanted.keys() == found.keys()
        for name in wanted:
            assert found[name] == pytest.approx(wanted[name], rel=rel)


@pytest.mark.full
def test_ranks_share_the_examples_of_a_run(prepared_run: Path, tmp_path: Path):
    """Processes that train together; one order of sums gives one rank and two the same weights."""
    data = write_task_files(tmp_path / "data")
    chosen = {
        "train__evaluate_tasks": ["piqa", "cola", "lambada", "wikitext103"], "train__evaluate_every_steps": 6,
        "train__evaluate_data_dir": str(data), "train__deterministic_reduction": True, "train__micro_batch_size": 1,
        "parallel__threads": 1, "parallel__timeout_seconds": 60.0,
    }  # fmt: skip
    layouts = [{"replicate": 1}, {"replicate": 2}]
    assert_same_scores(*(scores_in_training(prepared_run, tmp_path, axes, chosen) for axes in layouts), rel=1e-5)


@pytest.mark.parametrize(
    "axes",
    [
        {"tensor": 2},
        *(
            pytest.param(axes, marks=pytest.mark.full)
            for axes in (
                {"shard": 2},
                {"pipeline": 2},
                {"tensor": 2, "pipeline": 2},
                {"shard": 2, "tensor": 2, "replicate": 2},
            )
        ),
    ],
    ids=str,
)
def test_ranks_that_hold_parts_find_the_scores_of_one_process(prepared_run: Path, tmp_path: Path, axes: dict[str, int]):
    data = write_task_files(tmp_path / "data")
    chosen = {
        "train__evaluate_tasks": ["piqa", "cola", "lambada", "wikitext103"], "train__evaluate_every_steps": 6,
        "train__evaluate_data_dir": str(data), "train__micro_batch_size": 1, "train__tokens_per_step": 256,
        "parallel__threads": 1, "parallel__timeout_seconds": 60.0,
    }  # fmt: skip
    layouts = [{"replicate": 1}, {"replicate": 1} | axes]
    assert_same_scores(*(scores_in_training(prepared_run, tmp_path, axes, chosen) for axes in layouts), rel=1e-4)


def test_training_goes_on_where_the_whole_network_has_no_room(
    prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run_dir = Path(shutil.copytree(prepared_run, tmp_path / "run"))
    monkeypatch.setattr(TrainState, "full_model", lambda state: nullcontext())
    data = write_task_files(tmp_path / "data")
    pretrain(load_recipe(None, overrides(train__evaluate_tasks=["piqa"], train__evaluate_data_dir=str(data))), run_dir)
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert len(rows) == 12
    assert not any("tasks" in row for row in rows)
    assert "no memory for the whole network" in " ".join(capsys.readouterr().err.split())


def test_the_watch_hears_of_every_batch(prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A long list of tasks is no rank that hangs."""
    data, ranks, signs = write_task_files(tmp_path / "data"), Ranks(), []
    monkeypatch.setattr(ranks.progress, "stay", lambda: signs.append(1))
    tasks, tokenizer = TrainingTasks(TASKS, str(data), 4), Tokenizer.load(prepared_run / "tokenizer")
    tasks.measure(tiny_llama(seq_len=256), tokenizer, ranks)
    assert len(signs) == 7  # one batch a task, the two texts of WikiText, and answers and their probability for SQuAD


def test_faults_are_said_before_the_first_step(tmp_path: Path):
    with pytest.raises(InputError, match=r"--tasks piqqa: no such task; did you mean piqa\?"):
        TrainingTasks(["piqqa"], "", 10)
    with pytest.raises(InputError, match="no such file"):
        TrainingTasks(["piqa"], str(tmp_path), 10)
    data = str(write_task_files(tmp_path / "data"))
    assert TrainingTasks(["squad_v2", "piqa"], data, 10, 49)
    with pytest.raises(
        InputError, match="squad_v2 generates 48 tokens, which leaves no room for a prompt in a context"
    ):
        TrainingTasks(["squad_v2"], data, 10, 48)


def test_a_training_network_needs_no_run(prepared_run: Path, tmp_path: Path):
    data = write_task_files(tmp_path / "data")
    tokenizer = Tokenizer.load(prepared_run / "tokenizer")
    found = TrainingTasks(["piqa"], str(data), 2).measure(tiny_llama(), tokenizer)
    assert found["piqa"]["n"] == 2
