"""The decoder's bookkeeping: numbers of draws, tokens seen, buffers kept, the host that runs ahead. No GPU is needed."""

import gc
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.generate.test_decoder import LENGTHS, decoded, prompts
from tests.tiny_model import tiny_llama
from tinyllama.generate import decoder as decoder_module
from tinyllama.generate.decoder import DecodeBatch, Decoder, _gc_paused
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.kv_cache import KVCache
from tinyllama.generate.sampling import choose
from tinyllama.model.llama import Llama


@torch.no_grad()
def sampled_reference(model: Llama, prompt: list[int], config: GenerateConfig, seed: int, vocab_size: int) -> list[int]:
    """The obvious loop: the whole text again for each token; token n by chance n; the penalty is for all before it."""
    ids = list(prompt)
    for number in range(config.max_new_tokens):
        logits = model(torch.tensor([ids]))[:, -1, :vocab_size]
        seen = torch.zeros(1, vocab_size, dtype=torch.bool)
        seen[0, [i for i in ids if i < vocab_size]] = True
        ids.append(int(choose(logits, config, torch.tensor([seed]), number, seen)))
    return ids[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("lengths", [[4, 4, 4], [6, 1, 3], [1, 1], [2]], ids=str)
def test_sampling_is_the_obvious_loop(lengths: list[int], penalty: float):
    model, vocab_size = tiny_llama().eval(), 100
    config = GenerateConfig(temperature=1.2, top_p=1.0, repetition_penalty=penalty, max_new_tokens=9, seed=5)
    ids = [[99, 100, *prompt][:length] for prompt, length in zip(prompts(lengths), lengths, strict=True)]
    made = zip(*Decoder(model, vocab_size).new_tokens(ids, config), strict=True)
    wanted = [sampled_reference(model, prompt, config, 5 + n, vocab_size) for n, prompt in enumerate(ids)]
    assert [list(row) for row in made] == wanted
    assert decoded(model, ids, seed=5) == decoded(model, ids, [5 + n for n in range(len(ids))], seed=0)


class Graph:
    """Stands for a captured step."""

    def __init__(self, batch: DecodeBatch) -> None:
        self._batch = batch
        self.n_replayed = 0

    def replay(self) -> None:
        self.n_replayed += 1
        self._batch._step()


@torch.inference_mode()
def test_tokens_read_behind_the_device_are_the_same_in_the_same_order():
    model, config = tiny_llama().eval(), GenerateConfig(temperature=0.0, max_new_tokens=11)
    wanted = list(Decoder(model).new_tokens(prompts(), config))
    batch = DecodeBatch(model, len(LENGTHS), 40, config, 512, None)
    graph: Any = Graph(batch)
    batch._graph = graph
    for n_steps in (11, 1, 2, 3):
        graph.n_replayed = 0
        batch.start(prompts(), [1] * len(LENGTHS))
        steps = batch.steps(n_steps)
        assert next(steps) == wanted[0]
        assert graph.n_replayed == min(2, n_steps - 1)  # two steps ahead of the reader
        assert [wanted[0], *steps] == wanted[:n_steps]
        assert graph.n_replayed == n_steps - 1


def test_buffers_are_kept_for_the_same_choice_and_made_anew_for_another(monkeypatch: pytest.MonkeyPatch):
    made: list[tuple[int, int]] = []

    class Recorded(KVCache):
        def __init__(self, config: Any, batch: int, max_tokens: int, *others: Any) -> None:
            made.append((batch, max_tokens))
            super().__init__(config, batch, max_tokens, *others)

    monkeypatch.setattr(decoder_module, "KVCache", Recorded)
    decoder = Decoder(tiny_llama().eval())

    def run(lengths: list[int], **changes: Any) -> int:
        before, changes = len(made), {"max_new_tokens": 4} | changes
        list(decoder.new_tokens(prompts(lengths), GenerateConfig(**changes)))
        return len(made) - before

    assert (run([3, 9]), run([9, 1]), run([3, 9], seed=7, stop=["x"], prompts=["y"])) == (1, 0, 0)
    assert made == [(2, 13)]  # the longest prompt and the new tokens
    changes: list[dict[str, Any]] = [
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.5},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
    ]
    assert [run([3, 9], **change) for change in changes] == [1] * 5
    assert (run([9]), run([9, 9, 9])) == (1, 1)
    assert run([46, 40], max_new_tokens=20) == 1
    assert made[-1] == (2, 48)  # no more than the context


def test_as_many_steps_as_the_sequence_with_most_room_has():
    steps = list(Decoder(tiny_llama().eval()).new_tokens(prompts([47, 45]), GenerateConfig(max_new_tokens=9)))
    assert len(steps) == 3
    assert len(list(Decoder(tiny_llama().eval()).new_tokens(prompts([45]), GenerateConfig(max_new_tokens=1)))) == 1


def test_the_network_is_read_without_gradients_and_rows_without_a_mask_where_all_are_as_long(
    monkeypatch: pytest.MonkeyPatch,
):
    masks: list[bool] = []
    whole = Llama.hidden

    def hidden(self: Llama, tokens: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if tokens.shape[1] == 1 and given:
            masks.append(given[1] is not None)
        return whole(self, tokens, *given, **named)

    monkeypatch.setattr(Llama, "hidden", hidden)
    config = GenerateConfig(max_new_tokens=3)
    list(Decoder(tiny_llama().eval()).new_tokens(prompts([4, 4]), config))
    list(Decoder(tiny_llama().eval()).new_tokens(prompts([4, 3]), config))
    assert masks == [False, False, True, True]


def test_fused_kernels_are_used_where_they_can_be(monkeypatch: pytest.MonkeyPatch):
    batch = DecodeBatch(tiny_llama().eval(), 2, 20, GenerateConfig(), 512, None)
    asked: list[Any] = []

    class Fused:
        def __init__(self, *given: Any) -> None:
            asked.append(given[1:])

        def __call__(self, tokens: torch.Tensor, positions: torch.Tensor) -> None:
            asked.append((tokens is batch._tokens, positions is batch._positions))

    module: Any = SimpleNamespace(FusedStep=Fused, can_fuse=lambda model, size: size == 2)
    monkeypatch.setitem(sys.modules, "tinyllama.generate.fused_step", module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: asked.append("waited"))
    assert batch._try_fused(2, False) is None
    assert batch._try_fused(3, None) is None
    assert asked == []
    assert isinstance(batch._try_fused(2, None), Fused)
    assert asked == [(batch._cache, 2), (True, True), "waited"]
    module.FusedStep = None  # raises when it is called
    assert batch._try_fused(2, None) is None
    with pytest.raises(TypeError):
        batch._try_fused(2, True)


def test_no_garbage_is_collected_within_and_as_before_after(monkeypatch: pytest.MonkeyPatch):
    collected: list[bool] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(gc.isenabled()))
    assert gc.isenabled()
    with _gc_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with _gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert collected == [True, False]  # once each time, before


def test_a_cache_is_filled_cleared_and_shown_as_far_as_asked():
    from tinyllama.generate.kv_cache import OneTokenEach

    cache = KVCache(tiny_llama().config, 2, 5, "cpu", torch.float32)
    assert [tensor.shape for tensor in cache.layer(1)] == [(2, 2, 5, 8)] * 2
    ones = torch.ones(2, 2, 5, 8)
    for layer in (0, 1):
        cache.update(layer, ones, 2 * ones)  # as many as it holds
    assert cache.n_tokens == 5
    cache.clear()
    assert cache.n_tokens == 0
    k, v = cache.update(0, 3 * ones[:, :, :2], 4 * ones[:, :, :2])
    assert (k == 3).all()
    assert (v == 4).all()
    assert k.shape[2] == v.shape[2] == 2
    keys, values = OneTokenEach(cache, torch.tensor([1, 3]), 4).update(0, 7 * ones[:, :, :1], 8 * ones[:, :, :1])
    assert keys[:, 0, :, 0].tolist() == [[3, 7, 1, 1], [3, 3, 1, 7]]
    assert values[:, 1, :, 7].tolist() == [[4, 8, 2, 2], [4, 4, 2, 8]]
    assert (cache.layer(1)[0] == 1).all()
