"""From answers to values and lines: what is asked, what an answer is, what is said, what makes a result another one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from tests.harness.task_files import write_task_files
from tests.instruments.answer_keys import Oracle
from tinyllama.errors import InputError
from tinyllama.harness import run_tasks
from tinyllama.harness.load_task import load_task
from tinyllama.harness.run_tasks import (
    TaskSettings,
    _details,
    _fingerprint,
    _plain,
    ask,
    line_of,
    measure,
    prediction,
    score_answers,
    score_examples,
    with_data,
)
from tinyllama.harness.task_list import all_tasks, choose_tasks
from tinyllama.harness.task_results import AnswerLog, read_examples

ENTRIES = all_tasks()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_task_files(tmp_path / "data")


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["text", (-1.0, True)], "text"),
        ([-3.5], None),
        ([(-3.0, True)], True),
        ([(-3.0, False)], False),
        ([(-3.0, True), (-1.0, False), (-2.0, False)], 1),
        ([(-1.0, False), (-1.0, False)], 0),
    ],
)
def test_what_was_answered(answers: list[Any], wanted: Any):
    assert prediction(answers) == wanted
    assert type(prediction(answers)) is type(wanted)


SCORES: dict[str, Any] = {
    "kinds": {"acc": "mean", "f1": "f1"},
    "metrics": {"acc": 0.61234, "acc_stderr": 0.01456, "f1": 0.5, "f1_stderr": None},
    "n": 1100, "n_official": 1838, "n_truncated": 3, "num_fewshot": 0, "seconds": 12.6, "note": "part",
}  # fmt: skip


def test_a_line_says_scores_errors_and_what_they_are_of():
    assert line_of(SCORES) == (
        "acc 0.6123 ± 0.015, f1 0.5 on 1,100 of 1,838 examples, 13 s; "
        "3 texts were longer than the context and lost tokens on the left (part)"
    )
    whole = SCORES | {"n": 1838, "n_truncated": 0, "note": None}
    assert line_of(whole) == "acc 0.6123 ± 0.015, f1 0.5 on 1,838 examples, 13 s"
    assert _details(whole) == {"n": 1838, "n_official": 1838, "n_truncated": 0, "num_fewshot": 0, "seconds": 12.6}
    assert _details(SCORES)["note"] == "part"


def test_metrics_that_concern_no_example_are_passed_over():
    entry: Any = SimpleNamespace(metrics={"opt": "optional_mean", "acc": "mean", "em": "all_right"})
    rows = [{"values": {"opt": None, "acc": value, "em": value}, "group": "a"} for value in (1, 0)]
    rows += [{"values": {"opt": None, "acc": 1, "em": 1}, "group": "b"}]
    metrics, kinds = score_examples(entry, rows)
    assert list(metrics) == ["acc", "acc_stderr", "em", "em_stderr"]
    assert (metrics["acc"], metrics["em"]) == (pytest.approx(2 / 3), 0.5)
    assert kinds == {"acc": "mean", "em": "all_right"}


class Model:
    """Counts as it answers; `n_truncated` grows."""

    def __init__(self) -> None:
        self.n_truncated = 10
        self.asked: list[tuple[str, int]] = []

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        assert disable_tqdm
        self.asked.append(("loglikelihood", len(requests)))
        self.n_truncated += 2
        return [(-float(request.idx) - 1, False) for request in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.asked.append(("generate_until", len(requests)))
        return [str(request.doc["question"]) for request in requests]


def test_answers_go_back_to_the_request_that_they_are_of(data: Path, tmp_path: Path):
    loaded = load_task(ENTRIES["squad_v2"], data)
    log, model = AnswerLog(tmp_path / "out", "squad_v2", "f"), Model()
    log.add("loglikelihood", [(0, [-7.0, True])], 5.0, 1)
    stands_for: Any = model
    ask(stands_for, loaded, log, "")
    assert sorted(model.asked) == [("generate_until", 2), ("loglikelihood", 1)]  # one answer was known
    assert log.answers["loglikelihood"] == {0: [-7.0, True], 1: (-2.0, False)}
    assert log.n_truncated == 1 + 2
    assert 5 < log.seconds < 60
    model.asked.clear()
    ask(stands_for, loaded, log, "")
    assert model.asked == []
    examples = score_answers(loaded, log)
    assert [row["doc_id"] for row in examples] == [0, 1]
    assert [row["answers"] for row in examples] == [["What is Python?", (-7.0, True)], ["Who made it?", (-2.0, False)]]
    assert [row["prediction"] for row in examples] == ["What is Python?", "Who made it?"]
    assert examples[0]["values"]["best_f1"] == [-7.0, 0.0, 0.0]
    assert examples[1]["values"]["best_f1"] == [-2.0, 0.0, 1.0]
    assert len({row["doc_sha256"] for row in examples}) == 2
    assert all(len(row["doc_sha256"]) == 16 and "group" not in row for row in examples)
    log.close()


def test_a_result_is_another_ones_when_model_or_requests_differ(data: Path):
    about: dict[str, Any] = {
        "weights_sha256": "a", "tokenizer": "b", "add_bos": True, "dtype": "float32", "max_tokens": 48, "origin": "here",
        "step": 3,
    }  # fmt: skip
    piqa = load_task(ENTRIES["piqa"], data)
    same = _fingerprint(piqa, about)
    assert same == _fingerprint(load_task(ENTRIES["piqa"], data), about | {"origin": "there", "step": 9})
    changes = {"weights_sha256": "c", "tokenizer": "c", "add_bos": False, "dtype": "bfloat16", "max_tokens": 47}
    prints = [_fingerprint(piqa, about | {key: value}) for key, value in changes.items()]
    prints.append(_fingerprint(load_task(ENTRIES["piqa"], data, limit=3), about))
    prints.append(_fingerprint(load_task(ENTRIES["piqa"], data, num_fewshot=1), about))
    prints.append(_fingerprint(replace(piqa, entry=replace(piqa.entry, metrics={"acc": "mean"})), about))
    assert len({same, *prints}) == 9


def test_a_result_says_what_it_is_of(data: Path, tmp_path: Path):
    loaded = load_task(ENTRIES["piqa"], data, limit=3, num_fewshot=1)
    settings, about = TaskSettings(data, limit=3, num_fewshot=1), {"weights_sha256": "x"}
    found = measure(Oracle(loaded), ENTRIES["piqa"], settings, tmp_path / "out", about)
    assert {key: found[key] for key in ("task", "n", "n_official", "n_truncated", "num_fewshot", "note", "model")} == {
        "task": "piqa", "n": 3, "n_official": 1838, "n_truncated": 0, "num_fewshot": 1, "note": None, "model": about,
    }  # fmt: skip
    assert found["kinds"] == ENTRIES["piqa"].metrics
    assert found["versions"].keys() == {"lm_eval", "torch"}
    assert len(read_examples(tmp_path / "out", "piqa-1shot-limit3")) == 3
    assert found == measure(Model(), ENTRIES["piqa"], settings, tmp_path / "out", about)  # type: ignore[arg-type]


def test_of_groups_tasks_without_data_are_left_out_and_named_ones_not(data: Path):
    def kept(names: list[str], **settings: Any) -> tuple[list[str], list[str]]:
        settings = {"data_dir": data} | settings
        entries, left_out = with_data(choose_tasks(names), names, TaskSettings(**settings))
        return [entry.name for entry in entries], list(left_out)

    assert kept(["zero_shot", "squad"])[0] == ["piqa", "squad_v2"]
    assert len(kept(["zero_shot", "squad"])[1]) == 7
    assert len(kept(["zero_shot"], data_dir=None)[0]) == 7
    with pytest.raises(InputError, match="no such file"):
        kept(["zero_shot", "boolq"])
    with pytest.raises(InputError, match=r"--data-dir .*nowhere: no such folder"):
        kept(["zero_shot"], data_dir=data / "nowhere")
    with pytest.raises(InputError, match="none of the tasks squad_v1 has data there"):
        with_data([ENTRIES["squad_v1"]], ["squad"], TaskSettings(data))
    (data / "glue_cola" / "train.jsonl.gz").unlink()
    assert kept(["glue"])[0] == ["cola"]
    with pytest.raises(InputError, match="none of the tasks"):
        kept(["glue"], num_fewshot=1)  # the examples to draw from are not there
    (data / "piqa" / "validation.jsonl.gz").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged compression"):
        kept(["zero_shot"])


def test_values_as_json_has_them():
    import numpy as np

    found = _plain([(np.float64(1.5), 2), np.int64(3), None, "x"])
    assert found == [[1.5, 2], 3, None, "x"]
    assert type(found[0][0]) is float
    assert type(found[1]) is int


def test_settings_of_a_request_are_the_same_in_any_order(data: Path):
    squad = load_task(ENTRIES["squad_v2"], data)
    about = {"weights_sha256": "a"}

    def fingerprint(settings: dict[str, Any]) -> str:
        request: Any = SimpleNamespace(request_type="generate_until", args=("é", settings))
        return _fingerprint(replace(squad, requests=[request]), about)

    assert fingerprint({"until": ["x"], "max_gen_toks": 3}) == fingerprint({"max_gen_toks": 3, "until": ["x"]})
    assert fingerprint({"until": ["x"], "max_gen_toks": 3}) != fingerprint({"until": ["x"], "max_gen_toks": 4})


def test_settings_reach_the_model_and_the_model_is_told_of(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    from tests.tiny_model import run_state, tiny_llama
    from tinyllama.checkpoint.save_load import weights_sha256
    from tinyllama.exchange.open_model import OpenedModel

    seen: list[Any] = []

    class Recorded:
        max_tokens = 33

        def __init__(self, opened: Any, **how: Any) -> None:
            seen.append(how)

    def measured(model: Any, entry: Any, settings: Any, out: Path, about: dict[str, Any], title: str) -> dict[str, Any]:
        seen.append((entry.name, settings.limit, out, about, title))
        return SCORES

    monkeypatch.setattr(run_tasks, "HarnessModel", Recorded)
    monkeypatch.setattr(run_tasks, "measure", measured)
    model, tokenizer = tiny_llama(dtype=torch.bfloat16), SimpleNamespace(fingerprint="print")
    given: Any = tokenizer
    opened = OpenedModel(model, model.config, given, Path("here"), run_state(model, "print", 7), False)
    settings = TaskSettings(data, 3, 0, 77, 44, True)
    found = run_tasks.evaluate_tasks(opened, ["cola", "piqa"], settings, tmp_path / "out")
    about = {
        "origin": "here", "weights_sha256": weights_sha256(model), "tokenizer": "print", "add_bos": False, "step": 7,
        "parameters": model.config.n_parameters, "tokens": 700, "dtype": "bfloat16", "max_tokens": 33,
    }  # fmt: skip
    assert seen == [
        {"tokens_per_batch": 77, "max_tokens": 44, "compiled": True},
        ("cola", 3, tmp_path / "out", about, "1/2 cola"),
        ("piqa", 3, tmp_path / "out", about, "2/2 piqa"),
    ]
    shown = SCORES["metrics"] | _details(SCORES)
    assert found == {
        "tasks": {"cola": shown, "piqa": shown},
        "averages": {},
        "left_out": {},
        "results": str(tmp_path / "out"),
    }
    foreign = run_tasks.about_model(replace(opened, state=None))
    assert (foreign["step"], foreign["tokens"]) == (None, None)
