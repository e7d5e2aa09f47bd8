"""An update on a CPU, ours beside plain PyTorch's, in turns in one process.

    python benchmarks/train_cpu.py                               # the quickstart's network and step
    python benchmarks/train_cpu.py --preset small-120m --seq-len 256 --micro-batch-size 2 --rounds 5

Plain: the network as it is written (model/llama.py), cross entropy over whole logits by autograd, PyTorch's fused AdamW,
clipping. Ours: `train_step`. Same weights, same tokens, fp32. Medians of the rounds, and of the ratio round by round.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from tinyllama.bench.training_speed import random_batches
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig, preset
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import DeviceBatch, train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny-2m")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    config = preset(options.preset, seq_len=options.seq_len)
    tokens = options.micro_batch_size * options.seq_len
    train = TrainConfig(
        steps=1, tokens_per_step=tokens, micro_batch_size=options.micro_batch_size, seq_len=options.seq_len,
        precision="fp32",
    )  # fmt: skip
    batches = random_batches(config.vocab_size, train, torch.device("cpu"))
    updates = {"plain": plain_update(config, train, batches[0]), "ours": our_update(config, train, batches)}
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    losses: dict[str, float] = {}
    for number in range(options.rounds + 2):
        for name, update in updates.items():
            started = time.perf_counter()
            losses[name] = update()
            if number >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - started)
    ratios = [plain / ours for plain, ours in zip(seconds["plain"], seconds["ours"], strict=True)]
    print(json.dumps({
        "preset": options.preset, "threads": torch.get_num_threads(), "torch": torch.__version__,
        **{f"{name}_ms": round(statistics.median(times) * 1000, 1) for name, times in seconds.items()},
        "speed_of_ours_over_plain": round(statistics.median(ratios), 3), "losses": losses,
    }))  # fmt: skip


def plain_update(config: LlamaConfig, train: TrainConfig, batch: DeviceBatch) -> Callable[[], float]:
    model = Llama(config)
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def update() -> float:
        loss = F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return update


def our_update(config: LlamaConfig, train: TrainConfig, batches: list[DeviceBatch]) -> Callable[[], float]:
    state = TrainState(config, train, torch.device("cpu"))
    state.model.init_weights(0)
    state.network.refresh()
    return lambda: train_step(state, batches, train, step=0, lr=1e-4).loss.item()


if __name__ == "__main__":
    main()
