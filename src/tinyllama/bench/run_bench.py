"""Runs `tinyllama bench`: training, decoding and the limits of the device, in this order."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tinyllama import log
from tinyllama.bench.bench_options import SEED, BenchOptions, Workload, resolve
from tinyllama.bench.ceilings import attempt, measure_ceilings
from tinyllama.bench.decode_speed import decode_speed
from tinyllama.bench.training_speed import measure_training
from tinyllama.devices import find_gpu
from tinyllama.errors import RecipeError
from tinyllama.train.metrics import model_flops_utilization, peak_flops
from tinyllama.train.precision import FORMATS, choose_device

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def run_bench(options: BenchOptions) -> dict[str, Any]:
    """The object that `bench --json` prints.

    Raises RecipeError for options that do not exist or that the device does not support, and when training does not fit the
    memory. Any other measurement that fails is None, with a warning.
    """
    device = choose_device(options.device)
    work = resolve(options, device.type)
    log.info(f"bench: {work.preset}, {work.model.n_parameters:,} parameters, on {device_name(device)}")
    with memory_limit(options.memory_limit_gb, device):
        with out_of_memory_in_words(work, options.memory_limit_gb):
            training = measure_training(work, device, options.profile)
        free_memory(device)
        decode = attempt("decoding", lambda: _decode(work, device)) if options.decode else None
        free_memory(device)
    log.info("bench: measuring the device with a copy and large matmuls")
    precision = work.train.precision
    ceilings = measure_ceilings(device, FORMATS[precision].compute or torch.float32, precision == "fp8")
    flops = work.model.flops_per_token("causal", work.train.seq_len) * training["tokens_per_second"]
    return {
        **_setting(work, device),
        **training,
        **_utilization(work, device, training["tokens_per_second"]),
        "ceilings": ceilings,
        "shares": shares(flops, ceilings),
        "decode": decode,
    }


def _decode(work: Workload, device: torch.device) -> dict[str, Any]:
    log.info("bench: decoding one sequence")
    return decode_speed(work.model, device, SEED)


def _setting(work: Workload, device: torch.device) -> dict[str, Any]:
    train = work.train
    return {
        "preset": work.preset,
        "parameters": work.model.n_parameters,
        "precision": train.precision,
        "micro_batch_size": train.micro_batch_size,
        "micro_batches_per_step": train.micro_batches_per_step,
        "seq_len": train.seq_len,
        "recompute": train.recompute,
        "steps": work.timed_steps,
        "device": device_name(device),
        "torch": torch.__version__,
        "triton": triton_version(),
    }


def _utilization(work: Workload, device: torch.device, tokens_per_second: float) -> dict[str, Any]:
    peak = peak_flops(device, work.train.precision)
    is_known = device.type == "cuda" and find_gpu(torch.cuda.get_device_name(device)) is not None
    return {
        **model_flops_utilization(work.model, work.train.seq_len, tokens_per_second, peak),
        "peak_flops": peak,
        "peak_flops_source": "data sheet" if is_known else "measured",
    }


def shares(flops: float, ceilings: dict[str, float | None]) -> dict[str, float | None]:
    """Model FLOPs per second over each measured matmul rate: `of_product_burst` and so on."""
    return {
        f"of_{name.replace('_flops', '')}": None if rate is None else flops / rate
        for name, rate in ceilings.items()
        if "_flops" in name
    }


def device_name(device: torch.device) -> str:
    """The GPU's name; for a CPU the number of threads in use."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def triton_version() -> str | None:
    """None where there is no Triton."""
    try:
        import triton  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return triton.__version__


def free_memory(device: torch.device) -> None:
    """Free unused memory, reference cycles included, before the next measurement."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# -- memory ------------------------------------------------------------------------------------------------------------


@contextmanager
def memory_limit(limit_gb: float | None, device: torch.device) -> Iterator[None]:
    """Limit PyTorch's allocator to this many 1e9 bytes of the GPU."""
    if limit_gb is None:
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if not 0 < limit_gb * 1e9 <= total:
        raise RecipeError(f"memory_limit_gb: {limit_gb:g} is not above 0 and at most the GPU's {total / 1e9:.1f}")
    torch.cuda.set_per_process_memory_fraction(limit_gb * 1e9 / total)  # of the current device
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def out_of_memory_in_words(work: Workload, limit_gb: float | None) -> Iterator[None]:
    """Turn any out-of-memory error into a RecipeError that says what would need less."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = ["a smaller --micro-batch-size (more --accumulate)"] if work.train.micro_batch_size > 1 else []
        advice += {"none": ["--recompute selective or full"], "selective": ["--recompute full"], "full": []}[
            work.train.recompute
        ]
        advice += ["a shorter --seq-len or a smaller --preset"] if len(advice) < 2 else []
        limit = "" if limit_gb is None else f" of {limit_gb:g} GB"
        raise RecipeError(
            f"micro_batch_size: {work.train.micro_batch_size} sequences of {work.train.seq_len:,} tokens with recompute "
            f"'{work.train.recompute}' do not fit in memory{limit}; {', or '.join(advice)} would need less"
        ) from None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this error or its cause is out of memory; a compiler or a library may have wrapped it."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
