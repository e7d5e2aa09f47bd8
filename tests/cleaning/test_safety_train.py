"""Training from labels: what is learnt, what is measured on rows never trained on, and labels that cannot be used."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cleaning.clean_inputs import prose, write_json_lines
from tinyllama.cleaning.safety_labels import read_labels
from tinyllama.cleaning.safety_model import CARD_FILE, open_safety_model
from tinyllama.cleaning.safety_train import row_weights, train_safety
from tinyllama.errors import InputError


def rows(count: int, label: str, words: list[str], seed: int) -> list[dict[str, Any]]:
    """Sentences with one of some made-up words in them."""
    pick = random.Random(seed)
    made = []
    for number in range(count):
        sentence = prose(seed * 1000 + number, 1).split()[:12]
        sentence.insert(pick.randrange(len(sentence)), pick.choice(words))
        made.append({"text": " ".join(sentence), "label": label})
    return made


LABELS = rows(120, "hate", ["grobbish", "snarvle"], 1) + rows(120, "none", ["lovely", "gentle"], 2)
SEXUAL = rows(120, "sexual", ["florple"], 3)


def test_a_model_of_ones_own_labels(tmp_path: Path) -> None:
    labels = write_json_lines(tmp_path / "mine.jsonl.gz", LABELS)
    summary = train_safety([labels], tmp_path / "out", seed=1)
    assert summary["rows"] == 240
    assert set(summary) == {"rows", "hate"}
    figures = summary["hate"]
    assert figures["average_precision"] > 0.95
    assert figures["recall_at_1pct_false_positives"] > 0.8
    assert 30 <= figures["rows"] <= 70
    assert figures["reliability"]["expected_calibration_error"] < 0.3
    model, packaged = open_safety_model(tmp_path / "out"), open_safety_model()
    assert model.text_probabilities(["The grobbish keeper of the northern light"])[0][0] > 0.7
    assert model.text_probabilities(["The gentle keeper of the northern light"])[0][0] < 0.3
    np.testing.assert_array_equal(model.weights.imag, packaged.weights.imag)  # no labels of it were given
    card = (tmp_path / "out" / CARD_FILE).read_text()
    assert "| mine | not stated | 120 | 120 |" in card
    assert "Weak supervision" in card  # the kept head's own words


def test_same_labels_same_bytes_and_both_heads(tmp_path: Path) -> None:
    labels = write_json_lines(tmp_path / "mine.jsonl", LABELS + SEXUAL)
    summary = train_safety([labels], tmp_path / "a")
    assert set(summary) == {"rows", "hate", "sexual"}
    train_safety([labels], tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    hate, sexual = open_safety_model(tmp_path / "a").text_probabilities(["The florple keeper of the northern light"])[0]
    assert sexual > 0.7
    assert hate < 0.6


def test_rows_are_balanced_by_source_and_class(tmp_path: Path) -> None:
    given = [{**row, "source": "a"} for row in LABELS[:30] + LABELS[120:180]]
    given += [{**row, "source": "b", "weight": 3.0} for row in LABELS[60:70]]
    given += [{**row, "source": "c"} for row in LABELS[200:210]]
    found = read_labels([write_json_lines(tmp_path / "x.jsonl", given)], {}, 0)
    truth = np.array([bool(row.labels) for row in found])
    weights = row_weights(found, truth)
    assert weights[:30].sum() == pytest.approx(45)
    assert weights[30:90].sum() == pytest.approx(45)
    assert set(weights[90:100]) == {3.0}
    assert set(weights[100:]) == {1.0}


def test_labels_of_other_names(tmp_path: Path) -> None:
    path = write_json_lines(
        tmp_path / "x.jsonl",
        [
            {"text": "a", "label": 1},
            {"text": "b", "label": "noHate"},
            {"text": "c", "label": 7},
            {"text": "d", "label": ["hate", "sexual"]},
        ],
    )
    found = read_labels([path], {"7": "none"}, 0)
    assert [sorted(row.labels) for row in found] == [["hate"], [], [], ["hate", "sexual"]]


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    given = [{**row, "group": str(number % 7)} for number, row in enumerate(LABELS)]
    found = read_labels([write_json_lines(tmp_path / "x.jsonl", given)], {}, 3)
    parts = {(number % 7, row.part) for number, row in enumerate(found)}
    assert len(parts) == 7


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "a", "label": "hate"}] * 9, "all 9 rows have the label hate; add rows labelled none"),
        ([{"text": "a", "label": "none"}] * 9, "all 9 rows have the label none; add rows labelled hate"),
        ([{"text": "a", "label": "rude"}], r'line 1: label = "rude" is unknown; .*--label rude=none'),
        ([{"text": "a", "label": None}], "line 1: label = null is unknown"),
        ([{"text": "a", "label": 2}], r"label = 2 is unknown; .*--label 2=none"),
        ([{"text": "a", "label": {"a": 1}}], "is unknown"),
        ([{"text": " ", "label": "hate"}], r'line 1: text is "" \(empty\); give each row a text'),
        ([{"label": "hate"}], "line 1: text is missing"),
        ([{"text": 5, "label": "hate"}], "line 1: text is 5, not a text"),
        ([{"text": "a", "label": "hate", "weight": -1}], "weight = -1 is not a number above 0"),
        ([{"text": "a", "label": "hate", "weight": float("nan")}], "weight = NaN"),
        ([{"text": "a", "label": "hate", "part": "dev"}], 'part = "dev" is unknown'),
        ([{"text": "a", "label": "hate"}, {"text": "b", "label": "none"}], "part has only one class of hate"),
        ([["a"]], "line 1: not a JSON object"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=message) as caught:
        train_safety([path], tmp_path / "out")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_blank_line_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "label": "hate"}\n\n \n{"text": "b", "label": "none"}\n')
    assert [row.text for row in read_labels([path], {}, 3)] == ["a", "b"]


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "label": "hate"}\n{"text": ')
    with pytest.raises(InputError, match="line 2: not JSON"):
        train_safety([path], tmp_path / "out")
    path.write_text(json.dumps({"text": "word " * 2_000_000, "label": "hate"}))
    with pytest.raises(InputError, match="line 1: longer than 8,000,000 bytes"):
        train_safety([path], tmp_path / "out")
    with pytest.raises(InputError, match="map to hate, sexual or none"):
        read_labels([path], {"2": "other"}, 0)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a readable parquet file"):
        train_safety([tmp_path / "x.parquet"], tmp_path / "out")
