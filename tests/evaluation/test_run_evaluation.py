import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.tiny_model import make_run, tiny_llama
from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError
from tinyllama.evaluation import run_evaluation
from tinyllama.evaluation.evaluate_config import EvaluateConfig
from tinyllama.evaluation.run_evaluation import evaluate_run
from tinyllama.evaluation.validation import unigram_perplexity
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_format import INDEX_FILE


@pytest.fixture
def run_dir(prepared_run: Path, tmp_path: Path) -> Path:
    return make_run(prepared_run, tmp_path / "run")


def test_figures_of_a_run(run_dir: Path):
    found = evaluate_run(run_dir, EvaluateConfig(last_word_examples=12))
    assert found["step"] == 3
    assert found["weights_sha256"] == weights_sha256(tiny_llama())
    assert found["parameters"] == tiny_llama().config.n_parameters
    assert found["validation"]["tokens"] == TokenShards(run_dir / "shards" / "validation").n_tokens - 1
    assert found["validation"]["perplexity"] > found["unigram_perplexity"] > 1  # the network is random
    assert found["tasks"]["last_word"]["n"] == 12
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    again = evaluate_run(run_dir, EvaluateConfig(last_word_examples=12))
    assert again == found


def test_last_words_can_be_left_out(run_dir: Path):
    assert evaluate_run(run_dir, EvaluateConfig(last_word_examples=0))["tasks"] == {}
    shutil.rmtree(run_dir / "clean")
    assert evaluate_run(run_dir, EvaluateConfig())["tasks"] == {}


def test_a_model_alone_is_no_run(run_dir: Path):
    with pytest.raises(InputError, match=r"no shards/ in it"):
        evaluate_run(run_dir / "checkpoints" / "step_00000003", EvaluateConfig())


def test_shards_of_another_tokenizer(run_dir: Path):
    path = run_dir / "shards" / "validation" / INDEX_FILE
    index = json.loads(path.read_text()) | {"tokenizer_fingerprint": "0" * 64}
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match="made with another tokenizer"):
        evaluate_run(run_dir, EvaluateConfig())


def test_each_key_is_asked(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    config = EvaluateConfig()
    assert config.model_dump() == {"last_word_examples": 500, "batch_size": 16}
    assert EvaluateConfig.how_only_names() == {"batch_size"}
    for key, lowest in (("last_word_examples", 0), ("batch_size", 1)):
        assert getattr(EvaluateConfig(**{key: lowest}), key) == lowest
        with pytest.raises(ValidationError, match=key):
            EvaluateConfig(**{key: lowest - 1})
    sizes: list[tuple[str, int, int]] = []

    def measured(model: Any, validation: TokenShards, tokenizer: Any, *, seq_len: int, batch_size: int) -> Any:
        sizes.append((validation.split.name, seq_len, batch_size))
        return {"loss": 1.0}

    def last_words(opened: Any, passages: list[Any], batch_size: int) -> Any:
        sizes.append(("passages", len(passages), batch_size))
        return {"accuracy": 0.5}

    monkeypatch.setattr(run_evaluation, "validate", measured)
    monkeypatch.setattr(run_evaluation, "last_word_accuracy", last_words)
    found = evaluate_run(run_dir, EvaluateConfig(last_word_examples=7, batch_size=3))
    assert sizes == [("validation", 48, 3), ("passages", 7, 3)]
    assert (found["validation"], found["tasks"]) == ({"loss": 1.0}, {"last_word": {"accuracy": 0.5}})
    train, validation = (TokenShards(run_dir / "shards" / split) for split in ("train", "validation"))
    assert found["unigram_perplexity"] == unigram_perplexity(train, validation, 512)


@pytest.mark.parametrize(("n_tokens", "is_measured"), [(0, False), (1, False), (2, True)])
def test_validation_needs_two_tokens(run_dir: Path, monkeypatch: pytest.MonkeyPatch, n_tokens: int, is_measured: bool):
    monkeypatch.setattr(run_evaluation, "validate", lambda *given, **named: {"loss": 1.0})
    monkeypatch.setattr(run_evaluation, "unigram_perplexity", lambda *given: 2.0)

    def shards(split: Path) -> TokenShards:
        found = TokenShards(split)
        found.n_tokens = n_tokens
        return found

    monkeypatch.setattr(run_evaluation, "TokenShards", shards)
    found = evaluate_run(run_dir, EvaluateConfig(last_word_examples=0))
    assert (found["validation"], found["unigram_perplexity"]) == (({"loss": 1.0}, 2.0) if is_measured else (None, None))
