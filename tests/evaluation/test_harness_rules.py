"""The harness's bounds: what is cut, what is refused, what is asked together."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from tests.harness.test_lm_model import asked
from tests.tiny_model import tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.harness import compiled_layers, lm_model
from tinyllama.harness.compiled_layers import CompiledLayers, with_compiled_layers
from tinyllama.harness.lm_model import HarnessModel, _example_of
from tinyllama.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def opened(prepared_run: Path) -> OpenedModel:
    model = tiny_llama().eval()
    return OpenedModel(model, model.config, Tokenizer.load(prepared_run / "tokenizer"), Path("tiny"), None)


@pytest.mark.parametrize(("given", "wanted"), [(None, 48), (16, 16), (47, 47), (48, 48), (49, 48), (4096, 48)])
def test_the_context_is_at_most_the_networks(opened: OpenedModel, given: int | None, wanted: int):
    assert HarnessModel(opened, max_tokens=given).max_tokens == wanted


def test_sizes_of_batches_by_device(opened: OpenedModel):
    assert lm_model.TOKENS_PER_BATCH == {"cpu": 2048, "cuda": 65_536}
    assert lm_model.TEXTS_PER_BATCH == {"cpu": 8, "cuda": 64}
    model = HarnessModel(opened)
    assert (model._tokens_per_batch, model._texts_per_batch) == (2048, 8)
    assert HarnessModel(opened, tokens_per_batch=7)._tokens_per_batch == 7
    elsewhere: Any = SimpleNamespace(
        device=torch.device("meta"), config=opened.config, model=opened.model, tokenizer=opened.tokenizer
    )
    assert (HarnessModel(elsewhere)._tokens_per_batch, HarnessModel(elsewhere)._texts_per_batch) == (2048, 8)


@pytest.mark.parametrize(
    ("bos_id", "eos_id", "wanted"), [(1, 2, 1), (0, 2, 0), (1, None, 1), (None, 2, 2), (None, 0, 0)]
)
def test_what_stands_before_a_text(opened: OpenedModel, bos_id: int | None, eos_id: int | None, wanted: int):
    tokenizer: Any = SimpleNamespace(bos_id=bos_id, eos_id=eos_id, vocab_size=512)
    assert HarnessModel(replace(opened, tokenizer=tokenizer)).prefix_id == wanted


def test_nothing_can_stand_before_a_text(opened: OpenedModel):
    tokenizer: Any = SimpleNamespace(bos_id=None, eos_id=None, vocab_size=512)
    with pytest.raises(InputError, match="tiny: its vocabulary has neither BOS nor EOS"):
        _ = HarnessModel(replace(opened, tokenizer=tokenizer)).prefix_id


def test_a_judged_text_fills_the_context_and_no_more(opened: OpenedModel):
    model = HarnessModel(opened, max_tokens=8)
    fits = model._fit(3, list(range(9)), 2)
    assert (fits.number, fits.ids, fits.n_scored, model.n_truncated) == (3, list(range(9)), 2, 0)
    assert model._fit(0, list(range(10)), 2).ids == list(range(1, 10))
    assert model._fit(0, list(range(20)), 8).ids == list(range(11, 20))
    assert model.n_truncated == 2
    for n_scored in (0, 9):
        with pytest.raises(InputError, match=f"a text to score has {n_scored} tokens; 1 to 8"):
            model._fit(0, list(range(20)), n_scored)


def test_a_prompt_leaves_room_for_the_new_tokens(opened: OpenedModel):
    model = HarnessModel(opened)
    ids = opened.with_bos(opened.tokenizer.encode("The value of a name"))
    assert model._prompt("The value of a name", len(ids)) == ids
    assert model.n_truncated == 0
    assert model._prompt("The value of a name", len(ids) - 1) == ids[1:]
    assert model._prompt("The value of a name", 1) == ids[-1:]
    assert model.n_truncated == 2
    assert HarnessModel(replace(opened, add_bos=False))._prompt("", 5) == [1]
    assert HarnessModel(opened)._prompt("", 5) == [1]
    config: dict[str, Any] = {"until": [], "max_gen_toks": 47}
    assert len(model.generate_until(asked("generate_until", [("The value", config)]))) == 1
    with pytest.raises(InputError, match="48 new tokens leave no room for a prompt in a context of 48"):
        model.generate_until(asked("generate_until", [("The", config | {"max_gen_toks": 48})]))


def test_texts_are_made_in_groups_of_eight_the_longest_first(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch):
    groups: list[list[int]] = []

    def made(opened: OpenedModel, prompts: list[list[int]], config: Any, decoder: Any) -> list[dict[str, Any]]:
        assert decoder is model._decoder
        assert (config.max_new_tokens, config.temperature, config.stop) == (5, 0.0, ["x"])
        groups.append([len(prompt) for prompt in prompts])
        return [{"text": str(len(prompt))} for prompt in prompts]

    monkeypatch.setattr(lm_model, "generate_ids", made)
    model = HarnessModel(opened)
    heard: list[tuple[int, Any]] = []
    model.on_answers = heard.extend
    texts = [" value" * n for n in (3, 1, 9, 2, 8, 7, 6, 5, 4)]
    setting: dict[str, Any] = {"until": ["x", ""], "max_gen_toks": 5}
    found = model.generate_until(asked("generate_until", [(text, setting) for text in texts]))
    lengths = [len(opened.with_bos(opened.tokenizer.encode(text))) for text in texts]
    assert found == [str(length) for length in lengths]
    assert groups == [sorted(lengths, reverse=True)[:8], [min(lengths)]]
    assert sorted(heard) == list(enumerate(found))


def test_requests_with_the_same_settings_are_made_together(opened: OpenedModel):
    settings: list[dict[str, Any]] = [
        {"until": ["a"]}, {"until": ["a"], "max_gen_toks": 9}, {"until": "a"}, {"until": ["b"]},
        {"until": ["a"], "do_sample": False},
    ]  # fmt: skip
    found = list(HarnessModel(opened)._by_settings(asked("generate_until", [("x", setting) for setting in settings])))
    assert [(config.max_new_tokens, config.stop, numbers) for config, numbers in found] == [
        (256, ["a"], [0, 2, 4]),
        (9, ["a"], [1]),
        (256, ["b"], [3]),
    ]


def test_requests_of_one_example_are_one_row(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch):
    rows: list[int] = []
    whole = HarnessModel._score_rows
    monkeypatch.setattr(
        HarnessModel,
        "_score_rows",
        lambda self, batch: (rows.extend(len(r.sequences) for r in batch), whole(self, batch))[1],
    )
    pairs = [("The value of a name", f" {word}") for word in ("is", "has", "the", "a", "of")]
    HarnessModel(opened).loglikelihood(asked("loglikelihood", pairs, [0, 0, 1, 0, 0]))
    assert sorted(rows) == [1, 2, 2]
    alone = [Instance("loglikelihood", {}, pair, 0) for pair in pairs[:2]]
    assert _example_of(alone[0]) != _example_of(alone[1])
    one, other = asked("loglikelihood", pairs[:2], [0, 0])
    assert _example_of(one) == _example_of(other)
    other.task_name = "u"
    assert _example_of(one) != _example_of(other)


def test_greedy_is_each_token_the_likeliest(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch):
    """Of a text of several tokens one that is not the likeliest is enough; sums are of its own tokens."""
    monkeypatch.setattr(lm_model, "LOGITS_CHUNK_TOKENS", 2)
    from tinyllama.harness.token_rows import ScoredTokens, make_row

    model = HarnessModel(opened)
    context = [1, 70, 80]
    with torch.no_grad():
        first = int(opened.model(torch.tensor([context]))[0, -1].argmax())
        logprobs = opened.model(torch.tensor([[*context, first]]))[0].log_softmax(-1)
        second = int(logprobs[-1].argmax())
    ids = {
        1: [*context, first, second],
        2: [*context, first, (second + 1) % 512],
        3: [*context, (first + 1) % 512, 5],
        4: [*context, first],
    }
    sequences = [ScoredTokens(n, tokens, len(tokens) - 3) for n, tokens in ids.items()]
    found = {number: answer for part in model._score_groups([sequences]) for number, answer in part.items()}
    assert {number: greedy for number, (_, greedy) in found.items()} == {1: True, 2: False, 3: False, 4: True}
    assert found[4][0] == pytest.approx(logprobs[2, first].item(), rel=1e-5)
    assert found[1][0] == pytest.approx((logprobs[2, first] + logprobs[3, second]).item(), rel=1e-5)
    assert not make_row(sequences[3:]).is_tree


def test_layers_are_compiled_from_the_batch_on_with_which_it_pays(monkeypatch: pytest.MonkeyPatch):
    assert compiled_layers.COMPILE_FROM_FLOP == 2e16
    monkeypatch.setattr(compiled_layers, "COMPILE_FROM_FLOP", 2.0 * 10 * 24)
    made: list[Any] = []

    def network(name: str) -> Any:
        hidden = lambda tokens, positions, mask: (name, positions, mask)  # noqa: E731
        weight = SimpleNamespace(is_cuda=True)
        return SimpleNamespace(
            hidden=hidden, config=SimpleNamespace(n_parameters=10), embedding=SimpleNamespace(weight=weight)
        )

    plain, compiled = network("plain"), network("compiled")
    monkeypatch.setattr(compiled_layers, "with_compiled_layers", lambda model: made.append(model) or compiled)
    tokens: Any = torch.zeros(2, 6)
    layers = CompiledLayers(plain, None)
    said = [layers.hidden(tokens, *rest)[0] for rest in ((), (), ())]
    assert said == ["plain", "compiled", "compiled"]  # 12 tokens, then 24: just enough
    assert layers.hidden(tokens, 3, 4) == ("compiled", 3, 4)  # type: ignore[arg-type]
    assert made == [plain]
    assert layers.are_compiled
    assert CompiledLayers(plain, True).hidden(tokens)[0] == "compiled"
    never = CompiledLayers(plain, False)
    assert {never.hidden(tokens, 5, 6)[1:] for _ in range(9)} == {(5, 6)}  # type: ignore[arg-type]
    assert not never.are_compiled


def test_a_network_with_compiled_layers_leaves_the_other_as_it_is(monkeypatch: pytest.MonkeyPatch):
    asked_for: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda layer, **how: (asked_for.append(how), layer)[1])
    model = tiny_llama().eval()
    before = model.layers
    other = with_compiled_layers(model)
    assert asked_for == [{"dynamic": True}] * 2
    assert model.layers is before
    assert other.layers is not before
    assert dict(other.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert other.embedding is model.embedding
