"""Validation figures on held-out tokens, and the unigram model that they are compared with.

Every token of the split but its first is a target exactly once: windows of seq_len + 1 tokens begin seq_len tokens
apart, and the last one is shorter. Within a window a token sees the window's tokens before it and no others.
"""

import math

import numpy as np
import torch
from torch import Tensor

from tinyllama.errors import InputError
from tinyllama.model.llama import Llama
from tinyllama.model.loss import IGNORED, next_token_loss
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.ranks import Ranks
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_format import count_tokens
from tinyllama.tokenizer.bpe import Tokenizer

LARGEST_EXPONENT = 709.0  # e^709 is the last whole power that a float holds
TEXT_CHUNK_TOKENS = 2**20


@torch.no_grad()
def validate(
    model: Llama | PackedLlama,
    shards: TokenShards,
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    batch_size: int,
    max_tokens: int | None = None,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Figures over the split's targets, or its first `max_tokens`, in order, on the model's device.

    Returns `loss` (mean nats a token), `perplexity` (e^loss, capped at e^709), `accuracy` (share of targets that were
    the likeliest token), `bits_per_byte` and `tokens` (targets). The number format is the network's, or by autocast.
    Raises InputError when the split has no target.
    """
    n_targets = count_targets(shards, max_tokens)
    device = model.output_weight.device
    ranks = ranks or Ranks()
    starts = range(0, n_targets, seq_len)
    batch_size = min(batch_size, len(starts))
    firsts = starts[::batch_size]
    rows = torch.zeros(len(firsts), 2, dtype=torch.float64, device=device)  # a batch's loss and hits, of one rank each
    for number in range(ranks.rank, len(firsts), ranks.size):
        ranks.where.stay()
        inputs, targets = _batch(shards, n_targets, seq_len, firsts[number], batch_size)
        hidden = model.hidden(inputs.to(device))
        sums = next_token_loss(hidden, model.output_weight, targets.to(device))
        rows[number, 0], rows[number, 1] = sums.loss, sums.correct
    nats, correct = (math.fsum(column) for column in ranks.sum(rows).T.tolist())
    loss, text_bytes = nats / n_targets, target_text_bytes(shards, tokenizer, n_targets)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, LARGEST_EXPONENT)),
        "accuracy": correct / n_targets,
        "bits_per_byte": nats / math.log(2) / max(text_bytes, 1),
        "tokens": n_targets,
    }


def count_targets(shards: TokenShards, max_tokens: int | None = None) -> int:
    """Targets of a split: all tokens but the first, or `max_tokens`. Raises InputError when there is none."""
    if shards.n_tokens < 2:
        raise InputError(f"{shards.split}: {shards.n_tokens} tokens, nothing to validate on; give more text")
    return min(shards.n_tokens - 1, max_tokens or shards.n_tokens)


def _batch(shards: TokenShards, n_targets: int, seq_len: int, first: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) from target `first` on, B the same for all: what is compiled for one serves them all.

    The shorter last window, and the rows that the last batch lacks, are filled up with targets that count nowhere.
    """
    inputs = torch.zeros(batch_size, seq_len, dtype=torch.int64)
    targets = torch.full((batch_size, seq_len), IGNORED)
    for row, start in enumerate(range(first, min(first + batch_size * seq_len, n_targets), seq_len)):
        length = min(seq_len, n_targets - start)
        ids = torch.from_numpy(shards.tokens(start, start + length + 1).astype(np.int64))
        inputs[row, :length], targets[row, :length] = ids[:-1], ids[1:]
    return inputs, targets


def target_text_bytes(shards: TokenShards, tokenizer: Tokenizer, n_targets: int) -> int:
    """UTF-8 bytes of the text that the first `n_targets` targets stand for: the denominator of bits per byte.

    BOS and EOS stand for none, though their nats count. The blank that encoding writes before each document is in its
    first piece and no byte of the text, so it is taken off.
    """
    bytes_of = np.array([tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)], dtype=np.int64)
    blank = sum(tokenizer.token_bytes(token_id) for token_id in tokenizer.encode("a")) - 1
    bos_id, eos_id = shards.index.bos_id, shards.index.eos_id
    total = 0
    for start in range(0, n_targets, TEXT_CHUNK_TOKENS):
        ids = shards.tokens(start, min(start + TEXT_CHUNK_TOKENS, n_targets) + 1)
        begun = np.count_nonzero((ids[:-1] == bos_id) & (ids[1:] != eos_id))
        total += int(bytes_of[ids[1:]].sum()) - blank * int(begun)
    return total


def unigram_perplexity(train: TokenShards, validation: TokenShards, vocab_size: int) -> float:
    """Perplexity of the add-one unigram model of the training tokens on the same targets that `validate` counts.

    p(token) = (its count in train + 1) / (training tokens + vocab_size).
    """
    n_targets = count_targets(validation)
    seen = _counts(train, vocab_size).astype(np.float64)
    wanted = _counts(validation, vocab_size)
    wanted[validation.tokens(0, 1)[0]] -= 1  # the first token is nobody's target
    log_probability = np.log((seen + 1) / (train.n_tokens + vocab_size))
    return math.exp(-float(wanted @ log_probability) / n_targets)


def _counts(shards: TokenShards, vocab_size: int) -> np.ndarray:
    counts = count_tokens(shards.split)
    if len(counts) > vocab_size:
        raise InputError(f"{shards.split}: its vocabulary has {len(counts)} pieces, more than {vocab_size}")
    return np.pad(counts, (0, vocab_size - len(counts)))
