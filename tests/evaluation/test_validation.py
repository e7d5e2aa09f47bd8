import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.tiny_model import tiny_llama
from tinyllama.errors import InputError
from tinyllama.evaluation.validation import SourceKinds, count_targets, target_text_bytes, unigram_perplexity, validate
from tinyllama.model.llama import Llama
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.shard_writer import write_shards
from tinyllama.shards.shards_config import ShardsConfig
from tinyllama.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(prepared_run: Path) -> Tokenizer:
    return Tokenizer.load(prepared_run / "tokenizer")


@pytest.fixture(scope="module")
def shards(prepared_run: Path) -> TokenShards:
    return TokenShards(prepared_run / "shards" / "validation")


def split_of(texts: list[str], tokenizer: Tokenizer, folder: Path) -> TokenShards:
    """The texts as a split's shards."""
    (folder / "train").mkdir(parents=True)
    rows = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
    (folder / "train" / "a.jsonl").write_text("\n".join(rows))
    write_shards(ShardsConfig(), [folder], tokenizer, folder / "shards")
    return TokenShards(folder / "shards" / "train")


def text_bytes(shards: TokenShards, tokenizer: Tokenizer, n_targets: int) -> int:
    found, counts = target_text_bytes(shards, tokenizer, n_targets, SourceKinds(shards, n_targets))
    assert counts.sum() == n_targets
    return int(found.sum())


def obvious(model: Llama, tokens: np.ndarray, seq_len: int) -> tuple[float, int, int]:
    """Nats, right guesses and targets, one window at a time."""
    nats, right, count = 0.0, 0, 0
    ids = torch.from_numpy(tokens.astype(np.int64))
    for start in range(0, len(ids) - 1, seq_len):
        window = ids[start : start + seq_len + 1]
        with torch.no_grad():
            logits = model(window[None, :-1])[0]
        nats += F.cross_entropy(logits, window[1:], reduction="sum").item()
        right += int((logits.argmax(-1) == window[1:]).sum())
        count += len(window) - 1
    return nats, right, count


@pytest.mark.parametrize("max_tokens", [None, 1, 47, 48, 49, 1000, 10**9])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_every_target_counts_once(shards: TokenShards, tokenizer: Tokenizer, max_tokens: int | None, batch_size: int):
    model = tiny_llama()
    found = validate(model, shards, tokenizer, seq_len=48, batch_size=batch_size, max_tokens=max_tokens)
    n_targets = min(max_tokens or shards.n_tokens, shards.n_tokens - 1)
    nats, right, count = obvious(model, shards.tokens(0, n_targets + 1), 48)
    assert found["tokens"] == count == n_targets
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found["accuracy"] == right / count


def test_bits_per_byte_by_hand(tokenizer: Tokenizer, tmp_path: Path):
    texts = ["The statement is a statement.", "naïve π 你好", "x\n\n  y\x00"]
    shards = split_of(texts, tokenizer, tmp_path)
    assert text_bytes(shards, tokenizer, shards.n_tokens - 1) == sum(len(text.encode()) for text in texts)
    model = tiny_llama()
    found = validate(model, shards, tokenizer, seq_len=16, batch_size=2)
    nats, _, _ = obvious(model, shards.tokens(0, shards.n_tokens), 16)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(len(t.encode()) for t in texts), rel=1e-5)


def test_bytes_of_the_whole_split_are_the_index_own(shards: TokenShards, tokenizer: Tokenizer):
    assert text_bytes(shards, tokenizer, shards.n_tokens - 1) == shards.index.text_bytes


def test_bytes_of_a_part(tokenizer: Tokenizer, tmp_path: Path):
    text = "The statement"
    shards = split_of([text], tokenizer, tmp_path)
    ids = tokenizer.encode(text)
    for n_targets in range(1, len(ids) + 1):
        assert text_bytes(shards, tokenizer, n_targets) == len(tokenizer.decode(ids[:n_targets]).encode())


@pytest.mark.parametrize("max_tokens", [None, 70])
def test_figures_by_source_kind(tokenizer: Tokenizer, tmp_path: Path, max_tokens: int | None):
    """Each token counts for its document's kind; the slow way judges all tokens and adds them up by document."""
    texts = ["The statement is a statement. " * 3, "A value of a name.", "naïve π 你好 " * 4, "x"]
    kinds = ["web", "book", "web", "code"]
    (tmp_path / "train").mkdir()
    rows = [{"id": str(n), "text": text, "kind": kind} for n, (text, kind) in enumerate(zip(texts, kinds, strict=True))]
    (tmp_path / "train" / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    write_shards(ShardsConfig(), [tmp_path], tokenizer, tmp_path / "shards")
    shards, model = TokenShards(tmp_path / "shards" / "train"), tiny_llama()
    found = validate(model, shards, tokenizer, seq_len=16, batch_size=3, max_tokens=max_tokens)
    starts, numbers, names = shards.documents(shards.n_tokens)
    ids = torch.from_numpy(shards.tokens(0, shards.n_tokens).astype(np.int64))
    nats, right, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for target in range(1, found["tokens"] + 1):
        begin = (target - 1) // 16 * 16
        with torch.no_grad():
            logits = model(ids[None, begin:target])[0, -1]
        kind = names[numbers[np.flatnonzero(starts <= target)[-1]]]
        nats[kind] += F.cross_entropy(logits, ids[target]).item()
        right[kind] += int(logits.argmax() == ids[target])
        counts[kind] += 1
    assert {kind: row["tokens"] for kind, row in found["by_kind"].items()} == {k: n for k, n in counts.items() if n}
    for kind, row in found["by_kind"].items():
        assert row["loss"] == pytest.approx(nats[kind] / counts[kind], rel=1e-5)
        assert row["accuracy"] == right[kind] / counts[kind]
    assert found["loss"] == pytest.approx(sum(nats.values()) / found["tokens"], rel=1e-5)
    if max_tokens is None:
        sizes = {kind: sum(len(t.encode()) for t, k in zip(texts, kinds, strict=True) if k == kind) for kind in names}
        for kind, row in found["by_kind"].items():
            assert row["bits_per_byte"] == pytest.approx(nats[kind] / math.log(2) / sizes[kind], rel=1e-5)


def test_one_source_kind_is_not_told_apart(shards: TokenShards, tokenizer: Tokenizer):
    assert "by_kind" not in validate(tiny_llama(), shards, tokenizer, seq_len=48, batch_size=4, max_tokens=200)


def test_a_hopeless_model_has_a_finite_perplexity(shards: TokenShards, tokenizer: Tokenizer):
    model = tiny_llama()
    with torch.no_grad():
        model.norm.weight.mul_(1e6)
    found = validate(model, shards, tokenizer, seq_len=48, batch_size=4, max_tokens=200)
    assert found["loss"] > 1000
    assert found["perplexity"] == math.exp(709.0)
    json.dumps(found, allow_nan=False)


def test_no_gradient_is_kept(shards: TokenShards, tokenizer: Tokenizer):
    model = tiny_llama()
    validate(model, shards, tokenizer, seq_len=48, batch_size=4, max_tokens=100)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_uniform_model_has_the_vocabulary_as_perplexity(shards: TokenShards, tokenizer: Tokenizer):
    model = tiny_llama()
    with torch.no_grad():
        assert model.head is not None
        model.head.weight.zero_()
    found = validate(model, shards, tokenizer, seq_len=48, batch_size=4, max_tokens=500)
    assert found["perplexity"] == pytest.approx(512, rel=1e-5)


def test_unigram_by_hand(tokenizer: Tokenizer, tmp_path: Path):
    train = split_of(["aab"], tokenizer, tmp_path / "a")
    held_out = split_of(["ac"], tokenizer, tmp_path / "b")
    counts = dict(zip(*np.unique(train.tokens(0, train.n_tokens), return_counts=True), strict=True))
    targets = held_out.tokens(1, held_out.n_tokens)
    nats = [-math.log((counts.get(token_id, 0) + 1) / (train.n_tokens + 512)) for token_id in targets]
    assert unigram_perplexity(train, held_out, 512) == pytest.approx(math.exp(sum(nats) / len(nats)))


def test_unigram_knows_no_context(prepared_run: Path, shards: TokenShards):
    train = TokenShards(prepared_run / "shards" / "train")
    found = unigram_perplexity(train, shards, 512)
    assert 10 < found < 512
    assert unigram_perplexity(train, shards, 600) > found  # 88 pieces more that never occur


def test_nothing_to_validate_on(tokenizer: Tokenizer, prepared_run: Path, tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jsonl").write_text('{"text": "x"}')
    write_shards(ShardsConfig(), [tmp_path], tokenizer, tmp_path / "shards")
    empty = TokenShards(tmp_path / "shards" / "validation")
    with pytest.raises(InputError, match="0 tokens, too few to validate on"):
        count_targets(empty)
    with pytest.raises(InputError, match="too few to validate on"):
        unigram_perplexity(TokenShards(prepared_run / "shards" / "train"), empty, 512)
