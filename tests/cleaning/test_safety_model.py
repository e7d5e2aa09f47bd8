"""The safety model: what it scores, what it takes out of a text, and that a stranger's file is one line.

The texts here are mild on purpose; docs/safety.md has the figures on labelled sets.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from tests.cleaning.clean_inputs import prose
from tests.cleaning.test_safety_features import reference_slots
from tinyllama.cleaning.clean_config import SafetyConfig
from tinyllama.cleaning.safety_features import FEATURES_VERSION, SLOTS, features_of, passages_of
from tinyllama.cleaning.safety_model import MODEL_FILE, SafetyModel, SafetyResult, open_safety_model, remove_unsafe
from tinyllama.errors import InputError

RUDE = "Shut up, you stupid fucking idiot, you are a worthless piece of shit."


@pytest.fixture(scope="module")
def model() -> SafetyModel:
    return open_safety_model()


def score(model: SafetyModel, text: str) -> tuple[float, float]:
    return model.text_probabilities([text])[0]


def safe(model: SafetyModel, text: str, drops: str) -> SafetyResult:
    return remove_unsafe(text, model.probabilities_of([text])[0], SafetyConfig.model_validate({"safety": drops}))


def test_offence_is_told_from_ordinary_text(model: SafetyModel) -> None:
    assert score(model, RUDE)[0] > 0.95
    assert max(score(model, prose(seed))[0] for seed in range(50)) < 0.3
    assert score(model, "") == (0.0, 0.0)
    assert score(model, "... \n\n ???") == (0.0, 0.0)


@pytest.mark.parametrize("name", ["gay", "jewish", "muslim", "black", "transgender", "deaf", "old"])
def test_naming_a_group_is_no_offence(model: SafetyModel, name: str) -> None:
    """Whichever it is: all have the same probability, and a low one."""
    texts = [f"My {name} neighbours are lovely people.", f"She is {name}.", f"The {name} community met on Sunday."]
    for text in texts:
        assert score(model, text) == score(model, text.replace(name, "christian"))
        assert score(model, text)[0] < 0.5


@given(st.lists(st.text(max_size=80), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_scored_together_as_one_by_one_the_obvious_way(texts: list[str]) -> None:
    model = open_safety_model()
    passages = [passage for text in texts for passage in passages_of(text)]
    expected = np.zeros((len(passages), 2))
    for number, passage in enumerate(passages):
        total = sum(complex(model.weights[slot]) * count for slot, count in reference_slots(passage).items())
        logits = np.array([total.real, total.imag]) * features_of([passage])[0][0] + model.biases
        expected[number] = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(model.passage_probabilities(passages), expected, atol=1e-5)


def test_long_texts_are_scored_in_pieces(model: SafetyModel) -> None:
    book = "\n\n".join(prose(seed) for seed in range(150))
    assert len(book) > 3 * (1 << 16)
    assert score(model, book)[0] < 0.5
    together, alone = score(model, f"{book}\n\n{RUDE}"), score(model, RUDE)
    assert together[0] == pytest.approx(alone[0], abs=1e-5)


def test_one_bad_paragraph_drops_the_paragraph(model: SafetyModel) -> None:
    book = f"{prose(1)}\n\n{RUDE}\n\n{prose(2)}"
    found = safe(model, book, "paragraph")
    assert (found.text, found.reason, found.unsafe_paragraphs) == (f"{prose(1)}\n\n{prose(2)}", "", 1)
    assert found.hate < 0.65
    whole = safe(model, book, "document")
    assert (whole.reason, whole.detail.split(",")[1]) == ("safety_hate", " 1 of 3 paragraphs")
    assert whole.hate > 0.95
    scored = safe(model, book, "score")
    assert (scored.text, scored.reason) == (book, "")
    assert scored.hate > 0.95
    mostly = safe(model, f"{RUDE}\n\n{RUDE}\n\nThe end of it.", "paragraph")
    assert mostly.reason == "safety_hate"


def test_a_text_without_blank_lines_loses_lines(model: SafetyModel) -> None:
    lines = prose(1).split("\n")
    found = safe(model, "\n".join([*lines[:5], RUDE, *lines[5:]]), "paragraph")
    assert found.text == prose(1)


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_text_has_probabilities_and_nothing_is_added(text: str) -> None:
    model = open_safety_model()
    assert all(0 <= value <= 1 for value in score(model, text))
    found = safe(model, text, "paragraph")
    assert found.text == text or found.unsafe_paragraphs


def test_damaged_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"safety\.safetensors: no such file; `tinyllama train-safety"):
        open_safety_model(tmp_path)
    path = tmp_path / MODEL_FILE
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="not a safety model"):
        open_safety_model(tmp_path)
    weights = {name: np.zeros(SLOTS, np.float16) for name in ("hate", "sexual")}
    biases = {"hate": 0.0, "sexual": 0.0}
    good = {"features_version": FEATURES_VERSION, "biases": biases}
    for tensors, described, message in (
        (weights, None, "features_version is None"),
        (weights, good | {"features_version": 99}, "features_version is 99"),
        (weights, good | {"biases": {"hate": 0.0}}, "no valid weights or bias of 'sexual'"),
        (weights, good | {"biases": biases | {"hate": float("inf")}}, "bias of 'hate'"),
        (weights | {"hate": np.zeros(3, np.float16)}, good, "bias of 'hate'"),
        (weights | {"hate": np.full(SLOTS, np.nan, np.float16)}, good, "bias of 'hate'"),
    ):
        path.write_bytes(save(tensors, metadata={"tinyllama_safety": json.dumps(described)}))
        with pytest.raises(InputError, match=message):
            open_safety_model(path)
