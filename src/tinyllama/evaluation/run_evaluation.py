"""Evaluates a finished run: loss on all validation tokens, last-word accuracy on the held-out documents."""

from pathlib import Path
from typing import Any

from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError
from tinyllama.evaluation.evaluate_config import EvaluateConfig
from tinyllama.evaluation.last_word import choose_passages, last_word_accuracy
from tinyllama.evaluation.validation import unigram_perplexity, validate
from tinyllama.exchange.open_model import open_model
from tinyllama.shards.batches import TokenShards


def evaluate_run(run_dir: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Measure the newest valid checkpoint of a run folder, in fp32.

    Returns `step`, `parameters`, `weights_sha256`, `validation` (see `validate`) and `unigram_perplexity` over the whole
    validation split (None if it is empty), and `tasks`: `last_word` if there are held-out documents. Raises InputError
    unless the folder is a run with a checkpoint and shards.
    """
    shards_dir, held_out = run_dir / "shards", run_dir / "clean" / "validation"
    if not shards_dir.is_dir():
        raise InputError(f"{run_dir}: no shards/ in it; give a run folder, not only a model")
    opened = open_model(run_dir)
    train, validation = TokenShards(shards_dir / "train"), TokenShards(shards_dir / "validation")
    for shards in (train, validation):
        if shards.index.tokenizer_fingerprint != opened.tokenizer.fingerprint:
            raise InputError(
                f"{shards.split}: made with another tokenizer than {opened.origin}; write the shards again"
            )
    metrics: dict[str, Any] = {
        "step": opened.state.step if opened.state else None,
        "parameters": opened.config.n_parameters,
        "weights_sha256": weights_sha256(opened.model),
        "validation": None,
        "unigram_perplexity": None,
        "tasks": {},
    }
    if validation.n_tokens >= 2:
        metrics["validation"] = validate(
            opened.model, validation, opened.tokenizer, seq_len=opened.config.seq_len, batch_size=config.batch_size
        )
        metrics["unigram_perplexity"] = unigram_perplexity(train, validation, opened.tokenizer.vocab_size)
    if config.last_word_examples and any(held_out.glob("*.parquet")):
        passages = choose_passages(held_out, config.last_word_examples)
        metrics["tasks"]["last_word"] = last_word_accuracy(opened, passages, config.batch_size)
    return metrics
