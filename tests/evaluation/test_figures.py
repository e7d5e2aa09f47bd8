"""Validation's sums over batches and ranks, its bytes and its bounds, by hand; a text's windows at their least."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_model import random_tokens, tiny_llama
from tinyllama.errors import InputError
from tinyllama.evaluation import validation
from tinyllama.evaluation.validation import (
    BatchLosses,
    SourceKinds,
    _batch,
    _counts,
    _metrics,
    _own_batches,
    count_targets,
    target_text_bytes,
    unigram_perplexity,
    validate,
)
from tinyllama.generate import text_score
from tinyllama.generate.text_score import token_logprobs
from tinyllama.harness.token_rows import ScoredTokens, as_tensors, batches_by_length, make_row
from tinyllama.model.loss import IGNORED, token_losses
from tinyllama.shards.batches import TokenShards
from tinyllama.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(prepared_run: Path) -> Tokenizer:
    return Tokenizer.load(prepared_run / "tokenizer")


@pytest.fixture(scope="module")
def shards(prepared_run: Path) -> TokenShards:
    return TokenShards(prepared_run / "shards" / "validation")


def test_figures_by_hand():
    assert _metrics(8 * math.log(2), 3.0, 4, 2) == {
        "loss": pytest.approx(2 * math.log(2)),
        "perplexity": pytest.approx(4.0),
        "accuracy": 0.75,
        "bits_per_byte": pytest.approx(4.0),
        "tokens": 4,
    }
    assert _metrics(math.log(2), 0.0, 1, 0)["bits_per_byte"] == pytest.approx(1.0)  # no byte: as of one
    assert _metrics(708.0, 0.0, 1, 1)["perplexity"] == math.exp(708)
    assert _metrics(7e5, 0.0, 1, 1)["perplexity"] == math.exp(709)


def ranks_of(rank: int, size: int, told: Any = None) -> Any:
    return SimpleNamespace(
        data_rank=rank, data_size=size, sum=told or (lambda rows: rows), progress=SimpleNamespace(stay=lambda: None)
    )


def test_batches_are_dealt_out_to_ranks():
    assert [list(_own_batches(5, ranks_of(rank, 2), all_work=False)) for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
    assert [list(_own_batches(5, ranks_of(rank, 2), all_work=True)) for rank in (0, 1)] == [[0, 2, 4], [1, 3, 5]]
    assert [list(_own_batches(4, ranks_of(rank, 2), all_work=True)) for rank in (0, 1)] == [[0, 2], [1, 3]]
    assert list(_own_batches(1, ranks_of(2, 3), all_work=True)) == [2]


def test_a_batch_is_filled_up_with_targets_that_count_nowhere():
    told: Any = SimpleNamespace(tokens=lambda start, stop: np.arange(start, stop, dtype=np.uint16) + 100)
    inputs, targets = _batch(told, 11, 4, 4, 3)  # targets 4 to 10 of 11: a whole window, three of the next, none
    assert inputs.tolist() == [[104, 105, 106, 107], [108, 109, 110, 0], [0] * 4]
    assert targets.tolist() == [[105, 106, 107, 108], [109, 110, 111, IGNORED], [IGNORED] * 4]
    inputs, _ = _batch(told, 99, 4, 0, 2)
    assert inputs.tolist() == [[100, 101, 102, 103], [104, 105, 106, 107]]


@pytest.mark.parametrize("held_together", [False, True])
def test_ranks_sums_are_those_of_one(shards: TokenShards, tokenizer: Tokenizer, held_together: bool):
    model, asked = tiny_llama(), [0, 0]
    how: dict[str, Any] = {"seq_len": 16, "batch_size": 2, "max_tokens": 5 * 32 - 7}
    wanted = validate(model, shards, tokenizer, **how)
    rows: list[torch.Tensor] = []

    def of(rank: int) -> Any:
        def losses(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
            asked[rank] += 1
            assert inputs.shape == (2, 16)
            return token_losses(model.hidden(inputs), model.output_weight, targets)

        return BatchLosses(torch.device("cpu"), losses, is_joint=True) if held_together else model

    for rank in (0, 1):
        validate(of(rank), shards, tokenizer, **how, ranks=ranks_of(rank, 2, lambda told: (rows.append(told), told)[1]))
    found = validate(of(0), shards, tokenizer, **how, ranks=ranks_of(0, 2, lambda told: rows[0] + rows[1]))
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=1e-5)
    if held_together:
        assert asked == [6, 3]  # three batches each: five, and one for company; the first rank twice


def test_a_rank_that_holds_no_losses_counts_none(shards: TokenShards, tokenizer: Tokenizer):
    model = BatchLosses(torch.device("cpu"), lambda inputs, targets: None)
    assert validate(model, shards, tokenizer, seq_len=16, batch_size=2, max_tokens=40)["loss"] == 0


def test_every_batch_is_a_sign_of_life(shards: TokenShards, tokenizer: Tokenizer):
    signs: list[int] = []
    ranks = ranks_of(0, 1)
    ranks.progress.stay = lambda: signs.append(1)
    validate(tiny_llama(), shards, tokenizer, seq_len=16, batch_size=2, max_tokens=65, ranks=ranks)
    assert len(signs) == 3


@pytest.mark.parametrize(
    ("n_tokens", "most", "wanted"), [(2, None, 1), (9, None, 8), (9, 8, 8), (9, 9, 8), (9, 3, 3), (9, 0, 8)]
)
def test_targets_are_all_tokens_but_the_first(n_tokens: int, most: int | None, wanted: int):
    split: Any = SimpleNamespace(n_tokens=n_tokens, split="s")
    assert count_targets(split, most) == wanted
    for few in (0, 1):
        with pytest.raises(InputError, match=f"s: {few} tokens, too few to validate on"):
            count_targets(SimpleNamespace(n_tokens=few, split="s"), most)  # pyright: ignore[reportArgumentType]


def told_shards(ids: list[int], documents: list[tuple[int, str]]) -> Any:
    names = list(dict.fromkeys(kind for _, kind in documents))
    places = np.array([start for start, _ in documents])
    numbers = np.array([names.index(kind) for _, kind in documents])
    return SimpleNamespace(
        split="told", n_tokens=len(ids), index=SimpleNamespace(bos_id=1, eos_id=2),
        tokens=lambda start, stop: np.array(ids[start:stop]),
        documents=lambda n: (places, numbers, names if len(names) > 1 else []),
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_bytes_by_source_kind_by_hand(chunk: int, monkeypatch: pytest.MonkeyPatch):
    """Pieces of 3 and 5 bytes; the first of a document has a blank that is no byte of it; BOS and EOS are none."""
    monkeypatch.setattr(validation, "TEXT_CHUNK_TOKENS", chunk)
    sizes = {1: 0, 2: 0, 3: 3, 4: 5}
    tokenizer: Any = SimpleNamespace(
        vocab_size=5, token_bytes=lambda token_id: sizes.get(token_id, 0), encode=lambda text: [3]
    )  # "a" is a piece of 3 bytes: a blank of two
    ids = [1, 3, 4, 2, 1, 2, 1, 4, 2]
    shards = told_shards(ids, [(0, "web"), (4, "book"), (6, "web")])
    kinds = SourceKinds(shards, 8)
    found, counts = target_text_bytes(shards, tokenizer, 8, kinds)
    assert (kinds.names, kinds.n) == (["web", "book"], 2)
    assert found.tolist() == [3 - 2 + 5 + 5 - 2, 0]
    assert counts.tolist() == [6 - 1 + 1, 2]  # targets 1 2 3 | 4 5 | 6 7 8
    assert [array.tolist() for array in target_text_bytes(shards, tokenizer, 2, kinds)] == [[6, 0], [2, 0]]
    assert kinds.of(np.array([0, 3, 4, 5, 6, 8])).tolist() == [0, 0, 1, 1, 0, 0]
    alone = SourceKinds(told_shards(ids, [(0, "web")]), 8)
    assert (alone.n, alone.names, alone.of(np.array([0, 8])).tolist()) == (1, [""], [0, 0])


def test_the_unigram_model_by_hand(monkeypatch: pytest.MonkeyPatch):
    counts = {"train": np.array([0, 2, 2, 4]), "held": np.array([0, 1, 1, 2, 1])}
    monkeypatch.setattr(validation, "count_tokens", lambda split: counts[split].copy())
    train: Any = SimpleNamespace(split="train", n_tokens=8)
    held: Any = SimpleNamespace(
        split="held", n_tokens=5, tokens=lambda start, stop: np.array([1, 3, 3, 4, 2])[start:stop]
    )
    # the targets are 3 3 4 2; of 8 tokens and 5 pieces: p 5/13, 5/13, 1/13, 3/13
    assert unigram_perplexity(train, held, 5) == pytest.approx((13**4 / (5 * 5 * 1 * 3)) ** 0.25)
    assert _counts(held, 7).tolist() == [0, 1, 1, 2, 1, 0, 0]
    assert _counts(held, 5).tolist() == [0, 1, 1, 2, 1]
    with pytest.raises(InputError, match="held: its vocabulary of 5 is larger than 4"):
        _counts(held, 4)


@pytest.mark.parametrize(("seq_len", "chunk"), [(1, 1), (2, 1), (3, 2), (5, 512)])
def test_windows_of_a_text_at_their_least(seq_len: int, chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_score, "LOGITS_CHUNK_TOKENS", chunk)
    model, ids = tiny_llama(seq_len=seq_len), random_tokens(1, 12)[0].tolist()
    found = token_logprobs(model, ids)
    assert len(found) == 11
    stride = max(seq_len // 2, 1)
    for place, logprob in enumerate(found, 1):
        start = 0 if place <= seq_len else -(-(place - seq_len) // stride) * stride
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]]))[0, -1]
        assert logprob == pytest.approx(logits.log_softmax(-1)[ids[place]].item(), abs=1e-5), place
    assert token_logprobs(model, ids[:1]) == token_logprobs(model, []) == []


def scored(*ids: int, n: int = 1) -> ScoredTokens:
    return ScoredTokens(0, list(ids), n)


def test_rows_as_tensors_by_hand():
    tree, plain = make_row([scored(1, 2, 3, 4, n=2), scored(1, 2, 5, 6)]), make_row([scored(7, 8, 9, n=2)])
    batch = as_tensors([tree, plain], 3)
    assert batch.tokens.tolist() == [[1, 2, 3, 5, 0, 0], [7, 8, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 0, 0], [0, 1, 0, 0, 0, 0]]
    assert batch.branches is not None
    assert batch.branches.tolist() == [[0, 0, 1, 2, -1, -1], [0, 0, -1, -1, -1, -1]]
    assert batch.outputs.tolist() == [[0, 0, 0, 1, 1], [1, 2, 3, 0, 1]]
    assert batch.targets.tolist() == [3, 4, 6, 8, 9]
    assert as_tensors([plain], 2).tokens.shape == (1, 2)
    assert as_tensors([plain]).branches is None
    moved = batch.to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values()} == {"meta"}
    assert as_tensors([plain]).to(torch.device("cpu")).branches is None


def test_batches_are_full_and_no_fuller():
    rows = [make_row([scored(*range(n + 1))]) for n in (4, 4, 4, 2)]
    for most, wanted in ((8, [2, 2]), (7, [1, 1, 1, 1]), (12, [3, 1]), (16, [4]), (11, [2, 2]), (3, [1, 1, 1, 1])):
        assert [len(batch) for batch in batches_by_length(rows, most)] == wanted
    assert list(batches_by_length([], 8)) == []
