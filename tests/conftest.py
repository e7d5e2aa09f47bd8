"""Real text that every Python has: the language reference in `pydoc_data`, as documents, tokenizer and shards."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small lose more by waiting for threads than they gain

SHARED = Path(__file__).parents[2] / "shared"  # real data beside the checkout; tests that want it skip without


@pytest.fixture(scope="session")
def reference_texts() -> list[str]:
    """The topics of Python's language reference: some 80 documents, 700 kB of English."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


@pytest.fixture(scope="session")
def prepared_run(tmp_path_factory: pytest.TempPathFactory, reference_texts: list[str]) -> Path:
    """A run folder with clean documents, tokenizer (512 pieces) and shards: what `pretrain` needs. Copy before writing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tinyllama import phases
    from tinyllama.phase_runner import run_phase
    from tinyllama.recipe import load_recipe

    run_dir = tmp_path_factory.mktemp("prepared")
    clean, tokenizer = run_dir / "clean", run_dir / "tokenizer"
    for split, chosen in (("train", slice(2, None)), ("validation", slice(0, 2))):
        (clean / split).mkdir(parents=True)
        texts = reference_texts[chosen]
        ids = [f"{split}{number:04d}" for number in range(len(texts))]
        kinds = ["web"] * len(texts)
        pq.write_table(pa.table({"id": ids, "text": texts, "kind": kinds}), clean / split / "00000.parquet")
    recipe = load_recipe(None, ["tokenizer.vocab_size=512"])
    run_phase(phases.tokenizer_phase(recipe, (clean,), tokenizer))
    run_phase(phases.shards_phase(recipe, (clean,), tokenizer, run_dir / "shards"))
    return run_dir


TINY_OVERRIDES = {
    "tokenizer.vocab_size": 512,
    "model.preset": "tiny-2m",
    "model.dim": 32,
    "model.n_layers": 2,
    "model.ffn_dim": 64,
    "train.steps": 12,
    "train.seq_len": 32,
    "train.micro_batch_size": 4,
    "train.tokens_per_step": 256,
    "train.precision": "fp32",
    "train.warmup_steps": 2,
    "train.save_every_steps": 3,
    "train.validate_every_steps": 6,
    "train.validation_tokens": 512,
    "train.device": "cpu",
}


def overrides(**changes: object) -> list[str]:
    """`key=value` words of the tiny training run that tests use; `train__steps=5` changes train.steps."""
    values = TINY_OVERRIDES | {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]
