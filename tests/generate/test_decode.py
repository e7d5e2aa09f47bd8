from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny_model import make_run, tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel, open_model
from tinyllama.generate.decode import TextStream, generate
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def opened(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return open_model(make_run(prepared_run, tmp_path_factory.mktemp("runs") / "run"), "cpu")


@pytest.fixture(scope="module")
def tokenizer(opened: OpenedModel) -> Tokenizer:
    return opened.tokenizer


def always(opened: OpenedModel, token_id: int) -> OpenedModel:
    """The model, made to answer with one token whatever it reads."""
    model = tiny_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1.0)
        model.embedding.weight.fill_(1.0)
        assert model.head is not None
        model.head.weight[token_id] = 1.0
    return replace(opened, model=model.eval())


def run(opened: OpenedModel, prompt: str = "The ", **changes: Any) -> dict[str, Any]:
    pieces: list[str] = []
    found = generate(opened, prompt, GenerateConfig(**changes), on_text=pieces.append)
    assert "".join(pieces) == found["text"]
    assert all(pieces)
    return found


def test_greedy_is_the_likeliest_without_a_cache(opened: OpenedModel):
    found = run(opened, "The statement", max_new_tokens=15, temperature=0.0)
    ids = opened.with_bos(opened.tokenizer.encode("The statement"))
    for token_id in found["token_ids"]:
        with torch.no_grad():
            assert token_id == int(opened.model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token_id)
    assert len(found["token_ids"]) == 15
    assert found["finish_reason"] == "length"
    assert found["tokens_per_second"] > 0


def test_a_seed_fixes_the_text(opened: OpenedModel):
    texts = [run(opened, max_new_tokens=20, seed=seed)["token_ids"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_text_is_what_follows_the_prompt(opened: OpenedModel, tokenizer: Tokenizer):
    found = run(opened, "The statement", max_new_tokens=20)
    ids = tokenizer.encode("The statement")
    assert "The statement" + found["text"] == tokenizer.decode([*ids, *found["token_ids"]])


def test_stops_at_eos(opened: OpenedModel, tokenizer: Tokenizer):
    assert tokenizer.eos_id is not None
    found = run(always(opened, tokenizer.eos_id), temperature=0.0)
    assert (found["text"], found["token_ids"], found["finish_reason"]) == ("", [], "stop")


def test_ends_with_the_context(opened: OpenedModel, tokenizer: Tokenizer):
    token_id = tokenizer.encode("x")[-1]
    found = run(always(opened, token_id), "The statement", max_new_tokens=1000, temperature=0.0)
    n_prompt = len(opened.with_bos(tokenizer.encode("The statement")))
    assert found["finish_reason"] == "length"
    assert found["token_ids"] == [token_id] * (opened.config.seq_len - n_prompt)


def test_no_new_tokens(opened: OpenedModel):
    found = run(opened, max_new_tokens=0)
    assert found == {"text": "", "token_ids": [], "tokens_per_second": 0.0, "finish_reason": "length"}


def test_empty_prompt_starts_from_bos(opened: OpenedModel):
    assert len(run(opened, "", max_new_tokens=5)["token_ids"]) == 5
    with pytest.raises(InputError, match="prompt: empty"):
        generate(replace(opened, add_bos=False), "", GenerateConfig())


@pytest.mark.parametrize("n_tokens", [47, 48, 500])
def test_a_prompt_must_leave_room(opened: OpenedModel, tokenizer: Tokenizer, n_tokens: int):
    prompt = "\x01" * (n_tokens - 2)  # a token each, after BOS and the blank before a text
    assert len(opened.with_bos(tokenizer.encode(prompt))) == n_tokens
    if n_tokens < 48:
        assert len(run(opened, prompt, max_new_tokens=9)["token_ids"]) == 48 - n_tokens
    else:
        with pytest.raises(InputError, match=f"{n_tokens} tokens, BOS included, fill the model's context of 48"):
            generate(opened, prompt, GenerateConfig())


def test_ids_that_the_tokenizer_lacks_are_never_made(prepared_run: Path, tmp_path: Path):
    wide = open_model(make_run(prepared_run, tmp_path / "run", tiny_llama(vocab_size=4096)), "cpu")
    assert max(run(wide, max_new_tokens=30, temperature=5.0, top_p=1.0)["token_ids"]) < 512


def test_weights_gone_wrong_are_said(opened: OpenedModel):
    broken = tiny_llama().eval()
    with torch.no_grad():
        broken.norm.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="logits are not finite"):
        generate(replace(opened, model=broken), "The", GenerateConfig())


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=8),
    ids=st.lists(st.integers(0, 515), max_size=25),
)
def test_streamed_pieces_are_the_whole_text(tokenizer: Tokenizer, prompt: str, ids: list[int]):
    prompt_ids = [1, *tokenizer.encode(prompt)]
    stream = TextStream(tokenizer, prompt_ids)
    pieces = [stream.add(token_id) for token_id in ids]
    pieces.append(stream.finish())
    assert "".join(pieces) == stream.text
    assert tokenizer.decode(prompt_ids) + stream.text == tokenizer.decode([*prompt_ids, *ids])


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁\ufffd"), min_size=1, max_size=12))
def test_no_character_is_ever_cut(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer, [1])
    pieces = [stream.add(token_id) for token_id in ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert stream.finish() == ""
