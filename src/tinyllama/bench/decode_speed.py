"""Speed of decoding one sequence, with random weights: speed does not depend on them."""

import statistics
import time
from typing import Any

import torch

from tinyllama.bench.training_speed import fill_random
from tinyllama.generate.decoder import Decoder
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig

PROMPT_TOKENS, NEW_TOKENS = 128, 64  # fewer where the context is shorter
CALLS, WARM_UP_CALLS = 5, 2  # the warm-up compiles, then records CUDA graphs


def decode_speed(config: LlamaConfig, device: torch.device, seed: int) -> dict[str, Any]:
    """Medians of whole calls, greedy, in bf16 on a GPU and fp32 on a CPU.

    `tokens_per_second` includes the prefill; `step_us` is the time from one token to the next.
    """
    model = random_model(config, device, torch.bfloat16 if device.type == "cuda" else torch.float32, seed)
    prompt_tokens = max(1, min(PROMPT_TOKENS, config.seq_len * 2 // 3))
    new_tokens = min(NEW_TOKENS, config.seq_len - prompt_tokens)
    prompt = torch.randint(config.vocab_size, (prompt_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    decoder, choice = Decoder(model), GenerateConfig(max_new_tokens=new_tokens, temperature=0.0)
    calls = [seconds_to_each_token(decoder, prompt, choice) for _ in range(WARM_UP_CALLS + CALLS)][WARM_UP_CALLS:]
    step = statistics.median((call[-1] - call[0]) / max(1, len(call) - 1) for call in calls)
    return {
        "tokens_per_second": round(new_tokens / statistics.median(call[-1] for call in calls), 1),
        "step_us": round(step * 1e6, 1),
        "first_token_ms": round(statistics.median(call[0] for call in calls) * 1e3, 3),
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "dtype": "bf16" if device.type == "cuda" else "fp32",
    }


def random_model(config: LlamaConfig, device: torch.device, dtype: torch.dtype, seed: int) -> Llama:
    """A model with random weights, allocated directly on the device in `dtype`."""
    with torch.device("meta"):
        model = Llama(config)
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    fill_random(model, seed)
    return model


def seconds_to_each_token(decoder: Decoder, prompt: list[int], choice: GenerateConfig) -> list[float]:
    """Seconds from the start of a call until each new token reaches the host."""
    started = time.perf_counter()
    return [time.perf_counter() - started for _ in decoder.new_tokens([prompt], choice)]
