"""The tokens that a step of a run trained on, read from the shards as the trainer reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyllama import files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.errors import InputError
from tinyllama.recipe import load_recipe
from tinyllama.seeds import derive_seed
from tinyllama.shards.batches import Batches, TokenShards
from tinyllama.shards.quarantine import Quarantined, read_quarantine
from tinyllama.shards.shard_format import INDEX_FILE


@dataclass(frozen=True, eq=False)
class StepBatches:
    """All training sequences of one optimizer step."""

    step: int  # from 1
    epoch: int  # from 0, of the step's first sequence
    windows: list[int]  # index of each sequence's window in the training split
    tokens: np.ndarray  # (sequences, seq_len + 1) int64: inputs are tokens[:, :-1], targets tokens[:, 1:]
    micro_batch_size: int

    @property
    def micro_batches(self) -> list[np.ndarray]:
        """`tokens` by micro-batch, in the order of training: views of shape (micro_batch_size, seq_len + 1)."""
        return np.split(self.tokens, len(self.tokens) // self.micro_batch_size)


def read_step(run_dir: Path, step: int) -> StepBatches:
    """The batches of step `step`, counted from 1: a function of the shards, the seed and the quarantine list.

    For a step after the newest checkpoint it is what the run reads if no further window is quarantined. Raises InputError
    when the run has no such step, no training shards, or shards other than those that it was trained on.
    """
    split = run_dir / "shards" / "train"
    if not (split / INDEX_FILE).is_file():
        raise InputError(f"{split}: no training shards; `tinyllama shards` makes them")
    train, quarantine = _settings(run_dir, split)
    total = train["steps"] or -(-train["tokens"] // train["tokens_per_step"])
    if not 1 <= step <= total:
        raise InputError(f"{run_dir}: no step {step}; the run has steps 1 to {total:,}")
    seq_len, seed = train["seq_len"], derive_seed(train["seed"], "window order")
    n = train["tokens_per_step"] // seq_len
    batches = Batches(TokenShards(split), seq_len, n, seed, quarantine)
    batch = batches.micro_batch(step - 1, 0, n)
    tokens = np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1)
    epoch, windows = batches.order.epoch((step - 1) * n), batches.windows(step - 1, 0, n)
    return StepBatches(step, epoch, windows, tokens, train["micro_batch_size"])


def _settings(run_dir: Path, split: Path) -> tuple[dict[str, Any], tuple[Quarantined, ...]]:
    """The keys of `[train]` and the quarantine list: from the newest checkpoint, or from the recipe before the first."""
    newest = next(iter(form.checkpoints(run_dir / "checkpoints")), None)
    if newest is None:
        recipe = run_dir / "recipe.toml"
        if not recipe.is_file():
            raise InputError(
                f"{run_dir}: neither a checkpoint nor recipe.toml, which say what a step reads; train first"
            )
        return load_recipe(str(recipe)).train.model_dump(), ()
    state = form.read_state(newest)
    if state.shards_fingerprint not in ("", files.sha256_file(split / INDEX_FILE)):
        raise InputError(f"{split / INDEX_FILE}: not the shards that {newest} was trained on; restore those")
    return state.train, read_quarantine(state.quarantine, newest)
