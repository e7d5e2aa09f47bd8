"""How fast tokens are made, beside Hugging Face Transformers in the same process and beside what memory allows.

    python benchmarks/decode.py                          # tinyllama-1.1b in bf16 on a GPU, batches of 1 and 64
    python benchmarks/decode.py --device cpu             # the same network in fp32 on a CPU, fewer tokens
    python benchmarks/decode.py --device cpu --preset small-120m

Weights are random: speed does not depend on them. A step cannot take less time than reading what it needs: 2 bytes a
parameter (4 in fp32) and the keys and values of the tokens so far, at the rate measured here for a large copy inside the
device's memory, bytes read and written. Tokens/s are of whole calls, the reading of the prompts included; `step` is the
time from one token to the next. Every figure is the median of the repeats, after two calls that are not counted.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from tinyllama.exchange.tensor_names import to_hugging_face
from tinyllama.generate.decoder import Decoder
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig, preset

Call = Callable[[], list[float]]  # seconds from its start to each step, or to its end alone


def main() -> None:
    options = arguments()
    device, dtype = torch.device(options.device), torch.bfloat16 if options.device == "cuda" else torch.float32
    if options.threads:
        torch.set_num_threads(options.threads)
    model = random_network(preset(options.preset), device, dtype)
    bandwidth = copy_bandwidth(device)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(json.dumps({"device": name, **versions, "copy_bytes_per_second": round(bandwidth)}), flush=True)
    print(json.dumps({"preset": options.preset, "dtype": str(dtype), "prompt": options.prompt, "new": options.new}))
    theirs = None if options.without_transformers else hugging_face(model)
    for batch in options.batches:
        prompts = torch.randint(0, model.config.vocab_size, (batch, options.prompt)).tolist()
        calls = {"tinyllama": our_call(model, prompts, options.new, temperature=0.0)}
        if options.sampling:
            calls["tinyllama, sampling"] = our_call(model, prompts, options.new, temperature=0.8, top_p=0.95)
        if theirs is not None:
            calls["transformers"] = their_call(theirs, prompts, options.new)
        limit = limit_tokens_per_second(model.config, batch, options.prompt, options.new, dtype.itemsize, bandwidth)
        for program, figures in measured(calls, batch * options.new, options.repeats).items():
            share = round(figures["tokens_per_second"] / limit, 3)
            print(json.dumps({"batch": batch, "program": program, **figures, "share_of_limit": share}), flush=True)
        print(json.dumps({"batch": batch, "limit_tokens_per_second": round(limit)}), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--preset", default="tinyllama-1.1b")
    parser.add_argument("--batches", type=int, nargs="+", default=None, help="default: 1 64 on a GPU, 1 4 on a CPU")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=None, help="new tokens; default: 256 on a GPU, 32 on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; default: torch's")
    parser.add_argument("--sampling", action="store_true", help="time temperature 0.8 and top-p 0.95 too")
    parser.add_argument("--without-transformers", action="store_true")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.batches = options.batches or ([1, 64] if on_gpu else [1, 4])
    options.new = options.new or (256 if on_gpu else 32)
    return options


def random_network(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> Llama:
    with torch.device("meta"):
        model = Llama(config)
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model


def hugging_face(model: Llama) -> Any:
    """The same network in Transformers, with the same weights."""
    c = model.config
    config = transformers.LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.ffn_dim, num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads, num_key_value_heads=c.n_kv_heads, max_position_embeddings=c.seq_len,
        rms_norm_eps=c.norm_eps, tie_word_embeddings=c.tied_head, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        dtype=model.embedding.weight.dtype,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.LlamaForCausalLM(config)
    state = {to_hugging_face(name): value for name, value in model.state_dict().items()}
    theirs.load_state_dict(state, strict=not c.tied_head, assign=True)
    rotary: Any = theirs.model.rotary_emb  # its table of angles is no parameter, and was made on the meta device
    theirs.model.rotary_emb = type(rotary)(config).to(model.embedding.weight.device)
    return theirs.eval()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written in a second by a copy of 1 GiB; the best of ten."""
    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)
    seconds = min(timed(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * source.nbytes / seconds


def limit_tokens_per_second(
    config: LlamaConfig, batch: int, prompt: int, new: int, value_bytes: int, bandwidth: float
) -> float:
    """Tokens/s if steps took only the time to read every parameter, and each sequence's keys and values, once."""
    token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim * value_bytes
    step_bytes = config.n_parameters * value_bytes + batch * (prompt + new / 2) * token_bytes
    return batch * bandwidth / step_bytes


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measured(calls: dict[str, Call], n_tokens: int, repeats: int) -> dict[str, dict[str, float]]:
    """Each program's figures; their calls alternate, so that what else the machine does meets all alike."""
    first = {program: sum(call()[-1] for _ in range(2)) for program, call in calls.items()}  # compiled, then recorded
    rounds = [{program: call() for program, call in calls.items()} for _ in range(repeats)]
    figures: dict[str, dict[str, float]] = {}
    for program in calls:
        times = [one_round[program] for one_round in rounds]
        figures[program] = {"tokens_per_second": round(n_tokens / statistics.median(call[-1] for call in times), 1)}
        if len(times[0]) > 2:
            steps = statistics.median((call[-1] - call[0]) / (len(call) - 1) for call in times)
            figures[program]["step_us"] = round(steps * 1e6, 1)
            figures[program]["first_token_ms"] = round(statistics.median(call[0] for call in times) * 1e3, 2)
        figures[program]["first_two_calls_seconds"] = round(first[program], 2)
    return figures


def our_call(model: Llama, prompts: list[list[int]], new: int, **choice: float) -> Call:
    """A call of ours: when each step's tokens were on the host."""
    decoder, config = Decoder(model), GenerateConfig.model_validate({"max_new_tokens": new, **choice})

    def call() -> list[float]:
        started = time.perf_counter()
        stamps = [time.perf_counter() - started for _ in decoder.new_tokens(prompts, config)]
        assert len(stamps) == new
        return stamps

    return call


def their_call(theirs: Any, prompts: list[list[int]], new: int) -> Call:
    """A call of `generate`, greedy; on a GPU with a static cache, for which Transformers compiles its step."""
    ids = torch.tensor(prompts, device=theirs.device)
    settings = {"cache_implementation": "static"} if theirs.device.type == "cuda" else {}

    @torch.inference_mode()
    def generate() -> None:
        found = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new,
            pad_token_id=0, **settings,
        )  # fmt: skip
        assert found.shape == (len(prompts), len(prompts[0]) + new)

    return lambda: [timed(generate, theirs.device)]


if __name__ == "__main__":
    main()
