import json
import shutil
from pathlib import Path

import pytest

from tests.tiny_model import make_run, tiny_llama
from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError
from tinyllama.evaluate.evaluate_config import EvaluateConfig
from tinyllama.evaluate.run_evaluation import evaluate_run
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
