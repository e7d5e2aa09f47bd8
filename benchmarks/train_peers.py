"""How fast peers train tinyllama-1.1b's shape on one GPU: Hugging Face Transformers with Liger's and torchao's kernels.

    python benchmarks/train_peers.py                                      # every variant, one micro-batch of 16 a step
    python benchmarks/train_peers.py --variants cross_entropy float8 --accumulate 4
    python benchmarks/train_peers.py --preset tiny --device cpu           # a dry run; Liger's kernels need a GPU

| variant         | `LlamaForCausalLM` with                                                               |
|-----------------|---------------------------------------------------------------------------------------|
| `cross_entropy` | compiled layers, Liger's cross entropy on the bf16 logits of all tokens               |
| `fused_linear`  | compiled layers, Liger's fused linear cross entropy, which makes the logits in chunks |
| `float8`        | the first one, the layers' linears in torchao's float8, tensorwise; head in bf16      |
| `liger`         | Liger's RMSNorm, RoPE, SwiGLU and fused linear cross entropy, nothing compiled        |

All: 2,048 random tokens a sequence, fp32 weights under bf16 autocast, gradients clipped at norm 1, PyTorch's fused AdamW
(betas 0.9 and 0.95, weight decay 0.1). What a careful user can do for speed is done: no attention mask is made, attention
is cuDNN's kernel (the fastest on an H100), else FlashAttention; layers and the last norm are compiled one by one with
static shapes; several micro-batches' gradients are divided once an update; the fused head gets its weight in bf16 once a
micro-batch. `--residual bf16` keeps the stream between layers in bf16; autocast alone, the default, leaves it in fp32.

One JSON line a variant: the median of the timed steps by CUDA events. A variant that lacks a package, or fails, is a line
that says so, and the next one runs. Liger's cross entropy gives its loss in bf16: three digits.
"""

import argparse
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")  # its compiled kernels serve inference only
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Callable[[Tensor, Tensor], Tensor]
SHAPE = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
SHAPES = {"tinyllama-1.1b": (2048, 5632, 22, 32, 4, 32_000, 2048), "tiny": (64, 176, 10, 4, 2, 512, 128)}
ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
VARIANTS = ("cross_entropy", "fused_linear", "float8", "liger")  # in this order: Liger's layers stay put in the process
STAND_INS = "F.cross_entropy for Liger's, Transformers' layers for Liger's, float8 products emulated"


class Peer(NamedTuple):
    """A network ready to train, and its loss: (hidden (B, T, D), targets (B, T)) to mean nats a token."""

    model: Any
    loss: Loss


def main() -> None:
    options = arguments()
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64  # a silent fall back to eager would be no figure of theirs
    installed = {found.name.replace("-", "_"): found.version for found in importlib.metadata.distributions()}
    versions = {name: installed.get(name) for name in ("torch", "triton", "transformers", "liger_kernel", "torchao")}
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(json.dumps({"device": device, "python": platform.python_version(), **versions}), flush=True)
    for variant in [known for known in VARIANTS if known in options.variants]:
        line = {"program": "transformers", "variant": variant, "versions": versions}
        print(json.dumps(line | figures_or_fault(variant, options)), flush=True)
        torch._dynamo.reset()  # what was compiled holds on to the network
        gc.collect()
        torch.cuda.empty_cache()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--preset", default="tinyllama-1.1b", choices=SHAPES)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--micro-batch-size", type=int, default=16, help="sequences")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches of one update")
    parser.add_argument("--residual", default="fp32", choices=["fp32", "bf16"], help="number format between layers")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before the timed ones, the first included")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    return parser.parse_args()


def figures_or_fault(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """A variant's figures, or why there are none; its network is free to go when this returns."""
    try:
        make = {"cross_entropy": cross_entropy, "fused_linear": fused_linear, "float8": float8, "liger": liger}[variant]
        return figures(make(options), options)
    except ModuleNotFoundError as error:
        return {"skipped": f"no package {error.name}"}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


# -- the variants ------------------------------------------------------------------------------------------------------


def cross_entropy(options: argparse.Namespace) -> Peer:
    model = network(options)
    return Peer(compiled(model), logits_loss(model))


def fused_linear(options: argparse.Namespace) -> Peer:
    model = network(options)
    return Peer(compiled(model), fused_linear_loss(model))


def float8(options: argparse.Namespace) -> Peer:
    torchao, model = importlib.import_module("torchao.float8"), network(options)
    recipe = torchao.Float8LinearConfig.from_recipe_name("tensorwise")
    torchao.convert_to_float8_training(model.model.layers, config=replace(recipe, emulate=options.device == "cpu"))
    n_converted = sum(type(module).__name__ == "Float8Linear" for module in model.modules())
    assert n_converted == 7 * len(model.model.layers), f"{n_converted} linears in float8"
    return Peer(compiled(model), logits_loss(model))


def liger(options: argparse.Namespace) -> Peer:
    model = network(options)
    if options.device == "cuda":
        importlib.import_module("liger_kernel.transformers").apply_liger_kernel_to_llama(
            rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False, model=model
        )
    return Peer(model, fused_linear_loss(model))


def network(options: argparse.Namespace) -> Any:
    """Transformers' network, fp32, with random weights, in training mode."""
    values: dict[str, Any] = dict(zip(SHAPE, SHAPES[options.preset], strict=True)) | {"attn_implementation": "sdpa"}
    config = transformers.LlamaConfig(**values, tie_word_embeddings=False)
    with torch.device(options.device):
        model: Any = transformers.LlamaForCausalLM(config)
    found = sum(parameter.numel() for parameter in model.parameters())
    assert options.preset != "tinyllama-1.1b" or found == 1_100_048_384, f"{found:,} parameters"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return model.train()


def compiled(model: Any) -> Any:
    for module in (*model.model.layers, model.model.norm):
        module.compile(dynamic=False)
    return model


def logits_loss(model: Any) -> Loss:
    """Cross entropy of all tokens' logits, (B * T, V)."""
    kernel = F.cross_entropy
    if model.device.type == "cuda":
        kernel = importlib.import_module("liger_kernel.transformers").LigerCrossEntropyLoss()
    return lambda hidden, targets: kernel(model.lm_head(hidden).flatten(0, 1), targets.flatten())


def fused_linear_loss(model: Any) -> Loss:
    """Head and cross entropy in one; the head's gradient is summed in fp32."""
    if model.device.type == "cpu":
        return logits_loss(model)
    kernels = importlib.import_module("liger_kernel.transformers")
    kernel, weight = kernels.LigerFusedLinearCrossEntropyLoss(accum_dtype=torch.float32), model.lm_head.weight
    return lambda hidden, targets: kernel(weight.bfloat16(), hidden.bfloat16().flatten(0, 1), targets.flatten())


# -- the measurement ---------------------------------------------------------------------------------------------------


def figures(peer: Peer, options: argparse.Namespace) -> dict[str, Any]:
    """Train on random tokens for a few steps, and time them."""
    device, model = torch.device(options.device), peer.model
    if device.type == "cuda":  # the network is there already, and counts
        torch.cuda.reset_peak_memory_stats()
    torch._dynamo.utils.counters.clear()
    generator = torch.Generator(device).manual_seed(0)
    T, V = model.config.max_position_embeddings, model.config.vocab_size
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    losses: list[Tensor] = []

    def step() -> None:
        for _ in range(options.accumulate):
            tokens = torch.randint(0, V, (options.micro_batch_size, T + 1), device=device, generator=generator)
            with torch.autocast(device.type, torch.bfloat16):
                embedded = model.model.embed_tokens(tokens[:, :-1])
                embedded = embedded.bfloat16() if options.residual == "bf16" else embedded
                hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
                loss = peer.loss(hidden, tokens[:, 1:].contiguous())
            loss.backward()
            losses.append(loss.detach())
        update(parameters, optimizer, options.accumulate)

    with sdpa_kernel(ATTENTION, set_priority=True):
        first_seconds, times = timed(step, device, options.warm_up, options.steps)
    step_ms = statistics.median(times)
    return {
        "stand_in": STAND_INS if device.type == "cpu" else None,
        "residual": options.residual,
        "micro_batch_size": options.micro_batch_size,
        "accumulate": options.accumulate,
        "tokens_per_second": round(options.accumulate * options.micro_batch_size * T / step_ms * 1e3, 1),
        "step_ms": round(step_ms, 2),
        "step_ms_range": [round(min(times), 2), round(max(times), 2)],
        "first_step_seconds": round(first_seconds, 2),
        "compiled_graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "first_loss": round(losses[0].item(), 4),
        "loss": round(losses[-1].item(), 4),
    }


def update(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, accumulate: int) -> None:
    """Mean over the micro-batches, clip, AdamW."""
    if accumulate > 1:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.div_(accumulate)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def timed(step: Callable[[], None], device: torch.device, warm_up: int, steps: int) -> tuple[float, list[float]]:
    """Seconds of the very first step, and milliseconds of each step after the warm-up."""
    on_gpu, marks = device.type == "cuda", []  # CUDA events, or seconds
    started = time.perf_counter()
    step()
    torch.get_device_module(device).synchronize()
    first_seconds = time.perf_counter() - started
    for number in range(1, warm_up + steps + 1):
        if number >= warm_up:
            marks.append(torch.cuda.Event(enable_timing=True) if on_gpu else time.perf_counter())
            if on_gpu:
                marks[-1].record()
        if number < warm_up + steps:
            step()
    torch.get_device_module(device).synchronize()
    return first_seconds, [a.elapsed_time(b) if on_gpu else 1e3 * (b - a) for a, b in pairwise(marks)]


if __name__ == "__main__":
    main()
