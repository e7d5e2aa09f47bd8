"""Validation loss on held-out tokens, and the unigram model that it is compared with.

Every token of the split except the first is a target exactly once: windows of seq_len + 1 tokens start every seq_len
tokens, and the last one is shorter. A token sees only the earlier tokens of its window.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.generate.text_score import perplexity
from tinyllama.model.llama import Llama
from tinyllama.model.loss import IGNORED, token_losses
from tinyllama.parallel.ranks import Ranks
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_format import count_tokens
from tinyllama.tokenizer.bpe import Tokenizer

TEXT_CHUNK_TOKENS = 2**20


class BatchLosses(NamedTuple):
    """How the losses of a batch are computed. `of` inputs and targets (B, T): what `token_losses` returns, or None on a
    rank that computes the batch with others and does not count it. `is_joint`: ranks compute batches together, so that
    each must ask for as many."""

    device: torch.device
    of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
    is_joint: bool = False

    @classmethod
    def of_model(cls, model: Llama) -> "BatchLosses":
        """Of a network that this process holds alone."""
        head = model.output_weight
        return cls(head.device, lambda inputs, targets: token_losses(model.hidden(inputs), head, targets))


@torch.no_grad()
def validate(
    model: Llama | BatchLosses,
    shards: TokenShards,
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    batch_size: int,
    max_tokens: int | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Metrics over the targets of a split, or the first `max_tokens` of them, on the model's device.

    Returns `loss` (mean nats per token), `perplexity` (e^loss, at most e^709), `accuracy` (share of targets that were
    the most likely token), `bits_per_byte` and `tokens` (targets); if the documents are of several source kinds, also
    `by_kind` with the same for each. The number format is that of the network, or by autocast.
    Raises InputError when the split has no target.
    """
    n_targets = count_targets(shards, max_tokens)
    batch_losses = model if isinstance(model, BatchLosses) else BatchLosses.of_model(model)
    device, ranks = batch_losses.device, ranks or Ranks()
    kinds = SourceKinds(shards, n_targets)
    starts = range(0, n_targets, seq_len)
    if not batch_losses.is_joint:  # else the ranks divide the rows of a full batch evenly
        batch_size = min(batch_size, len(starts))
    firsts = starts[::batch_size]
    # Summed loss and correct predictions of each batch by source kind; each batch is computed by one rank.
    rows = torch.zeros(len(firsts), 2, kinds.n, dtype=torch.float64, device=device)
    for number in _own_batches(len(firsts), ranks, all_work=batch_losses.is_joint):
        ranks.progress.stay()
        inputs, targets = _batch(shards, n_targets, seq_len, firsts[number % len(firsts)], batch_size)
        found = batch_losses.of(inputs.to(device), targets.to(device))
        if found is None or number >= len(firsts):
            continue
        losses, right = (values.flatten().double() for values in found)
        if kinds.n == 1:
            rows[number, 0], rows[number, 1] = losses.sum(), right.sum()
        else:
            kind_of = torch.from_numpy(kinds.of(firsts[number] + 1 + np.arange(targets.numel()))).to(device)
            rows[number, 0].index_add_(0, kind_of, losses)
            rows[number, 1].index_add_(0, kind_of, right)
    columns = ranks.sum(rows.flatten(1)).T.tolist()
    nats, correct = ([math.fsum(column) for column in half] for half in (columns[: kinds.n], columns[kinds.n :]))
    text_bytes, counts = target_text_bytes(shards, tokenizer, n_targets, kinds)
    metrics: dict[str, Any] = _metrics(math.fsum(nats), sum(correct), n_targets, int(text_bytes.sum()))
    if kinds.n > 1:
        each = zip(kinds.names, nats, correct, counts.tolist(), text_bytes.tolist(), strict=True)
        metrics["by_kind"] = {name: _metrics(n, c, count, size) for name, n, c, count, size in sorted(each) if count}
    return metrics


def _own_batches(n: int, ranks: Ranks, *, all_work: bool) -> range:
    """Batch numbers of a rank. `all_work`: every rank gets equally many; those >= n only keep it in step."""
    end = -(-n // ranks.data_size) * ranks.data_size if all_work else n
    return range(ranks.data_rank, end, ranks.data_size)


def _metrics(nats: float, correct: float, n_targets: int, text_bytes: int) -> dict[str, float]:
    loss = nats / n_targets
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        "accuracy": correct / n_targets,
        "bits_per_byte": nats / math.log(2) / max(text_bytes, 1),
        "tokens": n_targets,
    }


class SourceKinds:
    """The source kind of the documents that a split's tokens belong to."""

    def __init__(self, shards: TokenShards, n_targets: int) -> None:
        self._starts, self._numbers, names = shards.documents(n_targets + 1)
        self.names = names or [""]

    @property
    def n(self) -> int:
        """Number of kinds."""
        return len(self.names)

    def of(self, positions: np.ndarray) -> np.ndarray:
        """Index in `names` of the kind of the tokens at these positions of the split; int64."""
        if self.n == 1:
            return np.zeros(len(positions), np.int64)
        return self._numbers[np.searchsorted(self._starts, positions, side="right") - 1]


def count_targets(shards: TokenShards, max_tokens: int | None = None) -> int:
    """Number of targets of a split: all tokens except the first, at most `max_tokens`. Raises InputError for none."""
    if shards.n_tokens < 2:
        raise InputError(f"{shards.split}: {shards.n_tokens} tokens, too few to validate on; give more text")
    return min(shards.n_tokens - 1, max_tokens or shards.n_tokens)


def _batch(shards: TokenShards, n_targets: int, seq_len: int, first: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) from target `first` on. B is always the same, so that the network is compiled once.

    A shorter last window and missing rows of the last batch are padded with ignored targets.
    """
    inputs = torch.zeros(batch_size, seq_len, dtype=torch.int64)
    targets = torch.full((batch_size, seq_len), IGNORED)
    for row, start in enumerate(range(first, min(first + batch_size * seq_len, n_targets), seq_len)):
        length = min(seq_len, n_targets - start)
        ids = torch.from_numpy(shards.tokens(start, start + length + 1).astype(np.int64))
        inputs[row, :length], targets[row, :length] = ids[:-1], ids[1:]
    return inputs, targets


def target_text_bytes(
    shards: TokenShards, tokenizer: Tokenizer, n_targets: int, kinds: SourceKinds
) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes of the text of the first `n_targets` targets, and the number of targets, by source kind (int64).

    The bytes are the denominator of bits per byte. BOS and EOS have none, but their nats count. The blank that encoding
    puts before each document is part of its first token but not of the text, so it is subtracted.
    """
    bytes_of = np.array([tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)], dtype=np.int64)
    blank = sum(tokenizer.token_bytes(token_id) for token_id in tokenizer.encode("a")) - 1
    bos_id, eos_id = shards.index.bos_id, shards.index.eos_id
    text_bytes, counts = np.zeros(kinds.n, np.int64), np.zeros(kinds.n, np.int64)
    for start in range(0, n_targets, TEXT_CHUNK_TOKENS):
        ids = shards.tokens(start, min(start + TEXT_CHUNK_TOKENS, n_targets) + 1)
        is_first = (ids[:-1] == bos_id) & (ids[1:] != eos_id)
        kind_of = kinds.of(start + 1 + np.arange(len(ids) - 1))
        np.add.at(text_bytes, kind_of, bytes_of[ids[1:]] - blank * is_first)
        counts += np.bincount(kind_of, minlength=kinds.n)
    return text_bytes, counts


def unigram_perplexity(train: TokenShards, validation: TokenShards, vocab_size: int) -> float:
    """Perplexity of the add-one unigram model of the training tokens, on the same targets as `validate`.

    p(token) = (its count in train + 1) / (training tokens + vocab_size).
    """
    n_targets = count_targets(validation)
    seen = _counts(train, vocab_size).astype(np.float64)
    wanted = _counts(validation, vocab_size)
    wanted[validation.tokens(0, 1)[0]] -= 1  # the first token is no target
    log_probability = np.log((seen + 1) / (train.n_tokens + vocab_size))
    return math.exp(-float(wanted @ log_probability) / n_targets)


def _counts(shards: TokenShards, vocab_size: int) -> np.ndarray:
    counts = count_tokens(shards.split)
    if len(counts) > vocab_size:
        raise InputError(f"{shards.split}: its vocabulary of {len(counts)} is larger than {vocab_size}")
    return np.pad(counts, (0, vocab_size - len(counts)))
