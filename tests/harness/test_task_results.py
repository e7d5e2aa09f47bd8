"""Names, files and half-finished tasks of an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.result_folders import write_scores
from tinyllama import files
from tinyllama.errors import InputError
from tinyllama.harness.task_results import (
    AnswerLog,
    finished,
    groups_of,
    read_examples,
    read_scores,
    result_name,
    results_folder,
    write_result,
)


def test_where_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tmp_path / "my-run"
    (run / "checkpoints" / "step_00000003").mkdir(parents=True)
    assert results_folder(run) == run / "evaluation" / "latest"
    assert results_folder(run, "step_00000003") == run / "evaluation" / "step_00000003"
    assert results_folder(run / "checkpoints" / "step_00000003", "x") == run / "evaluation" / "step_00000003"
    assert results_folder(tmp_path / "hf-model") == Path("evaluations/hf-model")
    monkeypatch.chdir(tmp_path)
    assert results_folder(Path(".")) == Path("evaluations") / tmp_path.name
    assert results_folder(Path("/")) == Path("evaluations/model")


def test_a_name_tells_the_setting():
    names = [result_name("piqa", shots, limit) for shots, limit in ((0, None), (5, None), (0, 100), (5, 100))]
    assert names == ["piqa", "piqa-5shot", "piqa-limit100", "piqa-5shot-limit100"]


def test_results_are_read_by_name_and_other_files_passed_over(tmp_path: Path):
    for name in ("piqa", "boolq-5shot"):
        write_scores(tmp_path, name, {"acc": "mean"}, {"acc": 0.5})
    for name, value in (("a", []), ("b", {"metrics": {}}), ("c", {"task": "c"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    found = read_scores(tmp_path)
    assert list(found) == ["boolq-5shot", "piqa"]
    assert found["boolq-5shot"]["task"] == "boolq"
    for name in found:
        (tmp_path / f"{name}.json").unlink()
    with pytest.raises(InputError, match="no task results in it"):
        read_scores(tmp_path)


def test_a_task_is_finished_with_its_fingerprint_scores_and_examples(tmp_path: Path):
    assert finished(tmp_path, "piqa", "f") is None
    write_scores(tmp_path, "piqa", {"acc": "mean"}, {"acc": 0.5}, fingerprint="f")
    found = finished(tmp_path, "piqa", "f")
    assert found is not None
    assert found["metrics"] == {"acc": 0.5}
    assert finished(tmp_path, "piqa", "g") is None
    assert finished(tmp_path, "piq", "f") is None
    (tmp_path / "piqa.examples.jsonl.zst").unlink()
    assert finished(tmp_path, "piqa", "f") is None
    (tmp_path / "piqa.json").write_text("[]")
    assert finished(tmp_path, "piqa", "f") is None


def test_examples_are_written_before_scores_and_the_answers_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"doc_id": 0, "prediction": "é"}, {"doc_id": 1, "prediction": "two\nlines"}]
    (tmp_path / ".piqa.answers.jsonl").write_text("x")

    def power_cut(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_json", power_cut)
        with pytest.raises(KeyboardInterrupt):
            write_result(tmp_path, "piqa", {}, rows)
    assert read_examples(tmp_path, "piqa") == rows
    assert (tmp_path / ".piqa.answers.jsonl").exists()
    write_result(tmp_path, "piqa", {"task": "piqa"}, rows)
    assert {path.name for path in tmp_path.iterdir()} == {"piqa.json", "piqa.examples.jsonl.zst"}
    write_result(tmp_path, "piqa", {"task": "piqa"}, rows[:1])
    assert read_examples(tmp_path, "piqa") == rows[:1]


def test_examples_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"piqa\.examples\.jsonl\.zst: no such file; evaluate the task again"):
        read_examples(tmp_path, "piqa")
    write_result(tmp_path, "piqa", {}, [{"n": n} for n in range(50)])
    path = tmp_path / "piqa.examples.jsonl.zst"
    for content in (b"not zstd", path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged .* remove piqa\.json and evaluate the task again"):
            read_examples(tmp_path, "piqa")


def test_groups_are_there_when_every_example_has_one():
    assert groups_of([{"group": "a"}, {"group": "b"}]) == ["a", "b"]
    assert groups_of([{"group": "a"}, {}]) is None
    assert groups_of([{}, {}]) is None
    assert groups_of([{"group": 3}]) == ["3"]


def test_answers_are_taken_up_again(tmp_path: Path):
    log = AnswerLog(tmp_path / "new", "piqa", "f")
    assert (log.answers, log.seconds, log.n_truncated) == ({}, 0.0, 0)
    log.add("loglikelihood", [(0, [-1.0, True]), (2, [-2.0, False])], 1.5, 1)
    log.add("generate_until", [(0, "é\n")], 2.0, 1)
    log.add("loglikelihood", [(1, [-3.0, False])], 3.5, 4)
    wanted = {"loglikelihood": {0: [-1.0, True], 2: [-2.0, False], 1: [-3.0, False]}, "generate_until": {0: "é\n"}}
    assert log.answers == wanted
    again = AnswerLog(tmp_path / "new", "piqa", "f")  # killed: never closed, and what was told is on disk
    assert (again.answers, again.seconds, again.n_truncated) == (wanted, 3.5, 4)
    log.close()
    path = tmp_path / "new" / ".piqa.answers.jsonl"
    assert len(path.read_text().splitlines()) == 4
    path.write_text(path.read_text() + '{"kind": "logl')
    again.close()
    cut = AnswerLog(tmp_path / "new", "piqa", "f")
    assert cut.answers == wanted
    cut.add("loglikelihood", [(5, [-9.0, True])], 4.0, 4)
    cut.close()
    assert AnswerLog(tmp_path / "new", "piqa", "f").answers["loglikelihood"][5] == [-9.0, True]
    other = AnswerLog(tmp_path / "new", "piqa", "g")
    assert (other.answers, other.seconds) == ({}, 0.0)
    assert path.read_text() == '{"fingerprint": "g"}\n'
    other.close()
