"""Our network behind lm-eval's methods, beside the slow and obvious way, and beside lm-eval's own HFLM."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from tests.tiny_model import tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.generate.decode import generate, generate_ids
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.text_score import score, token_logprobs
from tinyllama.harness import lm_model
from tinyllama.harness.lm_model import HarnessModel
from tinyllama.model.llama import Llama
from tinyllama.tokenizer.bpe import Tokenizer

PAIRS = [
    ("The value of a name", " is an object"),
    ("The value of a name", " is a list"),
    ("The value of a name", " x"),
    ("A list ", "is a list"),  # the blank belongs to what follows
    ("", "A list is a list."),
    ("Return the sum\n", "of the array"),
]


@pytest.fixture
def opened(prepared_run: Path) -> OpenedModel:
    model = tiny_llama().eval()
    return OpenedModel(model, model.config, Tokenizer.load(prepared_run / "tokenizer"), Path("tiny"), None)


def asked(kind: Any, arguments: list[tuple[Any, ...]], doc_ids: list[int] | None = None) -> list[Instance]:
    doc_ids = doc_ids or list(range(len(arguments)))
    return [Instance(kind, {}, given, n, metadata=("t", doc_ids[n], 1)) for n, given in enumerate(arguments)]


def reference(opened: OpenedModel, context: str, text: str) -> tuple[float, bool]:
    """Log-probability of a text after a context, one plain pass."""
    stripped = context.rstrip()
    before = opened.with_bos(opened.tokenizer.encode(stripped)) if stripped else opened.with_bos([])
    ids = opened.with_bos(opened.tokenizer.encode(context + text))
    logprobs = torch.log_softmax(opened.model(torch.tensor([ids[:-1]]))[0].detach(), dim=-1)
    new = range(len(before), len(ids))
    total = sum(float(logprobs[place - 1, ids[place]]) for place in new)
    return total, all(int(logprobs[place - 1].argmax()) == ids[place] for place in new)


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 4000])
def test_log_probabilities_are_those_of_single_passes(opened: OpenedModel, tokens_per_batch: int):
    model = HarnessModel(opened, tokens_per_batch=tokens_per_batch)
    heard: dict[int, Any] = {}
    model.on_answers = heard.update
    found = model.loglikelihood(asked("loglikelihood", PAIRS, [0, 0, 0, 1, 2, 3]))
    for (context, text), (logprob, greedy) in zip(PAIRS, found, strict=True):
        wanted, is_greedy = reference(opened, context, text)
        assert logprob == pytest.approx(wanted, rel=1e-5)
        assert greedy == is_greedy
    assert heard == dict(enumerate(found))
    assert model.n_truncated == 0


def test_the_rule_of_bos_is_that_of_score(opened: OpenedModel):
    """One BOS before a context, before a text without one, and before a whole text; none where the tokenizer says no."""
    text = "The value of a name is an object."
    whole = sum(score(opened, text)["token_logprobs"][1:])
    model = HarnessModel(opened)
    assert model.loglikelihood(asked("loglikelihood", [("", text)]))[0][0] == pytest.approx(whole, rel=1e-5)
    assert model.loglikelihood_rolling(asked("loglikelihood_rolling", [(text,)]))[0] == pytest.approx(whole, rel=1e-5)
    plain = replace(opened, add_bos=False)
    without = HarnessModel(plain).loglikelihood(asked("loglikelihood", [("The value", " of")]))[0][0]
    ids = opened.tokenizer.encode("The value of")
    n = len(ids) - len(opened.tokenizer.encode("The value"))
    assert without == pytest.approx(sum(token_logprobs(opened.model, ids)[-n:]), rel=1e-5)
    # nothing stands before a whole text there: BOS does, as the end of the text before it
    assert HarnessModel(plain).loglikelihood_rolling(asked("loglikelihood_rolling", [(text,)]))[0] == pytest.approx(
        whole
    )


def test_long_texts_lose_tokens_from_the_left_and_are_counted(opened: OpenedModel):
    model = HarnessModel(opened)
    long = "The value of a name is an object. " * 12
    found, _ = model.loglikelihood(asked("loglikelihood", [(long, "A list")]))[0]
    ids = opened.tokenizer.encode(long + "A list")
    n = len(ids) - len(opened.tokenizer.encode(long.rstrip()))
    kept = ids[-opened.config.seq_len - 1 :]
    assert found == pytest.approx(sum(token_logprobs(opened.model, kept)[-n:]), rel=1e-5)
    assert model.n_truncated == 1
    with pytest.raises(InputError, match=r"a text to score has \d+ tokens"):
        model.loglikelihood(asked("loglikelihood", [("A", long)]))


def test_rolling_judges_every_token_once(opened: OpenedModel):
    """Windows by hand: the first `max_tokens`, then on from the token before; the last one reaches back to be full."""
    text = "The value of a name is an object. " * 4
    ids = opened.tokenizer.encode(text)
    size, total, done = 16, 0.0, 0
    assert opened.tokenizer.bos_id is not None
    everything = [opened.tokenizer.bos_id, *ids]
    while done < len(ids):
        end = min(done + size, len(ids))
        before = everything[max(0, end - size) : end + 1] if done else everything[: end + 1]
        total += sum(token_logprobs(opened.model, before)[-(end - done) :])
        done = end
    found = HarnessModel(opened, max_tokens=size).loglikelihood_rolling(asked("loglikelihood_rolling", [(text,)]))
    assert found[0] == pytest.approx(total, rel=1e-5)


def test_text_that_is_made_is_that_of_generate(opened: OpenedModel):
    model = HarnessModel(opened)
    prompts = ["The value", "A list is a list and", "Return"]
    settings: list[dict[str, Any]] = [{"until": ["\n", "e"], "max_gen_toks": 12}, {"until": [], "max_gen_toks": 7}]
    asked_for = [(p, s) for p in prompts for s in settings]
    found = model.generate_until(asked("generate_until", list(asked_for)))
    for (prompt, setting), text in zip(asked_for, found, strict=True):
        config = GenerateConfig(temperature=0.0, max_new_tokens=setting["max_gen_toks"], stop=setting["until"])
        assert text == generate(opened, prompt, config)["text"]
    with pytest.raises(InputError, match="only greedy text is scored"):
        model.generate_until(asked("generate_until", [("A", {"until": [], "do_sample": True, "temperature": 1.0})]))
    with pytest.raises(InputError, match="leave no room"):
        model.generate_until(asked("generate_until", [("A", {"until": [], "max_gen_toks": 48})]))


def test_batches_that_memory_cannot_hold_are_made_smaller(
    opened: OpenedModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    requests = asked("loglikelihood", PAIRS, [0, 0, 0, 1, 2, 3])
    wanted = HarnessModel(opened, tokens_per_batch=4000).loglikelihood(requests)
    model, most, signs = HarnessModel(opened, tokens_per_batch=4000), 40, []
    model.on_progress = lambda: signs.append(1)
    whole = Llama.hidden

    def small(self: Llama, tokens: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if tokens.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, tokens, *given, **named)

    monkeypatch.setattr(Llama, "hidden", small)
    assert model.loglikelihood(requests) == [(pytest.approx(logprob, rel=1e-5), greedy) for logprob, greedy in wanted]
    assert "continuing with batches of" in " ".join(capfd.readouterr().err.split())
    assert len(signs) == 3  # too large, then in two
    most = 3  # not even one row
    with pytest.raises(torch.OutOfMemoryError):
        model.loglikelihood(requests)


def test_fewer_texts_per_batch_when_memory_does_not_hold_them(
    opened: OpenedModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    setting: dict[str, Any] = {"until": ["e"], "max_gen_toks": 6}
    requests = asked("generate_until", [(p, setting) for p in ("The value", "A list is a list", "Return", "x", "y")])
    wanted = HarnessModel(opened).generate_until(requests)
    tried: list[int] = []

    def small(opened: OpenedModel, prompts: list[list[int]], *given: Any, **named: Any) -> list[dict[str, Any]]:
        tried.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate_ids(opened, prompts, *given, **named)

    monkeypatch.setattr(lm_model, "generate_ids", small)
    heard: dict[int, Any] = {}
    model = HarnessModel(opened)
    model.on_answers = heard.update
    assert model.generate_until(requests) == wanted
    assert heard == dict(enumerate(wanted))
    assert tried == [5, 2, 2, 1]
    assert "continuing with batches of 2 texts" in " ".join(capfd.readouterr().err.split())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_agrees_with_the_cpu(opened: OpenedModel, compiled: bool):
    on_gpu = tiny_llama().eval().cuda()
    there = HarnessModel(replace(opened, model=on_gpu), compiled=compiled)
    requests = asked("loglikelihood", PAIRS, [0, 0, 0, 1, 2, 3])
    for (a, _), (b, _) in zip(HarnessModel(opened).loglikelihood(requests), there.loglikelihood(requests), strict=True):
        assert math.isclose(a, b, rel_tol=1e-4)
