"""The fused kernels against the network in fp32. They need a GPU; without one every test here is skipped."""

from typing import Any

import pytest
import torch

from tests.tiny_model import random_tokens, tiny_llama
from tinyllama.generate.decoder import Decoder
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.kv_cache import KVCache, OneTokenEach
from tinyllama.model.llama import Llama

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# Odd widths, every grouping of heads, projections, tied; the kernels' tiles fit none of them.
SHAPES: list[dict[str, Any]] = [
    {"dim": 256, "n_heads": 8, "n_kv_heads": 2, "head_dim": 32, "ffn_dim": 688, "n_layers": 3},
    {"dim": 192, "n_heads": 3, "n_kv_heads": 3, "head_dim": 64, "ffn_dim": 500, "embedding_dim": 128},
    {"dim": 328, "n_heads": 20, "n_kv_heads": 1, "head_dim": 32, "ffn_dim": 712, "vocab_size": 1003},
    {"dim": 512, "n_heads": 4, "n_kv_heads": 2, "head_dim": 128, "ffn_dim": 1024, "tied_head": True},
]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


KINDS = [(shape, batch, torch.bfloat16) for shape in SHAPES for batch in (1, 5, 70)]
KINDS += [(SHAPES[0], batch, torch.float16) for batch in (1, 2, 17)]


@torch.inference_mode()
@pytest.mark.parametrize(("shape", "batch", "dtype"), KINDS, ids=lambda value: str(value)[:14])
def test_logits_are_as_near_to_fp32_as_the_plain_network(shape: dict[str, Any], batch: int, dtype: torch.dtype):
    from tinyllama.generate.fused_step import FusedStep, can_fuse

    model = tiny_llama(seq_len=400, **shape).to("cuda", dtype).eval()
    exact = tiny_llama(seq_len=400, **shape).to("cuda").eval()
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    assert can_fuse(model, batch)
    tokens = random_tokens(batch, 310, model.config.vocab_size).cuda()
    lengths = torch.randint(1, 300, (batch,), generator=torch.Generator().manual_seed(batch)).cuda()
    caches = [KVCache(model.config, batch, 320, "cuda", dtype) for _ in range(2)]
    for cache in caches:
        model.hidden(tokens[:, :300], cache=cache)
    fused = FusedStep(model, caches[0], batch)
    for step in range(3):
        positions = lengths + step
        new = tokens.gather(1, positions[:, None])
        found = fused(new[:, 0], positions).clone()
        mask = (torch.arange(320, device="cuda") <= positions[:, None])[:, None, None]
        plain = model(new, positions[:, None], mask, OneTokenEach(caches[1], positions, 320))[:, 0].float()
        wanted = torch.stack([exact(tokens[n : n + 1, : int(p) + 1])[0, -1] for n, p in enumerate(positions)])
        assert torch.isfinite(found).all()
        assert relative(found, wanted) < max(1.2 * relative(plain, wanted), 1e-3)


def likely(model: Llama, prompt: list[int], ids: list[int], slack: float) -> bool:
    """Whether each of `ids` is within `slack` of the largest logit of the fp32 network."""
    logits = model(torch.tensor([[*prompt, *ids]], device="cuda"))[0, len(prompt) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(ids, device="cuda")[:, None])[:, 0]
    return bool((logits.max(dim=1).values - chosen < slack).all())


@torch.inference_mode()
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("lengths", [[9], [30, 1, 257, 64, 3]])
def test_greedy_tokens_through_graphs_are_the_likeliest(lengths: list[int], fused: bool):
    model = tiny_llama(seq_len=600, **SHAPES[0]).to("cuda", torch.bfloat16).eval()
    exact = tiny_llama(seq_len=600, **SHAPES[0]).to("cuda").eval()
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    rows = random_tokens(len(lengths), 300).tolist()
    prompts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    decoder, config = Decoder(model, fused=fused), GenerateConfig(temperature=0.0, max_new_tokens=200)
    steps = list(decoder.new_tokens(prompts, config))
    assert steps == list(decoder.new_tokens(prompts, config))  # again, on the kept graph
    for prompt, ids in zip(prompts, zip(*steps, strict=True), strict=True):
        assert likely(exact, prompt, list(ids), 0.15)


def test_sampling_in_a_graph_is_sampling_on_the_cpu():
    model = tiny_llama().eval()
    config, prompts = GenerateConfig(max_new_tokens=30, min_p=0.02, repetition_penalty=1.1), [[1, 2, 3], [4]]
    on_cpu = list(Decoder(model).new_tokens(prompts, config))
    assert list(Decoder(model.cuda()).new_tokens(prompts, config)) == on_cpu
