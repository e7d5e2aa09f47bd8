import pytest

from tinyllama.harness.task_functions import first_paragraph, rouge, squad_v2
from tinyllama.harness.task_scores import answer_f1, exact_match, normalize_answer


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The  Cat!", "cat"),
        ("an apple, a day", "apple day"),
        ("theatre and anthem", "theatre and anthem"),  # articles are words of their own
        ("1,000 U.S. dollars", "1000 us dollars"),
        ("the", ""),
        ("", ""),
    ],
)
def test_what_of_an_answer_counts(text: str, kept: str):
    assert normalize_answer(text) == kept


def test_exact_match_of_any_gold_answer():
    golds = ["Denver Broncos", "The Broncos"]
    assert exact_match(" broncos.", golds) == 1
    assert exact_match("Denver", golds) == 0
    assert exact_match("", []) == 1
    assert exact_match("Denver", []) == 0


def test_f1_by_hand():
    # 2 common words of 3 and of 2: p = 2/3, r = 1, F1 = 4/5
    assert answer_f1("the old Denver Broncos", ["Denver Broncos"]) == pytest.approx(0.8)
    # a word twice counts as often as it is in both: 1 common of 2 and of 3: 2/5
    assert answer_f1("cat cat", ["cat dog bird"]) == pytest.approx(0.4)
    assert answer_f1("cat", ["dog", "a black cat"]) == pytest.approx(2 / 3)  # the best gold answer
    assert answer_f1("dog", ["cat"]) == 0
    assert (answer_f1("", []), answer_f1("dog", [])) == (1, 0)


def test_an_answer_that_says_that_there_is_none():
    silent = squad_v2({"answers": {"text": []}}, [" Unanswerable.", (-0.5, True)])
    assert (silent["exact_match"], silent["unanswerable_f1"], silent["answerable_f1"]) == (1, 1, None)
    assert silent["best_f1"] == (-0.5, 1.0, 1.0)
    spoken = squad_v2({"answers": {"text": ["Paris"]}}, ["in Paris", (-9.0, False)])
    assert spoken["answerable_f1"] == pytest.approx(2 / 3)
    assert spoken["best_exact_match"] == (-9.0, 0.0, 0.0)


def test_rouge_by_hand():
    pytest.importorskip("rouge_score")
    found = rouge({"highlights": "The cat sat\non the mat ."}, ["the  cats on a mat"])
    # stemmed: the cat sat on the mat / the cat on a mat; common words the cat on mat: p 4/5, r 4/6
    assert found["rouge1"] == pytest.approx(2 * 4 / 11)
    assert found["rouge2"] == pytest.approx(2 * 1 / (4 + 5))  # "the cat" alone
    assert found["rougeL"] == pytest.approx(2 * 4 / 11)  # the cat on mat


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A cat sat.", "A cat sat."),
        ("\n\nA cat\nsat.\n \nA dog.\n\nA cow.", "A cat\nsat."),
        (" \n", ""),
    ],
)
def test_of_a_summary_the_first_paragraph_counts(text: str, wanted: str):
    assert first_paragraph(text) == wanted
