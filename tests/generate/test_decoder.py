from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_model import random_tokens, tiny_llama
from tinyllama.exchange.tensor_names import to_hugging_face
from tinyllama.generate.decoder import Decoder
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.model.llama import Llama

LENGTHS = [5, 1, 14, 2, 9]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def prompts(lengths: list[int] = LENGTHS) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(random_tokens(len(lengths), 47), lengths, strict=True)]


def decoded(model: Llama, ids: list[list[int]], seeds: list[int] | None = None, **changes: Any) -> list[list[int]]:
    """Each sequence's new tokens."""
    config = GenerateConfig(**{"max_new_tokens": 20, **changes})
    return [list(row) for row in zip(*Decoder(model).new_tokens(ids, config, seeds), strict=True)]


@torch.no_grad()
def greedy_reference(model: Llama, prompt: list[int], n_tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n_tokens):
        ids.append(int(model(torch.tensor([ids], device=model.embedding.weight.device))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_ragged_greedy_batches_are_the_obvious_loop(device: str, n_kv_heads: int):
    model = tiny_llama(n_kv_heads=n_kv_heads).to(device).eval()
    found = decoded(model, prompts(), temperature=0.0)
    assert found == [greedy_reference(model, prompt, 20) for prompt in prompts()]


def test_greedy_batches_are_those_of_transformers_with_padding_on_the_left():
    transformers = pytest.importorskip("transformers")
    model = tiny_llama().eval()
    c = model.config
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.ffn_dim, num_hidden_layers=c.n_layers,
            num_attention_heads=c.n_heads, num_key_value_heads=c.n_kv_heads, max_position_embeddings=c.seq_len,
            rms_norm_eps=c.norm_eps, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict({to_hugging_face(name): value for name, value in model.state_dict().items()})
    longest = max(LENGTHS)
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts()])
    mask = torch.tensor([[0] * (longest - length) + [1] * length for length in LENGTHS])
    wanted = theirs.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=0)
    assert decoded(model, prompts(), temperature=0.0) == wanted[:, longest:].tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "changes", [{}, {"top_k": 7}, {"min_p": 0.1, "top_p": 1.0}, {"repetition_penalty": 1.4}], ids=str
)
def test_sampled_batches_are_each_sequence_alone(device: str, changes: dict[str, Any]):
    model, seeds = tiny_llama().to(device).eval(), [3, 1, 4, 1, 5]
    together = decoded(model, prompts(), seeds, **changes)
    alone = [decoded(model, [prompt], [seed], **changes)[0] for prompt, seed in zip(prompts(), seeds, strict=True)]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == len(LENGTHS)


def test_same_prompt_and_seed_same_tokens_in_any_place():
    model, prompt = tiny_llama().eval(), prompts()[2]
    rows = decoded(model, [prompt, prompts()[0], prompt, prompt], [7, 7, 7, 8])
    assert rows[0] == rows[2]
    assert rows[0] not in (rows[1], rows[3])


@pytest.mark.parametrize("device", DEVICES)
def test_sequences_past_the_context_do_no_harm(device: str):
    model = tiny_llama().to(device).eval()
    rows = decoded(model, prompts([47, 1, 40]), temperature=0.0, max_new_tokens=1000)
    assert [len(row) for row in rows] == [47, 47, 47]
    assert rows[1] == greedy_reference(model, prompts([47, 1, 40])[1], 47)
    assert rows[2][:8] == greedy_reference(model, prompts([47, 1, 40])[2], 8)


@pytest.mark.parametrize("device", DEVICES)
def test_the_reader_may_stop_at_any_step(device: str):
    model = tiny_llama().to(device).eval()
    decoder, config = Decoder(model), GenerateConfig(max_new_tokens=20, temperature=0.0)
    wanted = list(decoder.new_tokens(prompts(), config))
    for n_steps in (1, 5):
        steps = decoder.new_tokens(prompts(), config)
        assert [next(steps) for _ in range(n_steps)] == wanted[:n_steps]
        steps.close()
    assert list(decoder.new_tokens(prompts(), config)) == wanted


def test_only_ids_below_the_vocabulary_given():
    rows = Decoder(tiny_llama().eval(), 100).new_tokens(prompts(), GenerateConfig(temperature=5.0, top_p=1.0))
    assert max(max(row) for row in rows) < 100


@pytest.mark.parametrize("bad", [[[]], [[1], []], [[1] * 48]], ids=["empty", "one empty", "full"])
def test_prompts_that_cannot_be(bad: list[list[int]]):
    with pytest.raises(ValueError, match="every prompt needs 1 to 47 tokens"):
        next(Decoder(tiny_llama().eval()).new_tokens(bad, GenerateConfig()))


def test_no_new_tokens_is_no_step():
    assert list(Decoder(tiny_llama().eval()).new_tokens(prompts(), GenerateConfig(max_new_tokens=0))) == []


def test_weights_that_are_no_numbers_are_marked():
    model = tiny_llama().eval()
    with torch.no_grad():
        norm: Tensor = model.norm.weight
        norm.fill_(float("nan"))
    assert decoded(model, prompts([3, 4]), max_new_tokens=2) == [[-1, -1], [-1, -1]]
