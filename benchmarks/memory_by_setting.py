"""Peak memory of training by setting, each held under the cap of a card: does it fit, and what does it cost?

    python benchmarks/memory_by_setting.py                       # tinyllama-1.1b on one CUDA GPU

The allocator is capped at the card's memory less 0.6 GB for the driver's context, so a setting that does not fit on the
card fails here. Two micro-batches a step (fp32 sums of gradients are there) unless the setting says one. The first update
compiles; the figures are of the two after it. Speed is this GPU's, not the smaller card's.
"""

import argparse
import gc
import json
import time
from typing import Any, NamedTuple

import torch

from tinyllama.bench.training_speed import fill_random, random_batches
from tinyllama.model.llama_config import preset
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import train_step

CONTEXT_BYTES = 600_000_000
CARDS_MIB = {"40G": 40_960, "24G": 24_564, "16G": 16_376}  # as the drivers of A100-40G, RTX 4090 and A4000 report


class Setting(NamedTuple):
    card: str
    micro_batch_size: int
    recompute: str
    optimizer_state: str = "fp32"
    micro_batches: int = 2


SETTINGS = [
    Setting("40G", 4, "none"),
    Setting("40G", 8, "none"),
    Setting("40G", 8, "selective"),
    Setting("40G", 32, "full"),
    Setting("24G", 1, "none"),
    Setting("24G", 2, "selective"),
    Setting("24G", 4, "full"),
    Setting("16G", 1, "full"),
    Setting("16G", 1, "full", "bf16"),
    Setting("16G", 1, "full", "bf16", 1),
    Setting("16G", 4, "full", "bf16", 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tinyllama-1.1b")
    options = parser.parse_args()
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "preset": options.preset}))
    total = torch.cuda.get_device_properties(0).total_memory
    for setting in SETTINGS:
        cap = CARDS_MIB[setting.card] * 2**20 - CONTEXT_BYTES
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
        torch._dynamo.reset()  # each setting's layers are its own
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            figures = measured(options.preset, setting)
        except torch.OutOfMemoryError:
            figures = {"fits": False}
        reserved = torch.cuda.max_memory_reserved()
        print(json.dumps({**setting._asdict(), "cap_bytes": cap, **figures, "reserved_bytes": reserved}), flush=True)


def measured(name: str, setting: Setting) -> dict[str, Any]:
    model, device = preset(name), torch.device("cuda")
    values: Any = {"recompute": setting.recompute, "optimizer_state": setting.optimizer_state}
    size = setting.micro_batch_size
    train = TrainConfig(
        steps=3, micro_batch_size=size, tokens_per_step=setting.micro_batches * size * model.seq_len,
        seq_len=model.seq_len, **values,
    )  # fmt: skip
    state = TrainState(model, train, device)
    fill_random(state.model, train.seed)
    state.network.refresh()
    batches = random_batches(model.vocab_size, train, device)
    loss = seconds = 0.0
    for step in range(3):
        started = time.perf_counter()
        loss = train_step(state, batches, train, step=step, lr=1e-4).loss.item()
        seconds = time.perf_counter() - started
    return {
        "fits": True,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "tokens_per_second": round(train.tokens_per_step / seconds),
        "loss": round(loss, 4),
    }


if __name__ == "__main__":
    main()
