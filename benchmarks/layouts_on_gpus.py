"""Tokens/s of each layout on several GPUs of one machine beside one GPU of it, in one run, with a look into the trace.

    python -m benchmarks.layouts_on_gpus --gpus 2 [--preset tinyllama-1.1b --micro-batch-size 8 --micro-batches 16] \
        [--layouts replicate=2 shard=2 shard=2,gather=step tensor=2 pipeline=2] [--json out.json] [--traces FOLDER]

Every layout trains the same network on the same global batch: `--micro-batches` of a step, shared by the data ranks. The
share of communication that is hidden is the time of NCCL kernels in which other kernels ran, of rank 0. Peak memory stands
beside that of a dry run. Without GPUs it runs on CPUs (gloo), to be tried: --preset tiny-2m --micro-batch-size 2.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.instruments.dry_run import dry_run
from tinyllama.bench.kernel_trace import covered
from tinyllama.bench.training_speed import random_batches
from tinyllama.drill.rank_processes import free_port
from tinyllama.model.llama_config import PRESETS, preset
from tinyllama.parallel.launch import join
from tinyllama.parallel.layout import AXES, ParallelConfig
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.metrics import peak_memory_bytes
from tinyllama.train.precision import choose_device
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import train_step

WARM_UP_STEPS, PROFILED_STEPS = 2, 1


def train_config(options: argparse.Namespace) -> TrainConfig:
    seq_len = PRESETS[options.preset].seq_len
    tokens = options.micro_batches * options.micro_batch_size * seq_len
    return TrainConfig(
        seq_len=seq_len, micro_batch_size=options.micro_batch_size, tokens_per_step=tokens,
        precision=options.precision, recompute=options.recompute, compile=options.compile,
    )  # fmt: skip


def one_rank(options: argparse.Namespace) -> None:
    """Of a process of one layout: train, and let rank 0 write what it found."""
    parallel = ParallelConfig(**json.loads(options.rank_of), timeout_seconds=300)
    with join(parallel) as joined:
        ranks = joined or Ranks()
        device = choose_device("auto", None if joined is None else ranks.local_rank)
        if device.type == "cpu":
            torch.set_num_threads(1)
        ranks.connect(device)
        found = measure(options, ranks, device)
        if ranks.is_first:
            Path(options.out).write_text(json.dumps(found))
        ranks.stop_watching()


def measure(options: argparse.Namespace, ranks: Ranks, device: torch.device) -> dict[str, Any]:
    train, config = train_config(options), preset(options.preset)
    state = TrainState(config, train, device, ranks=ranks)
    state.init_weights(1)
    batches = random_batches(config.vocab_size, train, device)
    own = [batches[number] for number in train.layout(ranks.data_size).of_rank(ranks.data_rank)]
    del batches

    def step(number: int) -> float:
        return train_step(state, own, train, step=number, lr=1e-4).loss.item()

    losses = [step(number) for number in range(WARM_UP_STEPS)]
    seconds = []
    for number in range(options.steps):
        started = time.perf_counter()
        losses.append(step(WARM_UP_STEPS + number))  # reading the loss waits for the device
        seconds.append(time.perf_counter() - started)
    found: dict[str, Any] = {
        "tokens_per_second": train.tokens_per_step / sorted(seconds)[len(seconds) // 2],
        "seconds": seconds,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    return found | communication(options, ranks, device, lambda: step(WARM_UP_STEPS + options.steps))


def communication(options: argparse.Namespace, ranks: Ranks, device: torch.device, run: Any) -> dict[str, Any]:
    """Milliseconds of a step's NCCL kernels on this rank, and the share of them in which other kernels ran."""
    if device.type != "cuda":
        run()
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        for _ in range(PROFILED_STEPS):
            run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.traces or folder) / f"{ranks.parallel.words().replace(' ', '_')}.rank_{ranks.rank}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    kernels = [event for event in events if event.get("ph") == "X" and event.get("cat") == "kernel"]
    spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for event in kernels:
        begin = float(event["ts"])
        spans["nccl" in event["name"].lower()].append((begin, begin + float(event["dur"])))
    nccl, others = covered(sorted(spans[True])), covered(sorted(spans[False]))
    both = nccl + others - covered(sorted(spans[True] + spans[False]))
    return {"communication_ms": nccl / 1000 / PROFILED_STEPS, "hidden_share": both / nccl if nccl else None}


def launch(options: argparse.Namespace, words: list[str], layout: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Every rank of a layout as a process; what rank 0 found, and what a dry run counts meanwhile."""
    size, port = ParallelConfig(**layout).world_size, free_port()
    out = folder / "found.json"
    command = [sys.executable, __file__, *words, "--rank-of", json.dumps(layout), "--out", str(out)]
    processes = []
    for rank in range(size):
        variables = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
        processes.append(subprocess.Popen(command, env=os.environ | (variables if size > 1 else {})))
    dry = dry_run(preset(options.preset), train_config(options), ParallelConfig(**layout))["peak"]
    codes = [process.wait() for process in processes]
    if codes != [0] * size:
        return {"error": f"ended with {codes}"}
    return json.loads(out.read_text()) | {"dry_run_bytes": dry}


def row(name: str, found: dict[str, Any], one: dict[str, Any], gpus: int) -> str:
    if "error" in found:
        return f"| {name} | {found['error']} |"
    speed, hidden = found["tokens_per_second"], found.get("hidden_share")
    scaling = speed / one["tokens_per_second"] / gpus if gpus > 1 else 1.0
    words = [
        f"{speed:,.0f}", f"{scaling:.3f}", f"{found['peak_memory_bytes'] / 1e9:.1f}", f"{found['dry_run_bytes'] / 1e9:.1f}",
        f"{found['communication_ms']:.1f}" if "communication_ms" in found else "-",
        f"{hidden:.0%}" if hidden is not None else "-", f"{found['loss_last']:.5f}",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(words)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--layouts", nargs="+", default=[])
    parser.add_argument("--preset", default="tinyllama-1.1b", choices=list(PRESETS))
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--micro-batches", type=int, default=16)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--recompute", default="none")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--traces")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        one_rank(options)
        return
    chosen = options.layouts or [*(f"{axis}={options.gpus}" for axis in AXES), f"shard={options.gpus},gather=step"]
    layouts = [
        {
            key: int(value) if value.isdecimal() else value
            for key, value in (word.split("=") for word in text.split(","))
        }
        for text in chosen
    ]
    found: dict[str, Any] = {}
    print("| layout | tokens/s | of linear | peak GB | dry run GB | NCCL ms a step | hidden | loss |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for layout in [{}, *layouts]:
            parallel = ParallelConfig(**layout)
            name = parallel.words()
            found[name] = launch(options, sys.argv[1:], layout, Path(folder))
            print(row(name, found[name], found["one process"], parallel.world_size), flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
