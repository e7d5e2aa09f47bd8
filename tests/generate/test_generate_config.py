"""Ranges and defaults of `[generate]`, and that each key changes the text."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.tiny_model import tiny_llama
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.generate.decode import generate
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.tokenizer.bpe import Tokenizer

DEFAULTS: dict[str, Any] = {
    "prompts": ["The"], "max_new_tokens": 128, "temperature": 0.8, "top_k": 0, "top_p": 0.95, "min_p": 0.0,
    "repetition_penalty": 1.0, "stop": [], "seed": 1,
}  # fmt: skip


def test_defaults():
    assert GenerateConfig().model_dump() == DEFAULTS
    assert GenerateConfig.how_only_names() == set()


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("max_new_tokens", [0, 1, 10**6], [-1, 1.5]),
        ("temperature", [0.0, 1e-9, 100.0], [-1e-9, float("inf"), float("nan")]),
        ("top_k", [0, 1, 10**6], [-1]),
        ("top_p", [1e-9, 1.0], [0.0, -0.1, 1.0001]),
        ("min_p", [0.0, 1.0], [-1e-9, 1.0001]),
        ("repetition_penalty", [1e-9, 1.0, 50.0], [0.0, -1.0, float("inf"), float("nan")]),
        ("stop", [[], ["x"], ["x", "yz"]], [[""], ["x", ""]]),
        ("seed", [-(2**62), 0, 2**62], [-(2**62) - 1, 2**62 + 1]),
        ("prompts", [[], ["a", "b"]], ["a", [1]]),
    ],
)
def test_a_key_takes_its_range_and_nothing_beyond(key: str, allowed: list[Any], refused: list[Any]):
    for value in allowed:
        assert getattr(GenerateConfig(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError, match=key):
            GenerateConfig(**{key: value})


@pytest.fixture(scope="module")
def opened(prepared_run: Path) -> OpenedModel:
    model = tiny_llama().eval()
    return OpenedModel(model, model.config, Tokenizer.load(prepared_run / "tokenizer"), Path("tiny"), None)


def test_each_key_changes_the_tokens(opened: OpenedModel):
    base: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.5, "top_p": 1.0}
    text = generate(opened, "The ", GenerateConfig(**base))["text"]
    changes: list[dict[str, Any]] = [
        {"max_new_tokens": 23}, {"temperature": 1.4}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.5},
        {"repetition_penalty": 3.0}, {"repetition_penalty": 0.5}, {"stop": [text[5]]}, {"seed": 2},
    ]  # fmt: skip
    made = [generate(opened, "The ", GenerateConfig(**(base | change)))["token_ids"] for change in [{}, *changes]]
    assert len({tuple(ids) for ids in made}) == len(made)
    assert made[1] == made[0][:23]
