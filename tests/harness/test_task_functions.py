"""What the task files call, by hand."""

import math
from typing import Any

import pytest

from tinyllama.harness.task_functions import (
    expected_rating,
    first_answer,
    nearest_rating,
    record,
    record_answer,
    record_choices,
    record_passage,
    squad_v1,
    squad_v2,
)

RECORD: dict[str, Any] = {
    "passage": " The dog ran.\n@highlight\nIt was fast\n@highlight\nA Cat saw it \n",
    "query": "@placeholder chased @placeholder",
    "entities": ["Tom Dog", "Ann", "Tom Dog"],
    "answers": ["Tom Dog", "Bob", "Tom Dog"],
}


def test_a_rating_is_the_mean_of_the_whole_ones_by_probability():
    logprobs = [(math.log(weight) - 700.0, False) for weight in (0.1, 0.1, 0.2, 0.1, 0.4, 0.1)]
    found = expected_rating({"label": "3.5"}, logprobs)  # .1 + .4 + .3 + 1.6 + .5
    assert found == {"pearson": (pytest.approx(2.9), 3.5), "spearman": (pytest.approx(2.9), 3.5)}
    assert expected_rating({"label": 0}, [(-5000.0, True), (-5001.0, False)])["pearson"][0] == pytest.approx(
        1 / (1 + math.e)
    )
    assert [nearest_rating({"label": label}) for label in (0, "2.4", 2.6, 5.0)] == [0, 2, 3, 5]


def test_an_entity_is_written_into_each_gap():
    assert record_passage(RECORD) == "The dog ran.\n\n  - It was fast.\n  - A Cat saw it.\n"
    assert record_passage({"passage": "Alone."}) == "Alone.\n\n"
    assert record_choices(RECORD) == ["  - Ann chased Ann", "  - Tom Dog chased Tom Dog"]
    assert record_answer(RECORD) == "  - Bob chased Bob"


def test_the_likeliest_entity_is_judged():
    assert record(RECORD, [(-2.0, False), (-1.0, False)]) == {"em": 1.0, "f1": 1.0}
    assert record(RECORD, [(-1.0, False), (-2.0, False)]) == {"em": 0.0, "f1": 0.0}
    assert record(RECORD | {"answers": ["the Dog"]}, [(-2.0, False), (-1.0, False)]) == {
        "em": 0.0,
        "f1": pytest.approx(2 / 3),
    }


def test_answers_of_squad():
    golds = {"answers": {"text": ["old Paris", "Rome"]}}
    assert first_answer(golds) == "old Paris"
    assert first_answer({"answers": {"text": []}}) == "unanswerable"
    assert squad_v1(golds, ["in Paris", "x"]) == {"exact_match": 0.0, "f1": 0.5}
    assert squad_v1(golds, [" rome!"]) == {"exact_match": 1.0, "f1": 1.0}


@pytest.mark.parametrize(
    ("golds", "text", "wanted"),
    [
        (["old Paris"], "Paris", (0.0, 2 / 3, 2 / 3, None, (-0.5, 0.0, 0.0), (-0.5, 2 / 3, 0.0))),
        (["Paris"], "unanswerable", (0.0, 0.0, 0.0, None, (-0.5, 0.0, 0.0), (-0.5, 0.0, 0.0))),
        ([], "Paris", (0.0, 0.0, None, 0.0, (-0.5, 0.0, 1.0), (-0.5, 0.0, 1.0))),
        ([], "The unanswerable.", (1.0, 1.0, None, 1.0, (-0.5, 1.0, 1.0), (-0.5, 1.0, 1.0))),
        ([], "", (1.0, 1.0, None, 1.0, (-0.5, 1.0, 1.0), (-0.5, 1.0, 1.0))),
    ],
)
def test_answers_that_may_be_none(golds: list[str], text: str, wanted: tuple[Any, ...]):
    names = ("exact_match", "f1", "answerable_f1", "unanswerable_f1", "best_exact_match", "best_f1")
    found = squad_v2({"answers": {"text": golds}}, [text, (-0.5, True)])
    assert found == {name: pytest.approx(value) if value else value for name, value in zip(names, wanted, strict=True)}
