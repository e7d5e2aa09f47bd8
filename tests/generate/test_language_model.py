"""The model of the Python API: batches, options and figures."""

import math
from pathlib import Path

import pytest
import torch

import tinyllama
from tests.tiny_model import make_run
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import open_model
from tinyllama.generate.decode import generate_many
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.language_model import LanguageModel
from tinyllama.generate.text_score import score

PROMPTS = ["The statement", "", "An object of this type is", "x"]
SAMPLED = {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 5}


@pytest.fixture(scope="module")
def run_dir(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(prepared_run, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def model(run_dir: Path) -> LanguageModel:
    return tinyllama.open_model(run_dir, "cpu")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, SAMPLED])
def test_a_batch_of_prompts_gives_what_each_gives_alone(model: LanguageModel, options: dict[str, float]):
    together = model.generate(PROMPTS, max_new_tokens=15, **options)  # pyright: ignore[reportArgumentType]
    assert [one.prompt for one in together] == PROMPTS
    for n, prompt in enumerate(PROMPTS):
        own = options | {"seed": options.get("seed", 1) + n}
        assert model.generate(prompt, max_new_tokens=15, **own) == [together[n]]  # pyright: ignore[reportArgumentType]
    assert len({tuple(one.token_ids) for one in together}) == len(PROMPTS)


def test_results_are_those_of_the_command(model: LanguageModel, run_dir: Path):
    config = GenerateConfig(max_new_tokens=12, stop=["e"], **SAMPLED)
    wanted = generate_many(open_model(run_dir, "cpu"), ["The", "The", "x", "x"], config)["sequences"]
    found = model.generate(["The", "x"], num_samples=2, max_new_tokens=12, stop="e", **SAMPLED)
    keys = ("prompt", "text", "token_ids", "finish_reason")
    assert [{key: getattr(one, key) for key in keys} for one in found] == wanted
    assert all(one.token_logprobs is None for one in found)
    assert model.generate("The", max_new_tokens=12, stop=["e"], **SAMPLED)[0] == found[0]


def test_text_arrives_in_chunks(model: LanguageModel):
    texts = ["", ""]

    def on_text(n: int, chunk: str) -> None:
        texts[n] += chunk

    assert [one.text for one in model.generate(["The", "x"], max_new_tokens=9, on_text=on_text)] == texts


def test_log_probabilities_of_new_tokens_are_the_models_own(model: LanguageModel):
    for one in model.generate(PROMPTS, max_new_tokens=10, temperature=2.0, top_k=7, logprobs=True):
        assert one.token_logprobs is not None
        before = [1, *model.tokenizer.encode(one.prompt)]
        assert len(one.token_logprobs) == len(one.token_ids) == 10
        for token_id, logprob in zip(one.token_ids, one.token_logprobs, strict=True):
            with torch.no_grad():
                logits = model.network(torch.tensor([before]))[0, -1]
            assert logprob == pytest.approx(logits.log_softmax(-1)[token_id].item(), abs=1e-5)
            before.append(token_id)
    assert model.generate("x", max_new_tokens=0, logprobs=True)[0].token_logprobs == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"top_p": 2}, "generate: top_p = 2 should be less than or equal to 1"),
        ({"temperature": -1.0}, "generate: temperature = -1.0 should be greater"),
        ({"max_new_tokens": 2.5}, "generate: max_new_tokens = 2.5 should be a valid integer"),
        ({"stop": ""}, "generate: stop.0 = '' String should have at least 1 character"),
    ],
)
def test_options_outside_their_range(model: LanguageModel, options: dict[str, float], line: str):
    with pytest.raises(InputError, match=line):
        model.generate("x", **options)  # pyright: ignore[reportArgumentType]


def test_scores_of_texts(model: LanguageModel, run_dir: Path):
    texts = ["The statement is.", "naïve é", ""]
    found, opened = model.score(texts), open_model(run_dir, "cpu")
    for text, one in zip(texts, found, strict=True):
        wanted = score(opened, text)
        assert {key: getattr(one, key) for key in wanted} == wanted
    one = found[1]
    assert one.mean_logprob is not None
    assert one.total_logprob is not None
    assert one.total_logprob == pytest.approx(one.mean_logprob * (len(one.token_ids) - 1))
    assert one.perplexity == pytest.approx(math.exp(-one.mean_logprob))
    assert one.bits_per_byte == pytest.approx(-one.total_logprob / math.log(2) / 9)  # ï and é have two bytes
    assert (found[2].total_logprob, found[2].perplexity, found[2].bits_per_byte) == (None, None, None)
    assert model.score(texts[0]) == found[:1]


def test_without_bos_the_bytes_of_the_first_token_do_not_count(run_dir: Path):
    opened = open_model(run_dir, "cpu")
    object.__setattr__(opened, "add_bos", False)
    (found,) = LanguageModel(opened).score("The statement is.")
    n_bytes = len("The statement is.") - len(opened.tokenizer.decode(found.token_ids[:1]))
    assert found.total_logprob is not None
    assert found.bits_per_byte == pytest.approx(-found.total_logprob / math.log(2) / n_bytes)
    assert LanguageModel(opened).score("x")[0].token_ids == opened.tokenizer.encode("x")
