"""The safety model by hand: which features weigh what, worst passages, thresholds, labels, weights, training matrix."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from tests.cleaning.clean_inputs import write_json_lines
from tinyllama.cleaning import safety_labels, safety_model, safety_train
from tinyllama.cleaning.clean_config import SafetyConfig
from tinyllama.cleaning.safety_features import FEATURES_VERSION, SLOTS, features_of, passages_of
from tinyllama.cleaning.safety_labels import LabelledText, read_labels
from tinyllama.cleaning.safety_model import MODEL_FILE, SafetyModel, SafetyResult, open_safety_model, remove_unsafe
from tinyllama.cleaning.safety_train import (
    card,
    feature_matrix,
    metrics,
    recall_at,
    reliability,
    row_weights,
    threshold_at,
    train_safety,
)
from tinyllama.document_files import paragraphs_in
from tinyllama.errors import InputError

# -- what goes


@pytest.mark.parametrize(
    ("rows", "max_hate", "max_sexual", "drops", "share", "expected"),
    [
        # at the threshold stays, above it goes; each head has its own
        ([(0.5, 0.5)], 0.5, 0.5, "document", 0.0, SafetyResult("aaaa", "", 0.5, 0.5)),
        ([(0.51, 0.2)], 0.5, 0.1, "document", 0.0,
         SafetyResult("aaaa", "safety_sexual", 0.51, 0.2, detail="sexual 0.200, 1 of 1 paragraphs")),
        ([(0.7, 0.2)], 0.5, 0.1, "document", 0.0,
         SafetyResult("aaaa", "safety_hate", 0.7, 0.2, detail="hate 0.700, 1 of 1 paragraphs")),
        ([(0.6, 0.9)], 0.5, 1.0, "score", 0.0, SafetyResult("aaaa", "", 0.6, 0.9)),
        # 4 of 10 characters are bad
        ([(0.9, 0.1), (0.1, 0.2), (0.3, 0.05)], 0.5, 0.5, "paragraph", 0.4, SafetyResult("bbb\n\nccc", "", 0.3, 0.2, 1)),
        ([(0.9, 0.1), (0.1, 0.2), (0.3, 0.05)], 0.5, 0.5, "paragraph", 0.39,
         SafetyResult("aaaa\n\nbbb\n\nccc", "safety_hate", 0.9, 0.2, detail="hate 0.900, 1 of 3 paragraphs")),
        ([(0.1, 0.1), (0.1, 0.8), (0.7, 0.05)], 0.5, 0.5, "paragraph", 0.6, SafetyResult("aaaa", "", 0.1, 0.1, 2)),
        ([(0.1, 0.1), (0.1, 0.8), (0.7, 0.05)], 0.5, 0.5, "document", 1.0,
         SafetyResult("aaaa\n\nbbb\n\nccc", "safety_sexual", 0.7, 0.8, detail="sexual 0.800, 2 of 3 paragraphs")),
    ],
)  # fmt: skip
def test_what_goes_of_a_text(
    rows: list[tuple[float, float]],
    max_hate: float,
    max_sexual: float,
    drops: str,
    share: float,
    expected: SafetyResult,
) -> None:
    text = "\n\n".join(["aaaa", "bbb", "ccc"][: len(rows)])
    values = {"max_hate": max_hate, "max_sexual": max_sexual, "safety": drops, "max_unsafe_chars": share}
    assert remove_unsafe(text, np.array(rows), SafetyConfig.model_validate(values)) == expected


def test_lines_go_where_a_text_has_no_blank_line() -> None:
    rows = np.array([(0.9, 0.1), (0.1, 0.2), (0.3, 0.05)])
    found = remove_unsafe("a\nbb\ncc", rows, SafetyConfig(max_hate=0.5, max_sexual=0.5))
    assert (found.text, found.unsafe_paragraphs) == ("bb\ncc", 1)


# -- scores


def one_word_model(**weights: tuple[float, float]) -> SafetyModel:
    """A model that knows words only: (hate, sexual) of each."""
    table = np.zeros(SLOTS, np.complex64)
    for word, (hate, sexual) in weights.items():
        _, families = features_of(passages_of(word))
        table[next(families).slots[0]] = hate + 1j * sexual
    return SafetyModel(table, np.array([0.5, -0.25]))


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_a_passages_probability_by_hand() -> None:
    """The sum of its words' weights over the root of its bytes, and the head's bias; " grob x " has 8 bytes."""
    model = one_word_model(grob=(8.0, -2.0), snarv=(1.0, 4.0))
    (found,) = model.probabilities_of(["Grob, x"])
    assert found == pytest.approx(np.array([[logistic(8 / 8**0.5 + 0.5), logistic(-2 / 8**0.5 - 0.25)]]), abs=1e-6)
    (twice,) = model.probabilities_of(["grob grob snarv"])
    size = len(" grob grob snarv ")
    expected = [[logistic(17 / size**0.5 + 0.5), logistic(0 / size**0.5 - 0.25)]]
    assert twice == pytest.approx(np.array(expected), abs=1e-6)


def test_a_paragraph_has_its_worst_passage_and_a_text_its_worst_paragraph() -> None:
    model = one_word_model(grob=(60.0, 0.0), snarv=(0.0, 60.0))
    filler = "x " * 150
    texts = [f"{filler} grob\n\nsnarv {filler}\n\n...", "", f"{filler}\n{filler} grob snarv"]
    found = model.probabilities_of(texts)
    assert [rows.shape for rows in found] == [(3, 2), (1, 2), (2, 2)]
    plain = [logistic(0.5), logistic(-0.25)]
    assert found[0][0][0] > 0.97
    assert found[0][0][1] == pytest.approx(plain[1], abs=1e-6)
    assert found[0][1][1] > 0.97
    assert found[0][2].tolist() == found[1][0].tolist() == [0, 0]
    assert found[2][0] == pytest.approx(plain, abs=1e-6)
    both = model.text_probabilities(texts)
    assert both[0] == (round(found[0][0][0], 6), round(found[0][1][1], 6))
    assert both[1] == (0.0, 0.0)
    assert model.probabilities_of([]) == []
    assert len(passages_of(f"{filler} grob")) == 2


def test_many_passages_are_scored_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = one_word_model(grob=(20.0, 1.0))
    passages = [passages_of(f"{'grob ' * (n % 3)} {'y' * n}")[0] for n in range(1, 30)]
    whole = model.passage_probabilities(passages)
    sizes: list[int] = []
    plain = safety_model.features_of

    def counted(some: list[bytes]) -> Any:
        sizes.append(sum(map(len, some)))
        return plain(some)

    monkeypatch.setattr(safety_model, "features_of", counted)
    monkeypatch.setattr(safety_model, "MAX_BYTES", 60)
    np.testing.assert_allclose(model.passage_probabilities(passages), whole)
    assert max(sizes) <= 60
    assert sum(sizes) == sum(map(len, passages))
    assert len(sizes) < len(passages)
    assert model.passage_probabilities([]).shape == (0, 2)


@pytest.mark.parametrize(("words", "sizes"), [(100, [100]), (101, [50, 51]), (200, [100, 100]), (201, [67, 67, 67])])
def test_passages_have_at_most_a_hundred_words(words: int, sizes: list[int]) -> None:
    assert [len(passage.split()) for passage in passages_of("w " * words)] == sizes


def test_long_words_are_cut_in_long_passages_only() -> None:
    assert passages_of("a" * 70) == [b" " + b"a" * 70 + b" "]
    assert passages_of("a" * 1000) == [b" " + b"a" * 1000 + b" "]
    assert passages_of("a" * 1001) == [b" " + b"a" * 60 + b" "]
    assert passages_of(f"{'a' * 999} {'b' * 61}") == [b" " + b"a" * 60 + b" " + b"b" * 60 + b" "]


def test_only_blank_lines_part_paragraphs() -> None:
    assert paragraphs_in("a\n \t\nb\nc") == ["a", "b\nc"]
    assert paragraphs_in("a\n\n\n\nb") == ["a", "b"]
    assert paragraphs_in("\n\na") == ["", "a"]
    assert paragraphs_in("a\n") == ["a", ""]


# -- the model's file


def test_a_model_file_at_its_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {name: np.full(SLOTS, value, np.float16) for name, value in (("hate", 0.5), ("sexual", -1.5))}
    described: dict[str, Any] = {"features_version": FEATURES_VERSION, "biases": {"hate": 1, "sexual": -2.5}}
    path = tmp_path / MODEL_FILE
    path.write_bytes(
        save(weights, metadata={"tinyllama_safety": json.dumps(described | {"records": {"hate": {"rows": 3}}})})
    )
    for place in (path, tmp_path):
        model = open_safety_model(place)
        assert (model.weights[0], model.weights.dtype) == (0.5 - 1.5j, np.complex64)
        assert model.biases.tolist() == [1.0, -2.5]
        assert model.records == {"hate": {"rows": 3}}
    size = path.stat().st_size
    for limit, opens in ((size, True), (size - 1, False)):
        monkeypatch.setattr(safety_model, "_MAX_MODEL_BYTES", limit)
        if opens:
            open_safety_model(path)
        else:
            with pytest.raises(InputError, match="larger than"):
                open_safety_model(path)
    monkeypatch.undo()
    for change in (
        {"biases": {"hate": "1", "sexual": 0}},
        {"biases": [1, 2]},
        {"biases": {"hate": 0.0, "sexual": math.nan}},
    ):
        path.write_bytes(save(weights, metadata={"tinyllama_safety": json.dumps(described | change)}))
        with pytest.raises(InputError, match="no valid weights or bias"):
            open_safety_model(path)
    for tensors in (weights | {"sexual": np.zeros(SLOTS, np.float32)}, {"hate": weights["hate"]}):
        path.write_bytes(save(tensors, metadata={"tinyllama_safety": json.dumps(described)}))
        with pytest.raises(InputError, match="'sexual'"):
            open_safety_model(path)
    path.write_bytes(save(weights, metadata={"tinyllama_safety": json.dumps(described | {"records": [1]})}))
    assert open_safety_model(path).records == {}
    path.write_bytes(save(weights))
    with pytest.raises(InputError, match="features_version is None"):
        open_safety_model(path)


# -- metrics


def test_thresholds_and_recall_at_their_edges() -> None:
    scores = np.arange(100) / 100
    for rate, expected in ((0.0, 0.99), (0.01, 0.98), (0.019, 0.98), (0.02, 0.97), (0.99, 0.0)):
        assert threshold_at(scores[::-1], rate) == expected
    truth = np.array([True] * 4 + [False] * 100)
    both = np.concatenate([[0.99, 0.98, 0.985, 0.5], scores])
    assert recall_at(truth, both) == 0.5  # above 0.98
    assert recall_at(truth, both, 0.02) == 0.75
    found = metrics(truth, both)
    assert (found["rows"], found["positives"], found["recall_at_1pct_false_positives"]) == (104, 4, 0.5)


def test_reliability_weighs_rows_and_bins() -> None:
    truth = np.array([True, False, True, False, True])
    said = np.array([0.1, 0.19, 0.2, 1.0, 0.9])
    found = reliability(truth, said, np.array([1.0, 3.0, 2.0, 1.0, 3.0]))
    assert found["bins"] == [
        {"said": 0.168, "true": 0.25, "rows": 2}, {"said": 0.2, "true": 1.0, "rows": 1},
        {"said": 0.925, "true": 0.75, "rows": 2},
    ]  # fmt: skip
    expected = (abs(0.1675 - 0.25) * 4 + 0.8 * 2 + abs(0.925 - 0.75) * 4) / 10
    assert found["expected_calibration_error"] == pytest.approx(expected, abs=1e-4)


# -- labels


def labels_of(path: Path, rows: list[dict[str, Any]], seed: int = 0) -> list[LabelledText]:
    more = [{"text": "h", "label": "hate"}, {"text": "n", "label": "none"}]
    return read_labels([write_json_lines(path, rows + more)], {"Mine": "sexual"}, seed)[: len(rows)]


def test_what_a_label_may_be(tmp_path: Path) -> None:
    given = [
        "HATE",
        "toxic",
        1,
        True,
        1.0,
        "1",
        "pornography",
        "MINE",
        0,
        False,
        0.0,
        "none",
        "neither",
        [],
        ["none", "hate"],
    ]
    rows = [{"text": f"t{n}", "label": label} for n, label in enumerate(given)]
    found = [sorted(row.labels) for row in labels_of(tmp_path / "x.jsonl", rows)]
    assert found == [["hate"]] * 6 + [["sexual"]] * 2 + [[]] * 6 + [["hate"]]
    for bad in (1.5, "rude", {"a": 1}, ["hate", "rude"]):
        with pytest.raises(InputError, match="line 1: label = "):
            labels_of(tmp_path / "y.jsonl", [{"text": "t", "label": bad}])


def test_what_else_a_row_says(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "label": 1, "source": "s", "licence": "CC0", "part": "test", "weight": 2},
        {"text": "b\ud800", "label": 1, "source": 5, "licence": None, "part": "train", "weight": 0.5},
    ]  # fmt: skip
    assert labels_of(tmp_path / "mine.more.jsonl", rows) == [
        LabelledText("a", frozenset({"hate"}), "s", "CC0", "test", 2.0),
        LabelledText("b?", frozenset({"hate"}), "mine", "", "train", 0.5),
    ]
    for weight in (0, -1, True, "1", math.inf, math.nan):
        with pytest.raises(InputError, match="weight = "):
            labels_of(tmp_path / "x.jsonl", [{"text": "a", "label": 1, "weight": weight}])
    pq.write_table(
        pa.table({"text": ["p", "q"], "label": ["hate", "none"], "weight": [None, 2.0]}), tmp_path / "z.parquet"
    )
    assert [row.weight for row in read_labels([tmp_path / "z.parquet"], {}, 0)] == [None, 2.0]


def test_parts_are_a_fifth_and_a_tenth_and_change_with_the_seed(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"t{n}", "label": 1} for n in range(2000)]
    parts = {seed: [row.part for row in labels_of(tmp_path / "x.jsonl", rows, seed)] for seed in (0, 1)}
    for names in parts.values():
        assert 340 < names.count("test") < 460  # 400 expected, standard deviation 18
        assert 150 < names.count("calibration") < 250  # 200 expected, 13
        assert set(names) == {"test", "calibration", "train"}
    assert parts[0] != parts[1]
    grouped = labels_of(tmp_path / "x.jsonl", [{**row, "group": "g"} for row in rows[:50]])
    assert len({row.part for row in grouped}) == 1


def test_a_line_at_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = len(json.dumps({"text": "x" * 50, "label": "hate"}))
    monkeypatch.setattr(safety_labels, "MAX_LINE_BYTES", line)
    assert labels_of(tmp_path / "x.jsonl", [{"text": "x" * 50, "label": "hate"}])
    with pytest.raises(InputError, match="line 1: longer than"):
        labels_of(tmp_path / "x.jsonl", [{"text": "x" * 51, "label": "hate"}])


# -- training


def labelled(
    text: str, *labels: str, source: str = "s", part: str = "train", weight: float | None = None
) -> LabelledText:
    return LabelledText(text, frozenset(labels), source, "CC0", part, weight)


def test_each_class_of_a_source_weighs_half_of_its_rows() -> None:
    rows = (
        [labelled("a", "hate")]
        + [labelled("b")] * 3
        + [labelled("c", source="t", weight=7.0)]
        + [labelled("d", source="u")] * 2
    )
    truth = np.array([bool(row.labels) for row in rows])
    assert row_weights(rows, truth).tolist() == [2.0, 2 / 3, 2 / 3, 2 / 3, 7.0, 1.0, 1.0]


def test_the_matrix_has_a_row_for_each_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passage's row: each feature as often as it comes, over the root of its bytes."""
    monkeypatch.setattr(safety_train, "_ROWS_AT_ONCE", 2)
    texts = ["grob grob", "", "x " * 150, "grob x", "jewish grob"]
    matrix, owners = feature_matrix(texts)
    assert owners.tolist() == [0, 2, 2, 3, 4]
    assert matrix.shape == (5, SLOTS)
    for row, text in ((0, "grob grob"), (3, "grob x"), (4, "jewish grob")):
        scale, families = features_of(passages_of(text))
        expected: dict[int, float] = {}
        for family in families:
            for place, slot in enumerate(family.slots.tolist()):
                if place not in set(family.void.tolist()):
                    expected[slot] = expected.get(slot, 0) + scale[0]
        found = matrix[[row]].tocoo()
        assert dict(zip(found.col.tolist(), found.data.tolist(), strict=True)) == pytest.approx(expected)
    empty, nobody = feature_matrix([""])
    assert (empty.shape, nobody.size) == ((0, SLOTS), 0)


def test_training_uses_each_part_for_what_it_is(tmp_path: Path) -> None:
    """Ten rows of each class and part; those of the other label alone say nothing of a head."""
    rows: list[dict[str, Any]] = []
    for part in ("train", "test"):
        rows += [
            {"text": f"grob {n} thing", "label": "hate", "part": part, "source": "a", "licence": "CC0"}
            for n in range(200)
        ]
        rows += [
            {"text": f"kind {n} thing", "label": "none", "part": part, "source": "a", "licence": "CC0"}
            for n in range(150)
        ]
        rows += [{"text": f"florp {n} thing", "label": "sexual", "part": part, "source": "b"} for n in range(20)]
        rows += [{"text": f"mild {n} thing", "label": "none", "part": part, "source": "b"} for n in range(30)]
    drawn = [{"text": f"{word} {n} stuff", "label": label, "source": "c"}
             for n in range(60) for word, label in (("grob", "hate"), ("kind", "none"), ("florp", "sexual"))]  # fmt: skip
    found = train_safety([write_json_lines(tmp_path / "x.jsonl", rows + drawn)], tmp_path / "out", notes=["a note"])
    assert found["rows"] == 980
    hate, sexual = found["hate"], found["sexual"]
    assert hate["sources"]["a"] == {"licence": "CC0", "hate": 400, "none": 300}
    assert hate["sources"]["b"] == {"licence": "not stated", "none": 60}
    assert sexual["sources"]["b"] == {"licence": "not stated", "sexual": 40, "none": 60}
    drawn_tests = {head: found[head]["rows"] - rows_of for head, rows_of in (("hate", 380), ("sexual", 200))}
    assert 8 <= drawn_tests["hate"] <= 45
    assert hate["positives"] >= 200
    assert sexual["positives"] < 45
    assert set(hate["by_source"]) == {"a", "c"}
    assert set(sexual["by_source"]) == {"b", "c"}
    assert hate["by_source"]["a"]["rows"] == 350
    assert hate["average_precision"] > 0.99
    assert list(hate["thresholds"]) == ["0.01"]
    assert sum(row["rows"] for row in hate["reliability"]["bins"]) == hate["rows"]
    assert hate["notes"] == ["a note"]
    text = (tmp_path / "out" / "safety.md").read_text()
    assert "| a | CC0 | 400 | 300 |" in text
    assert f"| a | 350 | 200 | {hate['by_source']['a']['average_precision']:.3f} |" in text
    assert f"Thresholds by false positives on held-out rows: {hate['thresholds']['0.01']} (1.0%)." in text
    assert text.index("## hate") < text.index("## sexual") < text.index("## Both")
    assert text.count("- a note") == 2
    assert open_safety_model(tmp_path / "out").records["hate"] == hate
    high, low = open_safety_model(tmp_path / "out").text_probabilities(["a grob 7 thing", "a kind 7 thing"])
    assert high[0] > 0.8 > 0.2 > low[0]


def test_a_card_of_a_head_without_records() -> None:
    text = card({"hate": {}})
    assert text.count("Nothing is recorded about this head.") == 2
    record = {"sources": {}, "rows": 1, "positives": 0, "average_precision": 0.5, "recall_at_1pct_false_positives": 0.25,
              "by_source": {}, "thresholds": {}, "reliability": {"expected_calibration_error": 0.125}}  # fmt: skip
    found = card({"sexual": record})
    assert "| all | 1 | 0 | 0.500 | 0.250 |" in found
    assert "Thresholds by false positives on held-out rows: too few rows." in found
    assert "Expected calibration error: 0.125." in found
