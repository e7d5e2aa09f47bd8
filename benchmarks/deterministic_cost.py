"""What `train.deterministic_reduction` costs on this device: tokens/s and memory beside the default, in turns.

    python benchmarks/deterministic_cost.py                                             # a small network on a CPU
    python benchmarks/deterministic_cost.py --preset tinyllama-1.1b --precision bf16 --seq-len 2048 \\
        --micro-batch-size 8 --accumulate 8 --steps 10                                  # one GPU

Each mode runs in a process of its own, because it is the whole process's, one after the other, so many rounds; random
tokens; the medians of steps, after three that warm up, and the median of the rounds' ratios. Memory is the peak of
PyTorch's allocator on a GPU, of the process on a CPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import torch

from tinyllama.bench.training_speed import fill_random, random_batches, timed_steps
from tinyllama.model.llama_config import preset
from tinyllama.train.metrics import peak_memory_bytes
from tinyllama.train.precision import choose_device, choose_threads
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import train_step

WARM_UP_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny-2m")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--micro-batch-size", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=8)
    parser.add_argument("--recompute", default="none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--lanes", default="2,8", help="of deterministic_reduction, each a mode of its own; 0: the default"
    )
    parser.add_argument("--mode", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode is not None:
        print(json.dumps(measure(options)))
        return
    modes = [0, *map(int, options.lanes.split(","))]
    rounds = [{lanes: in_a_process(lanes) for lanes in modes} for _ in range(options.rounds)]
    for lanes in modes:
        rows = [measured[lanes] for measured in rounds]
        ratios = [measured[lanes]["tokens_per_second"] / measured[0]["tokens_per_second"] for measured in rounds]
        print(json.dumps({
            "mode": f"deterministic, {lanes} lanes" if lanes else "default",
            "tokens_per_second": statistics.median(row["tokens_per_second"] for row in rows),
            "speed_over_default": round(statistics.median(ratios), 3),
            "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows),
            "loss_last": sorted({row["loss_last"] for row in rows}),  # one value: the same in every round
            "uses": rows[0]["uses"],
        }))  # fmt: skip


def in_a_process(lanes: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *sys.argv, "--mode", str(lanes)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    config = preset(options.preset, seq_len=options.seq_len)
    tokens = options.seq_len * options.micro_batch_size * options.accumulate
    train = TrainConfig(
        steps=options.steps, tokens_per_step=tokens, micro_batch_size=options.micro_batch_size, seq_len=options.seq_len,
        precision=options.precision, recompute=options.recompute, deterministic_reduction=options.mode > 0,
        reduction_lanes=options.mode or 1,
    )  # fmt: skip
    device = choose_device("auto")
    choose_threads(options.threads, device, train.deterministic_reduction)
    state = TrainState(config, train, device)
    fill_random(state.model, seed=0)
    state.network.refresh()
    batches = random_batches(config.vocab_size, train, device)

    def update(step: int) -> Any:
        return train_step(state, batches, train, step=step, lr=1e-4)

    rows = timed_steps(update, range(options.steps + WARM_UP_STEPS), device)[WARM_UP_STEPS:]  # pyright: ignore[reportArgumentType]
    return {
        "tokens_per_second": round(tokens / statistics.median(seconds for _, seconds in rows), 1),
        "peak_memory_bytes": peak_memory_bytes(device),
        "loss_last": rows[-1][0][0],
        "uses": f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}: {state.describe(train)}",
    }


if __name__ == "__main__":
    main()
