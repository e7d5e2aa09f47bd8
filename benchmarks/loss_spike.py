"""A poisoned stretch of data, with the loss-spike guard and without it; and how often the guard fires on clean runs.

    python benchmarks/loss_spike.py RUN --out DIR                 # RUN/shards and RUN/tokenizer, of any run
    python benchmarks/loss_spike.py RUN --out DIR --false-alarms  # clean runs, every threshold from their losses
    python benchmarks/loss_spike.py RUN --out DIR --plot          # only draw and tabulate what is there

The training windows that some steps read are overwritten with random ids, in a copy of the shards with its sha256 made
anew: what a crawler's binary garbage would be. Then the product's own `pretrain` trains on it: without the guard, with it,
and on the clean shards with two seeds, whose difference is the noise. Matplotlib draws the curves where it is installed.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tinyllama import files
from tinyllama.model.llama_config import preset
from tinyllama.seeds import derive_seed
from tinyllama.shards.batches import Batches, TokenShards
from tinyllama.shards.shard_format import HEADER_BYTES, INDEX_FILE
from tinyllama.train.loss_spikes import SpikeGuard
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.trainer import pretrain

NETWORK: dict[str, Any] = {"dim": 96, "n_layers": 3, "ffn_dim": 192, "seq_len": 128}
TRAIN: dict[str, Any] = {
    "steps": 400, "tokens_per_step": 2048, "micro_batch_size": 16, "seq_len": 128, "precision": "fp32", "device": "cpu",
    "peak_lr": 4e-3, "min_lr": 4e-4, "warmup_steps": 40, "max_grad_norm": 0.0, "save_every_steps": 50,
    "validate_every_steps": 400, "validation_tokens": 100_000,
}  # fmt: skip
POISONED_STEPS = range(250, 274)
RUNS: dict[str, dict[str, Any]] = {  # what differs from TRAIN; `poisoned`: by random ids
    "clean": {},
    "clean, other seed": {"seed": 43},
    "poisoned, guard off": {"poisoned": True, "spike_guard": "off"},
    "poisoned, guard on": {"poisoned": True},
}
# Clean runs to raise false alarms: steep beginnings, no warm-up, high rates, from 128 to 2,048 tokens an update.
FALSE_ALARM_NETWORK: dict[str, Any] = {"dim": 48, "n_layers": 2, "ffn_dim": 96, "seq_len": 64}
FALSE_ALARM_RUNS = [
    {"seed": seed, "tokens_per_step": tokens, "peak_lr": lr, "min_lr": lr / 10, "warmup_steps": warmup}
    for seed in (1, 2)
    for lr, tokens, warmup in ((4e-3, 512, 40), (2e-2, 512, 40), (4e-3, 128, 0), (2e-2, 2048, 5))
]
THRESHOLDS, STEPS_IN_A_ROW = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0), (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--false-alarms", action="store_true")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    if options.false_alarms:
        for values in [] if options.plot else FALSE_ALARM_RUNS:
            name = "_".join(f"{value:g}" for value in values.values())
            common = {"steps": 1000, "seq_len": 64, "micro_batch_size": values["tokens_per_step"] // 64}
            common |= {"save_every_steps": 1000, "validate_every_steps": 1000, "spike_guard": "off"}
            train_once(options, f"clean_{name}", TRAIN | common | {"max_grad_norm": 1.0} | values, FALSE_ALARM_NETWORK)
        false_alarms(sorted(options.out.glob("clean_*/metrics.jsonl")))
        return
    for name in [] if options.plot else options.only:
        train_once(options, name.replace(", ", "_").replace(" ", "_"), TRAIN | RUNS[name], NETWORK)
    draw(options.out)


def train_once(options: argparse.Namespace, name: str, values: dict[str, Any], network: dict[str, Any]) -> None:
    """One run in a folder of its own, with the shards of options.run or a poisoned copy of them."""
    train = TrainConfig(**{key: value for key, value in values.items() if key != "poisoned"})
    folder = options.out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("shards", "tokenizer"):
        (folder / part).symlink_to((options.run / part).resolve())
    if values.get("poisoned"):
        (folder / "shards").unlink()
        shutil.copytree(options.run / "shards", folder / "shards")
        poison(folder / "shards" / "train", train, POISONED_STEPS)
    vocab_size = TokenShards(folder / "shards" / "train").index.vocab_size
    started = time.perf_counter()
    summary = pretrain(preset("tiny-2m", vocab_size=vocab_size, **network), train, folder)
    print(json.dumps({"run": name, "validation": summary["validation"]["loss"], "loss": summary["loss"],
                      "seconds": round(time.perf_counter() - started, 1)}), flush=True)  # fmt: skip


def poison(split: Path, train: TrainConfig, steps: Iterable[int]) -> list[int]:
    """Overwrite the windows that these steps (from 1) read with random ids; returns the windows."""
    seed = derive_seed(train.seed, "window order")
    batches = Batches(TokenShards(split), train.seq_len, train.tokens_per_step // train.seq_len, seed)
    index, random = files.read_json(split / INDEX_FILE), np.random.default_rng(0)
    windows = [w for step in steps for w in batches.windows(step - 1, 0, batches.sequences_per_step)]
    starts = np.cumsum([0, *(shard["tokens"] for shard in index["shards"])])
    ids = [
        np.memmap(split / f"{shard['name']}.bin", np.dtype(index["dtype"]), "r+", HEADER_BYTES)
        for shard in index["shards"]
    ]
    for window in windows:
        places = np.arange(window * (train.seq_len + 1), (window + 1) * (train.seq_len + 1))
        garbage = random.integers(3, index["vocab_size"], len(places))
        for number, part in enumerate(ids):
            here = (places >= starts[number]) & (places < starts[number + 1])
            part[places[here] - starts[number]] = garbage[here]
    for shard, part in zip(index["shards"], ids, strict=True):
        part.flush()
        shard["sha256"] = files.sha256_file(split / f"{shard['name']}.bin")
    files.write_json(split / INDEX_FILE, index)
    return windows


def false_alarms(paths: list[Path]) -> None:
    """Spikes that each threshold would see in recorded losses, and in gradient norms by the same rule."""
    for column in ("loss", "grad_norm"):
        series = [[(row["step"], row[column]) for row in files.read_jsonl(path)] for path in paths]
        print(f"{column}: {sum(map(len, series)):,} steps of {len(series)} clean runs")
        for in_a_row in STEPS_IN_A_ROW:
            counts = {}
            for threshold in THRESHOLDS:
                train = TrainConfig(spike_threshold=threshold, spike_steps_in_a_row=in_a_row)
                guards = [(SpikeGuard(train), rows) for rows in series]
                counts[threshold] = sum(guard.see(*row) is not None for guard, rows in guards for row in rows)
            print(f"  {in_a_row} in a row: " + ", ".join(f"z > {z:g}: {n}" for z, n in counts.items()))


def draw(out: Path) -> None:
    """A table of ends, what the guard did, and the curves as a picture where matplotlib is installed."""
    folders = {name: out / name.replace(", ", "_").replace(" ", "_") for name in RUNS}
    rows = {name: files.read_jsonl(folder / "metrics.jsonl") for name, folder in folders.items()}
    held_out = {name: found[-1]["validation"]["loss"] for name, found in rows.items()}
    for name, loss in held_out.items():
        last = sum(row["loss"] for row in rows[name][-50:]) / 50
        print(f"{name:22} held-out {loss:.4f} ({loss - held_out['clean']:+.4f})  last 50 training losses {last:.4f}")
    story = files.read_jsonl(folders["poisoned, guard on"] / "events.jsonl")
    spikes = [event for event in story if event["event"] == "spike"]
    for event in story:
        if event["event"] in ("spike", "roll_back", "quarantine"):
            print(f"  {event['event']} at step {event['step']}: {event['reason']}")
    try:
        from matplotlib import pyplot
    except ImportError:
        return
    figure, axes = pyplot.subplots(figsize=(9, 4.2))
    for name, color in zip(RUNS, ("0.2", "0.65", "tab:red", "tab:blue"), strict=True):
        axes.plot(*zip(*((row["step"], row["loss"]) for row in rows[name]), strict=True), color=color, linewidth=0.8,
                  label=f"{name}: held-out {held_out[name]:.3f}")  # fmt: skip
    for number, event in enumerate(spikes):
        tail = [pair for pair in event["losses"] if pair[0] >= event["step"] - 8]
        axes.plot(*zip(*tail, strict=True), color="tab:blue", linestyle=":", linewidth=1.2,
                  label="seen, and gone back from" if not number else None)  # fmt: skip
    axes.set(xlabel="step", ylabel="training loss, nats a token", xlim=(150, 400), ylim=(3.2, 11))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "loss_spike.png", dpi=90)


if __name__ == "__main__":
    main()
