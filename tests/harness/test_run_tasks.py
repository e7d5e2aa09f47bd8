"""Evaluation as a whole: results on disk, going on after a stop, comparing, the card, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from tests.harness.task_files import FILES, TASKS, write_rows, write_task_files
from tests.instruments.answer_keys import Oracle
from tests.tiny_model import make_run, tiny_llama
from tinyllama.__main__ import main
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel, open_model
from tinyllama.harness import scorecard
from tinyllama.harness.compare import compare, table
from tinyllama.harness.lm_model import HarnessModel
from tinyllama.harness.load_task import load_task
from tinyllama.harness.references import REFERENCES
from tinyllama.harness.run_tasks import TaskSettings, evaluate_tasks, measure
from tinyllama.harness.task_list import SEVEN, all_tasks, averages
from tinyllama.harness.task_results import read_examples, read_scores


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_task_files(tmp_path / "data")


@pytest.fixture(scope="module")
def run_dir(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(prepared_run, tmp_path_factory.mktemp("runs") / "mine", tiny_llama(seq_len=256))


@pytest.fixture(scope="module")
def opened(run_dir: Path) -> OpenedModel:
    return open_model(run_dir, "cpu")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command in this process: its JSON, or what it says when it is refused."""

    def run(*words: object, code: int = 0) -> Any:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["tinyllama", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert (end.value.code or 0) == code, said.err
        return said.err if code else json.loads(said.out)

    return run


def test_results_are_on_disk_and_said(opened: OpenedModel, data: Path, tmp_path: Path):
    out = tmp_path / "out"
    found = evaluate_tasks(opened, TASKS, TaskSettings(data), out)
    assert list(found["tasks"]) == TASKS
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name in TASKS:
        scores, entry = found["tasks"][name], all_tasks()[name]
        assert scores["n"] == len(FILES[entry.test[0]])
        assert scores["n_official"] == entry.n_official
        assert all(f"{metric}_stderr" in scores for metric in entry.metrics)
        examples = read_examples(out, name)
        assert [row["doc_id"] for row in examples] == list(range(scores["n"]))
        assert all(set(row["values"]) == set(entry.metrics) for row in examples)
    written = read_scores(out)["piqa"]
    assert written["model"]["step"] == 3
    assert written["model"]["weights_sha256"]
    assert not list(out.glob(".*"))


def test_a_group_without_data_is_left_out_a_named_task_refused(opened: OpenedModel, data: Path, tmp_path: Path):
    found = evaluate_tasks(opened, ["glue"], TaskSettings(data), tmp_path / "out")
    assert list(found["tasks"]) == ["cola"]
    assert "validation_mismatched.jsonl.gz: no such file" in found["left_out"]["mnli_mismatch"]
    with pytest.raises(InputError, match=r"glue_sst2/validation.jsonl.gz: no such file"):
        evaluate_tasks(opened, ["piqa", "sst2"], TaskSettings(data), tmp_path / "none")
    assert not (tmp_path / "none").exists()  # nothing was measured before it was said


class _KilledError(Exception):
    pass


def test_a_killed_evaluation_goes_on_within_the_task(
    opened: OpenedModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = evaluate_tasks(opened, ["piqa", "cola"], TaskSettings(data), tmp_path / "plain")
    judged: list[int] = []
    real = HarnessModel._judge

    def judge(self: HarnessModel, rows: Any, most: int) -> Any:
        if len(judged) == most:
            raise _KilledError
        judged.append(sum(len(row.sequences) for row in rows))
        return real(self, rows)

    out, settings = tmp_path / "out", TaskSettings(data, tokens_per_batch=1)
    monkeypatch.setattr(HarnessModel, "_judge", lambda self, rows: judge(self, rows, 3))
    with pytest.raises(_KilledError):
        evaluate_tasks(opened, ["piqa", "cola"], settings, out)
    lines = (out / ".piqa.answers.jsonl").read_text()
    assert lines.count("\n") == 3  # the settings, and two batches: the third was under way
    (out / ".piqa.answers.jsonl").write_text(lines + '{"kind": "loglikelihood", "answ')  # cut off by the kill
    judged.clear()
    monkeypatch.setattr(HarnessModel, "_judge", lambda self, rows: judge(self, rows, 99))
    again = evaluate_tasks(opened, ["piqa", "cola"], settings, out)
    assert sum(judged) == 2 * 2 + 4 * 2  # two examples of PIQA were left, and CoLA's four
    for name in ("piqa", "cola"):
        for key, value in plain["tasks"][name].items():
            assert key == "seconds" or again["tasks"][name][key] == value
    judged.clear()
    evaluate_tasks(opened, ["piqa", "cola"], settings, out)
    assert judged == []  # finished tasks are not measured again


def test_other_weights_or_data_are_measured_anew(opened: OpenedModel, data: Path, tmp_path: Path, run_dir: Path):
    out = tmp_path / "out"
    first = evaluate_tasks(opened, ["piqa"], TaskSettings(data), out)["tasks"]["piqa"]
    other = open_model(run_dir, "cpu")
    with torch.no_grad():
        other.model.embedding.weight.mul_(-1)
    assert evaluate_tasks(other, ["piqa"], TaskSettings(data), out)["tasks"]["piqa"] != first
    write_rows(data / "piqa" / "validation.jsonl.gz", FILES["piqa/validation.jsonl.gz"][:2])
    assert evaluate_tasks(opened, ["piqa"], TaskSettings(data), out)["tasks"]["piqa"]["n"] == 2


def test_two_models_are_compared_example_by_example(opened: OpenedModel, data: Path, tmp_path: Path, run_dir: Path):
    other = open_model(run_dir, "cpu")
    with torch.no_grad():
        other.model.embedding.weight.mul_(-1)
    for model, name in ((opened, "a"), (opened, "same"), (other, "b")):
        evaluate_tasks(model, TASKS, TaskSettings(data), tmp_path / name)
    same = compare(tmp_path / "a", tmp_path / "same")
    verdicts = {row["verdict"] for metrics in same["tasks"].values() for row in metrics.values()}
    assert verdicts == {"no difference shown"}
    found = compare(tmp_path / "a", tmp_path / "b")["tasks"]
    scores = [read_scores(tmp_path / name)["piqa"]["metrics"]["acc"] for name in "ab"]
    row = found["piqa"]["acc"]
    assert (row["a"], row["b"], row["difference"]) == (*scores, scores[1] - scores[0])
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["wins"] - row["losses"] == round((scores[1] - scores[0]) * row["n"])
    assert "no difference shown" in table(same)
    with pytest.raises(InputError, match="no task results in it"):
        compare(tmp_path / "a", data)


def test_groups_are_compared_as_groups(opened: OpenedModel, tmp_path: Path):
    """Two models that differ on one sentence of one pair: their parity differs by one pair of three."""
    rows = [
        {"premise": f"{who} came {n}.", "hypothesis": "Somebody came.", "idx": 2 * n + side, "label": n % 2}
        for n in range(3)
        for side, who in enumerate(("He", "She"))
    ]
    write_rows(tmp_path / "data" / "superglue_axg" / "test.jsonl.gz", rows)
    loaded = load_task(all_tasks()["axg"], tmp_path / "data")
    for name, told in (("a", Oracle(loaded)), ("b", WrongAboutTheFirst(loaded))):
        measure(told, loaded.entry, TaskSettings(tmp_path / "data"), tmp_path / name, {})
    found = compare(tmp_path / "a", tmp_path / "b")["tasks"]["axg"]
    parity = found["parity"]
    assert (parity["a"], parity["b"], parity["n"]) == (1, pytest.approx(2 / 3), 3)
    assert (parity["wins"], parity["losses"]) == (0, 1)
    assert found["acc"]["n"] == 6
    assert found["acc"]["low"] < -1 / 6 < 0 < found["acc"]["high"]


class WrongAboutTheFirst(Oracle):
    """Knows all answers but one."""

    def _choice(self, request: Instance) -> tuple[float, bool]:
        logprob, greedy = super()._choice(request)
        return (-1e6 - logprob, False) if request.doc_id == 0 else (logprob, greedy)


def test_the_command(run_dir: Path, data: Path, command: Callable[..., Any]):
    found = command("evaluate", run_dir, "--tasks", "piqa,cola", "--data-dir", data, "--device", "cpu", "--json")
    assert {"acc", "acc_norm", "acc_stderr", "n", "n_official"} <= found["tasks"]["piqa"].keys()
    results = Path(found["results"])
    assert results == run_dir / "evaluation" / "step_00000003"
    assert json.loads((run_dir / "scorecard.json").read_text())["rows"]
    both = command("evaluate", "--compare", run_dir, results, "--json")
    assert both["tasks"]["piqa"]["acc"]["verdict"] == "no difference shown"
    card = command("scorecard", run_dir, "--json")
    [row] = [row for row in card["rows"] if (row["task"], row["metric"]) == ("piqa", "acc_norm")]
    assert row["published"]["TinyLlama 3T"] == 0.7329
    assert "GPT-3 175B" not in row["published"]
    assert row["other_settings"]["GPT-3 175B"]["value"] == 0.81


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "hellaswagg", "--data-dir", "DATA"], "did you mean hellaswag?"),
        (["--tasks", "sst2", "--data-dir", "DATA"], "glue_sst2/validation.jsonl.gz: no such file"),
        (["--tasks", "piqa", "--data-dir", "DATA/nowhere"], "nowhere: no such folder"),
        (["--compare", "RUN", "RUN"], "with --compare give only the two models there"),
    ],
)
def test_what_the_command_refuses(
    run_dir: Path, data: Path, words: list[str], message: str, command: Callable[..., Any]
):
    words = [word.replace("DATA", str(data)).replace("RUN", str(run_dir)) for word in words]
    said = command("evaluate", run_dir, *words, code=2)
    assert message in said.replace("\n", " ")
    assert "Traceback" not in said


def test_without_lm_eval_the_line_that_installs_it_is_said(run_dir: Path, tmp_path: Path):
    code = f"""
import sys
sys.modules["lm_eval"] = None
sys.argv = ["tinyllama", "evaluate", {str(run_dir)!r}, "--tasks", "piqa", "--data-dir", {str(tmp_path)!r}]
from tinyllama.__main__ import main
main()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.strip().endswith("pip install 'tinyllama-pretrain[eval]'")


def test_the_average_of_seven_by_hand():
    found = {
        name: {"kinds": {"acc": "mean"}, "metrics": {"acc": 0.1 * n, "acc_stderr": 0.07}}
        for n, name in enumerate(SEVEN)
    }
    both = averages(found)
    assert both["zero_shot"]["value"] == pytest.approx(0.3)
    assert both["zero_shot"]["stderr"] == pytest.approx(0.07 / 7**0.5)
    assert both["zero_shot_without_boolq"]["value"] == pytest.approx((2.1 - 0.5) / 6)
    assert averages({name: found[name] for name in SEVEN[:6]}) == {}


def test_published_scores_have_a_known_task_a_metric_and_a_source():
    entries = all_tasks()
    for reference in REFERENCES:
        assert reference.source
        for (task, metric), value in reference.scores.items():
            assert metric in entries[task].metrics, (reference.model, task, metric)
            assert value > 1 if metric == "perplexity" else 0 <= value <= 1
    names = [(r.title, r.is_like_ours, key) for r in REFERENCES for key in r.scores]
    assert len(names) == len(set(names))  # one model, setting and metric: one score
    published = scorecard.card({})["averages"]
    assert published["TinyLlama 103B"]["zero_shot"]["value"] == pytest.approx(0.4611, abs=5e-5)  # as its table has it
    assert published["Pythia-1.0B"]["zero_shot"]["value"] == pytest.approx(0.4830, abs=5e-5)
    assert published["LLaMA 7B"]["zero_shot"]["value"] == pytest.approx(0.6095, abs=5e-5)
    assert "Llama 2 7B" not in published  # measured in another way
