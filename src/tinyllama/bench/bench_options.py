"""Options of `bench` and their defaults. Does not import torch, because `--help` reads it."""

import difflib
from dataclasses import dataclass
from typing import Literal

from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import PRESETS, LlamaConfig
from tinyllama.train.train_config import TrainConfig, check_fp8_widths

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
Recompute = Literal["none", "selective", "full"]
Device = Literal["auto", "cpu", "cuda"]
Compile = Literal["auto", "on", "off"]

WARM_UP_STEPS = 4  # the first step compiles
SEED = 1


@dataclass(frozen=True)
class BenchOptions:
    """The command's options; None: the default for the device and the preset."""

    preset: str | None = None
    precision: Precision | None = None
    micro_batch_size: int | None = None
    accumulate: int = 1  # micro-batches per step
    seq_len: int | None = None
    steps: int = 10  # timed steps
    recompute: Recompute = "none"
    device: Device = "auto"
    compile: Compile = "auto"
    decode: bool = True
    profile: bool = True
    memory_limit_gb: float | None = None  # 1e9 bytes each


@dataclass(frozen=True)
class Workload:
    """The options with all defaults filled in."""

    preset: str
    model: LlamaConfig
    train: TrainConfig
    timed_steps: int


def resolve(options: BenchOptions, device_type: str) -> Workload:
    """Fill in the defaults for `cpu` or `cuda`. Raises RecipeError for an unknown preset and an impossible limit."""
    on_gpu = device_type == "cuda"
    name = options.preset or ("tinyllama-1.1b" if on_gpu else "tiny-2m")
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        raise RecipeError(f"preset: unknown {name!r}; {meant}known: {', '.join(PRESETS)}")
    if options.memory_limit_gb is not None and not on_gpu:
        raise RecipeError(f"memory_limit_gb: {options.memory_limit_gb:g} limits a GPU; remove it on a CPU")
    model = PRESETS[name]
    micro_batch_size = options.micro_batch_size or (16 if on_gpu and name == "tinyllama-1.1b" else 8)
    seq_len = options.seq_len or model.seq_len
    train = TrainConfig(
        steps=WARM_UP_STEPS + options.steps,
        micro_batch_size=micro_batch_size,
        tokens_per_step=options.accumulate * micro_batch_size * seq_len,
        seq_len=seq_len,
        precision=options.precision or ("bf16" if on_gpu else "fp32"),
        recompute=options.recompute,
        device=options.device,
        compile=options.compile,
        seed=SEED,
    )
    if train.precision == "fp8":
        try:
            check_fp8_widths(model, micro_batch_size * seq_len)
        except ValueError as error:
            raise RecipeError(str(error)) from None
    return Workload(name, model, train, options.steps)
