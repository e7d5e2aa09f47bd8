"""Which examples a task asks about, and with which examples before them."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from tests.harness.task_files import COLA, PIQA, SQUAD, write_rows, write_task_files
from tests.instruments.answer_keys import Chance, Oracle, chance_score
from tinyllama.errors import InputError
from tinyllama.harness.load_task import (
    AbstainingTask,
    ExamplesTask,
    _config,
    _misfit,
    load_task,
    right_choice,
    spread,
    spread_groups,
)
from tinyllama.harness.task_list import TaskEntry, all_tasks, choose_tasks

ENTRIES = all_tasks()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_task_files(tmp_path)


def test_few_shot_examples_are_of_the_training_part_whatever_is_measured(data: Path):
    known = [{"sentence": f"Known {n} sentence.", "label": n % 2} for n in range(6)]
    write_rows(data / "glue_cola" / "train.jsonl.gz", known)
    loaded = load_task(ENTRIES["cola"], data, num_fewshot=3)
    for request in loaded.requests:
        *shots, question = str(request.args[0]).split("\n\n")
        assert len(shots) == 3
        assert all(shot.startswith("Known") for shot in shots)
        assert not question.startswith("Known")
    again = load_task(ENTRIES["cola"], data, num_fewshot=3)
    assert [r.args for r in again.requests] == [r.args for r in loaded.requests]  # the same draw
    none = load_task(ENTRIES["cola"], data)
    assert not any("Known" in str(request.args[0]) for request in none.requests)
    (data / "glue_cola" / "train.jsonl.gz").unlink()
    assert load_task(ENTRIES["cola"], data).n == 4  # without shots nobody asks for it
    with pytest.raises(InputError, match=r"train\.jsonl\.gz: no such file"):
        load_task(ENTRIES["cola"], data, num_fewshot=1)


def test_the_seed_of_shots_is_lm_evals_own(data: Path, monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []
    monkeypatch.setattr(ExamplesTask, "set_fewshot_seed", lambda task, seed: seeds.append(seed))
    load_task(ENTRIES["piqa"], data)
    assert seeds == [1234]


def test_where_a_task_draws_its_shots_from():
    cola, piqa = ENTRIES["cola"], ENTRIES["piqa"]
    assert cola.train
    assert not piqa.train

    def of(entry: TaskEntry, is_local: bool, shots: int) -> list[Any]:
        found = _config(entry, is_local, shots)
        return [
            found.get(key) for key in ("num_fewshot", "fewshot_split", "training_split", "test_split", "dataset_path")
        ]

    assert of(cola, True, 2) == [2, "train", "train", "test", "json"]
    assert of(cola, True, 0) == [0, "test", None, "test", "json"]
    assert of(piqa, True, 2) == [2, "test", None, "test", "json"]
    assert _config(cola, False, 0)["dataset_path"] != "json"
    found = _config(cola, True, 0)
    assert "tag" not in found
    assert [row["metric"] for row in found["metric_list"]] == ["mcc"]
    assert _config(ENTRIES["stsb"], True, 0)["metric_list"] == [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("pearson", "spearman")
    ]
    assert (found["dataset_name"], found["validation_split"]) == (None, None)


def test_a_limit_asks_about_examples_spread_over_the_file(data: Path):
    loaded = load_task(ENTRIES["piqa"], data, limit=2)
    assert (loaded.doc_ids, loaded.n) == ([0, 2], 2)
    assert [request.doc_id for request in loaded.requests] == [0, 0, 2, 2]
    assert {request.task_name for request in loaded.requests} == {"piqa"}
    assert {request.repeats for request in loaded.requests} == {1}
    assert loaded.task.instances == loaded.requests
    assert "jar" in str(loaded.requests[0].args[0])
    assert "tea" in str(loaded.requests[2].args[0])
    part, other = loaded.share(0, 2), loaded.share(1, 2)
    assert (part.doc_ids, other.doc_ids) == ([0], [2])
    assert [request.doc_id for request in other.requests] == [2, 2]
    whole = load_task(ENTRIES["piqa"], data)
    assert [whole.share(n, 3).doc_ids for n in range(3)] == [[0, 3], [1], [2]]
    assert spread(7, 3) == [0, 2, 4]
    assert spread(5, 5) == [0, 1, 2, 3, 4]
    assert spread(5, 4) == [0, 1, 2, 3]
    assert spread_groups(["a", "b", "b", "c"], 3) == [0, 1, 2]


def test_an_answer_that_may_be_none_is_asked_for_after_the_answer(data: Path):
    loaded = load_task(ENTRIES["squad_v2"], data)
    assert isinstance(loaded.task, AbstainingTask)
    assert [(r.request_type, r.doc_id, r.idx) for r in loaded.requests] == [
        ("generate_until", 0, 0),
        ("loglikelihood", 0, 1),
        ("generate_until", 1, 0),
        ("loglikelihood", 1, 1),
    ]
    assert loaded.requests[1].args == (loaded.requests[0].args[0], " unanswerable")
    assert loaded.requests[3].doc["question"] == SQUAD[1]["question"]


class Choices:
    """As much of a task as has choices."""

    def __init__(self, choices: list[Any], gold: Any, multiple_input: bool = False) -> None:
        self.multiple_input, self._choices = multiple_input, choices
        self.doc_to_choice = lambda doc: choices
        self.doc_to_target = lambda doc: "never" if multiple_input else gold
        self.doc_to_text = lambda doc: gold if multiple_input else "never"


@pytest.mark.parametrize(
    ("choices", "gold", "wanted"),
    [(["a", "b"], "b", 1), (["a", "b"], 0, 0), (["a", "b"], 1, 1), (["a", "b"], 2, None), (["a", "b"], -1, None),
     (["a", "b"], "c", None), (["a", "b"], None, None), (["a", "b"], 1.0, None)],
)  # fmt: skip
@pytest.mark.parametrize("multiple_input", [False, True])
def test_the_right_choice(choices: list[Any], gold: Any, wanted: int | None, multiple_input: bool):
    task: Any = Choices(choices, gold, multiple_input)
    if wanted is not None:
        assert right_choice(task, {}) == wanted
    else:
        with pytest.raises(ValueError, match="is none of 2 choices"):
            right_choice(task, {})


def test_an_example_that_does_not_fit_is_named(data: Path):
    piqa = ENTRIES["piqa"]
    assert str(_misfit(piqa, Path("d"), 4, ValueError("bad\nmore"))) == (
        "d/piqa/validation.jsonl.gz: example 5 does not fit the task piqa (ValueError: bad)"
    )
    assert str(_misfit(piqa, None, 0, KeyError())) == "piqa: example 1 does not fit the task piqa (KeyError: )"
    assert len(str(_misfit(piqa, None, 0, ValueError("x" * 999)))) < 300
    write_rows(data / "piqa" / "validation.jsonl.gz", [*PIQA, PIQA[0] | {"label": 2}])
    with pytest.raises(InputError, match="example 5 does not fit"):
        load_task(piqa, data)
    assert load_task(piqa, data, limit=2).doc_ids == [0, 2]  # of 5: the last is not asked


def test_a_task_is_chosen_once_in_the_order_of_its_name():
    names = [entry.name for entry in choose_tasks(["rte", "squad", "rte", "squad_v1", "piqa"])]
    assert names == ["rte", "squad_v1", "squad_v2", "piqa"]
    with pytest.raises(
        InputError, match="--tasks zzzzzzzz: no such task; groups are glue, superglue, squad, zero_shot; or all"
    ):
        choose_tasks(["piqa", "zzzzzzzz"])
    entry = ENTRIES["qqp"]
    assert (entry.test_rows, entry.train_rows, entry.main_metric) == ((3496, 23496), (0, 3496), "acc")
    assert entry.test == ["glue_qqp/train_part.jsonl.gz"]
    assert ENTRIES["piqa"].train == []


def test_two_models_that_answer_from_the_key(data: Path):
    piqa = load_task(ENTRIES["piqa"], data)
    oracle = Oracle(piqa).loglikelihood(piqa.requests)
    assert [logprob == 0 for logprob, _ in oracle] == [True, False, False, True, True, False, False, True]
    squad = load_task(ENTRIES["squad_v2"], data)
    text, no_answer = squad.requests[0], squad.requests[1]
    assert Oracle(squad).generate_until([text, squad.requests[2]]) == ["a language", "unanswerable"]
    assert [logprob for logprob, _ in Oracle(squad).loglikelihood([no_answer, squad.requests[3]])] == [-1e6, 0.0]
    lambada = load_task(ENTRIES["lambada"], data)
    assert Oracle(lambada).loglikelihood(lambada.requests) == [(0.0, True)] * 2
    wiki = load_task(ENTRIES["wikitext103"], data)
    assert Oracle(wiki).loglikelihood_rolling(wiki.requests) == [0.0, 0.0]
    text = str(wiki.requests[0].args[0])
    assert Chance(wiki).loglikelihood_rolling(wiki.requests)[0] == pytest.approx(-5.545177444 * len(text.encode()))
    draws = Chance(piqa).loglikelihood(piqa.requests)
    assert draws == Chance(piqa).loglikelihood(piqa.requests) != Chance(piqa, 1).loglikelihood(piqa.requests)
    assert all(logprob <= 0 and not greedy for logprob, greedy in draws)
    made = Chance(squad).generate_until([squad.requests[0]] * 40)
    assert 10 < made.count("unanswerable") < 30
    assert all(len(answer.split()) == 3 for answer in made if answer != "unanswerable")
    by_length = Chance(piqa)._choice(piqa.requests[1])[0] / (len(PIQA[0]["sol2"]))
    assert by_length == pytest.approx(Chance(load_task(ENTRIES["cola"], data))._choice(piqa.requests[1])[0])


def test_what_drawing_scores(data: Path):
    def of(name: str, metric: str) -> float | None:
        return chance_score(load_task(ENTRIES[name], data), metric)

    assert (of("piqa", "acc_norm"), of("piqa", "acc")) == (0.5, None)
    assert of("cola", "mcc") == 0.0
    assert of("lambada", "acc") == 0.0
    assert of("lambada", "perplexity") is None
    assert of("squad_v2", "f1") is None
    assert of("wikitext103", next(iter(ENTRIES["wikitext103"].metrics))) is None
    row = {
        "passage": "P.",
        "query": "@placeholder ran",
        "entities": ["a", "b", "b", "c", "d"],
        "answers": ["b", "b", "x"],
    }
    for name in ENTRIES["record"].test:
        write_rows(data / name, [row, row | {"answers": ["a", "b"]}])
    assert of("record", "em") == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert of("record", "f1") is None


def test_a_rating_between_two_whole_ones_is_known_too(data: Path):
    rows = [{"sentence1": "A.", "sentence2": "B.", "label": label} for label in (2.25, 5.0, 0.0)]
    write_rows(data / "glue_stsb" / "validation.jsonl.gz", rows)
    loaded = load_task(ENTRIES["stsb"], data)
    answers = [logprob for logprob, _ in Oracle(loaded).loglikelihood(loaded.requests)]
    assert len(answers) == 18
    assert answers[:6] == [-1e6, -1e6, pytest.approx(-0.287682), pytest.approx(-1.386294), -1e6, -1e6]
    assert answers[6:12] == [-1e6] * 5 + [0.0]
    assert answers[12:] == [0.0] + [-1e6] * 5
    assert COLA[0]["label"] == 1
