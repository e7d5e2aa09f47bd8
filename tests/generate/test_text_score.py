import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny_model import make_run
from tinyllama.exchange.open_model import OpenedModel, open_model
from tinyllama.generate.text_score import score


@pytest.fixture(scope="module")
def opened(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return open_model(make_run(prepared_run, tmp_path_factory.mktemp("runs") / "run"), "cpu")


def test_each_token_given_those_before(opened: OpenedModel):
    found = score(opened, "The statement is.")
    ids = [1, *opened.tokenizer.encode("The statement is.")]
    assert found["token_ids"] == ids
    assert found["token_logprobs"][0] is None
    for place in range(1, len(ids)):
        with torch.no_grad():
            logits = opened.model(torch.tensor([ids[:place]]))[0, -1].double()
        wanted = logits[ids[place]].item() - math.log(logits.exp().sum().item())
        assert found["token_logprobs"][place] == pytest.approx(wanted, abs=1e-5)
    assert found["mean_logprob"] == pytest.approx(sum(found["token_logprobs"][1:]) / (len(ids) - 1))


def test_without_bos_the_first_token_has_no_context(opened: OpenedModel):
    found = score(replace(opened, add_bos=False), "The statement is.")
    assert found["token_ids"] == opened.tokenizer.encode("The statement is.")
    assert len(found["token_logprobs"]) == len(found["token_ids"])
    assert found["token_logprobs"][0] is None


def test_texts_with_nothing_to_judge(opened: OpenedModel):
    assert score(opened, "") == {"token_ids": [1], "token_logprobs": [None], "mean_logprob": None}
    assert score(replace(opened, add_bos=False), "") == {"token_ids": [], "token_logprobs": [], "mean_logprob": None}


@pytest.mark.parametrize("characters", [40, 47, 48, 49, 71, 72, 73, 200])
def test_a_long_text_is_judged_in_overlapping_windows(opened: OpenedModel, characters: int):
    text = "\x01\x02" * (characters // 2) + "\x03" * (characters % 2)
    found = score(opened, text)
    ids = found["token_ids"]
    assert ids == [1, *opened.tokenizer.encode(text)]
    assert len(found["token_logprobs"]) == len(ids)
    for place in {1, 24, 40, len(ids) // 2, len(ids) - 1}:  # context: the newest window's tokens
        first_window = place <= 48
        start = 0 if first_window else -(-(place - 48) // 24) * 24
        with torch.no_grad():
            logits = opened.model(torch.tensor([ids[start:place]]))[0, -1]
        assert place - start >= 24 or first_window
        assert found["token_logprobs"][place] == pytest.approx(logits.log_softmax(-1)[ids[place]].item(), abs=1e-5)
