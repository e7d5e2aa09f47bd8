import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyllama.errors import RecipeError
from tinyllama.shards.batches import Batches, TokenShards, prefetch, window_at
from tinyllama.shards.quarantine import Quarantined


@pytest.fixture
def train(shards: Path) -> TokenShards:
    return TokenShards(shards / "train")


@pytest.fixture
def all_ids(shards: Path) -> np.ndarray:
    """Every id of the split, read without the code under test."""
    files = sorted((shards / "train").glob("*.bin"))
    return np.concatenate([np.fromfile(file, "<u2", offset=256) for file in files])


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_across_files(train: TokenShards, all_ids: np.ndarray, data: st.DataObject):
    start = data.draw(st.integers(0, train.n_tokens))
    stop = data.draw(st.integers(start, train.n_tokens))
    found = train.tokens(start, stop)
    assert found.dtype == np.uint16
    assert np.array_equal(found, all_ids[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 10**9)])
def test_tokens_outside_are_refused(train: TokenShards, start: int, stop: int):
    with pytest.raises(IndexError):
        train.tokens(start, stop)


def test_windows_tile_without_gap_or_overlap(train: TokenShards, all_ids: np.ndarray):
    windows = [window_at(i, 64, train) for i in range(train.n_windows(64))]
    assert {window.shape for window in windows} == {(65,)}
    tiled = np.concatenate(windows)
    assert np.array_equal(tiled, all_ids[: len(tiled)])
    assert 0 <= len(all_ids) - len(tiled) < 65
    for outside in (-1, len(windows)):
        with pytest.raises(IndexError):
            window_at(outside, 64, train)


def test_targets_are_the_inputs_one_token_later(train: TokenShards):
    batches = Batches(train, seq_len=32, sequences_per_step=8, seed=1)
    inputs, targets, samples = batches.micro_batch(step=2, start=3, count=4)
    assert inputs.shape == targets.shape == (4, 32)
    assert inputs.dtype == targets.dtype == samples.dtype == np.int64
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert samples.tolist() == [19, 20, 21, 22]  # 2 * 8 + 3 and on
    for row, sample in enumerate(samples.tolist()):
        window = window_at(batches.order.window(sample), 32, train)
        assert [*inputs[row].tolist(), targets[row, -1]] == window.tolist()


@given(st.integers(0, 500), st.integers(1, 12), st.integers(0, 12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_step_is_the_same_however_it_is_divided(train: TokenShards, step: int, size: int, cut: int):
    batches = Batches(train, 16, 12, seed=5)
    whole = batches.micro_batch(step, 0, 12)
    cuts = [*range(0, 12, size), 12]
    parts = [batches.micro_batch(step, a, b - a) for a, b in pairwise(cuts)]
    for name in ("inputs", "targets", "sample_indices"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))
    again = Batches(TokenShards(train.split), 16, 12, seed=5).micro_batch(step, 0, 12)
    assert np.array_equal(whole.inputs, again.inputs)


def test_an_epoch_reads_each_window_once(train: TokenShards):
    batches = Batches(train, 64, sequences_per_step=7, seed=3)
    n = batches.sequences_per_epoch
    seen = [window for step in range(-(-n // 7)) for window in batches.windows(step, 0, 7)]
    assert sorted(seen[:n]) == list(range(train.n_windows(64)))


def test_quarantined_windows_are_not_read(train: TokenShards):
    plain = Batches(train, 64, 4, seed=3)
    bad = plain.windows(0, 1, 2)
    batches = Batches(train, 64, 4, seed=3, quarantine=[Quarantined(0, tuple(bad))])
    assert batches.sequences_per_epoch == plain.sequences_per_epoch - 2
    first, fourth, fifth = plain.windows(0, 0, 1)[0], *plain.windows(0, 3, 1), *plain.windows(1, 0, 1)
    assert batches.windows(0, 0, 3) == [first, fourth, fifth]


def test_seeds_differ(train: TokenShards):
    a, b = (Batches(train, 32, 8, seed).micro_batch(0, 0, 8).inputs for seed in (1, 2))
    assert not np.array_equal(a, b)


def test_a_sequence_longer_than_the_data(train: TokenShards, shards: Path):
    with pytest.raises(
        RecipeError, match=f"train.seq_len = {train.n_tokens}: .* holds {train.n_tokens} tokens"
    ) as caught:
        Batches(train, train.n_tokens, 1, seed=1)
    assert "\n" not in str(caught.value)
    assert Batches(train, train.n_tokens - 1, 1, seed=1).sequences_per_epoch == 1


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (7, 2), (0, 9)])
def test_sequences_outside_the_step_are_refused(train: TokenShards, start: int, count: int):
    with pytest.raises(IndexError, match="outside the step's 8"):
        Batches(train, 16, 8, seed=1).micro_batch(0, start, count)


def test_prefetch_gives_the_same_in_the_same_order(train: TokenShards):
    batches = Batches(train, 16, 8, seed=1)
    slices = [(step, start, 4) for step in range(6) for start in (0, 4)]
    found = list(prefetch(batches, slices, lambda batch: batch))
    assert len(found) == 12
    for micro_batch, wanted in zip(found, slices, strict=True):
        assert np.array_equal(micro_batch.inputs, batches.micro_batch(*wanted).inputs)


def test_prefetch_raises_an_error_at_its_place(train: TokenShards):
    batches = Batches(train, 16, 8, seed=1)
    found = prefetch(batches, [(0, 0, 8), (1, 0, 99)], lambda batch: batch)
    assert next(found).inputs.shape == (8, 16)
    with pytest.raises(IndexError):
        next(found)


def test_prefetch_ends_its_thread_when_closed(train: TokenShards):
    batches = Batches(train, 16, 8, seed=1)
    before = threading.active_count()
    found = prefetch(batches, ((step, 0, 8) for step in range(10**9)), lambda batch: batch)
    next(found)
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before


def test_more_files_than_are_mapped_at_once(train: TokenShards, all_ids: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    from tinyllama.shards import batches

    monkeypatch.setattr(batches, "MAX_MAPPED_FILES", 2)
    few = TokenShards(train.split)
    assert len(few.index.shards) > 3
    for _ in range(2):
        assert np.array_equal(few.tokens(0, few.n_tokens), all_ids)
