from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_model import make_run, tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel, open_model
from tinyllama.generate.decode import generate, generate_many, number_format
from tinyllama.generate.decoder import Decoder
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


PROMPTS = ["The statement", "", "An object of this type is", "x"]


def test_prompts_together_are_as_alone(opened: OpenedModel):
    sampling = GenerateConfig(max_new_tokens=12, temperature=1.3, top_p=0.9, repetition_penalty=1.2)
    for config in (GenerateConfig(max_new_tokens=12, temperature=0.0), sampling):
        together = generate_many(opened, PROMPTS, config)
        assert together["tokens_per_second"] > 0
        for n, (prompt, found) in enumerate(zip(PROMPTS, together["sequences"], strict=True)):
            alone = generate(opened, prompt, config.model_copy(update={"seed": config.seed + n}))
            assert found == {"prompt": prompt, **{key: alone[key] for key in ("text", "token_ids", "finish_reason")}}


def test_many_prompts_wait_their_turn(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch):
    config = GenerateConfig(max_new_tokens=6, temperature=1.0)
    wanted = generate_many(opened, PROMPTS, config)["sequences"]
    monkeypatch.setattr("tinyllama.generate.decode.MAX_TOGETHER", 3)
    assert generate_many(opened, PROMPTS, config)["sequences"] == wanted
    assert generate_many(opened, [], config)["sequences"] == []


def test_sequences_of_several_lengths_each_end_with_the_context(opened: OpenedModel, tokenizer: Tokenizer):
    token_id = tokenizer.encode("x")[-1]
    model = always(opened, token_id)
    found = generate_many(model, ["The statement", "x"], GenerateConfig(max_new_tokens=1000, temperature=0.0))
    for prompt, sequence in zip(["The statement", "x"], found["sequences"], strict=True):
        n_prompt = len(opened.with_bos(tokenizer.encode(prompt)))
        assert sequence["token_ids"] == [token_id] * (opened.config.seq_len - n_prompt)


def test_pieces_say_whose_they_are(opened: OpenedModel):
    texts = ["", ""]

    def on_text(number: int, piece: str) -> None:
        texts[number] += piece

    found = generate_many(opened, ["The", "An object"], GenerateConfig(max_new_tokens=15), on_text=on_text)
    assert [sequence["text"] for sequence in found["sequences"]] == texts
    assert all(texts)


def test_stop_strings_end_the_text_and_are_not_in_it(opened: OpenedModel):
    whole = run(opened, max_new_tokens=40, temperature=1.0)
    text = whole["text"]
    stops = [text[n : n + length] for n in range(3, len(text) - 5, 4) for length in (1, 3, 5)]
    for stop in [stop for stop in stops if "\ufffd" not in stop]:
        found = run(opened, max_new_tokens=40, temperature=1.0, stop=[stop, "never there"])
        assert found["text"] == text[: text.index(stop)]
        assert found["finish_reason"] == "stop"
        assert found["token_ids"] == whole["token_ids"][: len(found["token_ids"])]
        assert stop in opened.tokenizer.decode([opened.tokenizer.encode("x")[-1], *found["token_ids"]])
        quiet = generate(opened, "The ", GenerateConfig(max_new_tokens=40, temperature=1.0, stop=[stop]))
        assert (quiet["text"], quiet["token_ids"]) == (found["text"], found["token_ids"])


def test_a_stop_string_begun_and_not_ended_is_text(opened: OpenedModel):
    whole = run(opened, max_new_tokens=10, temperature=1.0)["text"]
    found = run(opened, max_new_tokens=10, temperature=1.0, stop=[whole[-3:] + "\x00"])
    assert (found["text"], found["finish_reason"]) == (whole, "length")


def test_a_repetition_penalty_makes_tokens_come_once(opened: OpenedModel):
    ids = run(opened, max_new_tokens=25, temperature=0.0, repetition_penalty=1e6)["token_ids"]
    made = [*opened.with_bos(opened.tokenizer.encode("The ")), *ids]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & set(made[: -len(ids)])


def test_a_decoder_kept_gives_the_same(opened: OpenedModel):
    decoder = Decoder(opened.model, opened.tokenizer.vocab_size)
    for changes in ({}, {"temperature": 0.0}, {}, {"max_new_tokens": 3}, {"repetition_penalty": 1.5}):
        config = GenerateConfig(**{"max_new_tokens": 12, **changes})
        for prompt in ("The statement", "x"):
            kept = generate(opened, prompt, config, decoder=decoder)
            assert kept["token_ids"] == generate(opened, prompt, config)["token_ids"]


def test_number_formats():
    assert number_format("bf16") == torch.bfloat16
    assert number_format("auto") == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)


def test_number_formats_by_name():
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: number_format(name) for name in wanted} == wanted


def test_auto_is_bf16_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch):
    for there, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert number_format("auto") == wanted


def test_sixty_four_prompts_are_decoded_together_each_with_its_own_seed(opened: OpenedModel):
    groups: list[tuple[int, list[int]]] = []

    class Recorded(Decoder):
        def new_tokens(self, prompts: list[list[int]], config: GenerateConfig, seeds: list[int] | None = None) -> Any:
            groups.append((len(prompts), seeds or []))
            return super().new_tokens(prompts, config, seeds)

    found = generate_many(
        opened, ["x"] * 65, GenerateConfig(max_new_tokens=1, seed=7), decoder=Recorded(opened.model, 512)
    )
    assert groups == [(64, list(range(7, 71))), (1, [71])]
    assert len(found["sequences"]) == 65


def test_tokens_per_second_are_all_new_tokens_over_all_seconds(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 103.0, 5.0, 8.0])
    monkeypatch.setattr("tinyllama.generate.decode.time.perf_counter", lambda: next(clock))
    config = GenerateConfig(max_new_tokens=5, temperature=0.0)
    assert generate_many(opened, ["The", "x"], config)["tokens_per_second"] == 3.33  # 10 in 3 s
    assert generate(opened, "The", config)["tokens_per_second"] == 1.67


def scripted(opened: OpenedModel, rows: list[list[int]], prompts: list[str], **changes: Any) -> tuple[Any, int]:
    """What is made of these tokens, a row a step; and how many rows were read."""
    read = 0

    class Script(Decoder):
        def new_tokens(self, *given: Any, **named: Any) -> Any:
            nonlocal read
            for row in rows:
                read += 1
                yield row

    found = generate_many(opened, prompts, GenerateConfig(**changes), decoder=Script(opened.model, 512))
    return found["sequences"], read


def test_sequences_end_one_by_one_and_the_last_ends_the_steps(opened: OpenedModel, tokenizer: Tokenizer):
    x, eos = tokenizer.encode("x")[-1], tokenizer.eos_id
    assert eos is not None
    rows = [[eos, x, x], [x, x, x], [-1, eos, x], [-1, -1, x], [x, x, x], [x, x, x]]
    found, read = scripted(opened, rows, ["a", "b", "c"], max_new_tokens=4)
    assert [sequence["token_ids"] for sequence in found] == [[], [x, x], [x, x, x, x]]
    assert [sequence["finish_reason"] for sequence in found] == ["stop", "stop", "length"]
    assert [sequence["text"] for sequence in found] == ["", "xx", "xxxx"]
    assert read == 4  # nothing after the last has its tokens
    with pytest.raises(InputError, match="step_00000003: its logits are not finite"):
        scripted(opened, [[x, x], [x, -1]], ["a", "b"])


def test_a_stop_string_is_found_where_the_text_ends_with_it(opened: OpenedModel, tokenizer: Tokenizer):
    x, y = tokenizer.encode("x")[-1], tokenizer.encode("y")[-1]
    found, read = scripted(opened, [[x], [y], [x], [x]], ["a"], stop=["yx"])
    assert (found[0]["text"], found[0]["token_ids"], found[0]["finish_reason"], read) == ("x", [x, y, x], "stop", 3)
    found, read = scripted(opened, [[x], [y], [x]], ["a"], stop=["yxx"], max_new_tokens=3)
    assert (found[0]["text"], found[0]["finish_reason"]) == ("xyx", "length")
    byte = tokenizer.encode("\u00e9")[-2]  # the first byte of a character, written as U+FFFD when nothing follows
    found, _ = scripted(opened, [[x], [byte]], ["a"], stop=["\ufffd"], max_new_tokens=2)
    assert (found[0]["text"], found[0]["finish_reason"]) == ("x", "stop")
