"""Which recipe trains a small Llama with the fewest tokens? Tuned equally, then compared over seeds.

    python benchmarks/recipe_search.py RUN --results results.jsonl tune            # AdamW and Muon, the same trials
    python benchmarks/recipe_search.py RUN --results results.jsonl seeds fractions # at the best settings found
    python benchmarks/recipe_search.py RUN --results results.jsonl large ablate    # 125M parameters; one thing changed
    python benchmarks/recipe_search.py RUN --results results.jsonl report          # tables and a picture

RUN holds `shards/`. The network is the product's (`tinyllama.model`), its windows are the product's; the loop is this
file's and has no checkpoints. Each finished run is one line of the results file, and a run that has a line is not made
again, so that a call which was cut off goes on where it stopped. `--seconds` begins no run that would end later. One
process compiles a network once and gives it new weights for each run. What is tried stands in `SIDES` and `TRIALS`.
"""

import argparse
import json
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from recipe_parts import TUNING_SEED, Averages, Setting, Updates, changes, initialise, lr_share, refresh, report
from torch import Tensor

from tinyllama.model.attention import fastest_first
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig, preset
from tinyllama.model.loss import IGNORED, next_token_loss
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.seeds import derive_seed
from tinyllama.shards.batches import Batches, MicroBatch, TokenShards, prefetch

SEQ_LEN = 1024
NETWORKS: dict[str, LlamaConfig] = {
    "60m": preset("small-120m", dim=512, n_layers=9, n_heads=8, n_kv_heads=4, ffn_dim=1408),  # 59.3M parameters
    "120m": preset("small-120m"),  # 124.7M
    "350m": preset("small-120m", dim=1024, n_layers=22, n_heads=16, n_kv_heads=4, ffn_dim=2816),  # 313M
    "tiny": preset("small-120m", dim=32, n_layers=2, n_heads=2, n_kv_heads=1, ffn_dim=64, seq_len=64),
}
MICRO_BATCH = {"60m": 64, "120m": 64, "350m": 32, "tiny": 2}  # sequences, at most
AVERAGED_SHARES = (0.05,)
MEASURED_SHARES = (0.25, 0.5, 0.75)
MEASURED_ROWS = 128  # held-out windows measured on the way; all of them at the end
ACCEPTED = 0.003  # nats by which a trial must be better than the best so far

PUBLISHED = Setting(lr=4e-4, schedule="cosine", weight_decay=0.1)
SIDES: dict[str, Setting] = {
    "adamw": Setting(optimizer="adamw", schedule="linear", weight_decay=0.3),
    "muon": Setting(optimizer="muon", schedule="linear", weight_decay=0.3),
}
RATES = (2e-3, 4e-3, 8e-3, 1e-3)
# Changes tried one after another at each side's best so far, kept when better; as many for both sides.
TRIALS: dict[str, list[dict[str, Any]]] = {
    "both": [
        {"tokens_per_step": 32_768, "lr": 0.7},  # lr and weight_decay: times the best so far's
        *({key: factor} for key, factor in (("weight_decay", 1 / 3), ("weight_decay", 3.0), ("lr", 1.4), ("lr", 0.7))),
        {"init": "zero_out"},
        {"embedding_lr": 3.0},
        {"head_std": 0.0},
    ],
    "adamw": [{"beta2": 0.98}, {"warmup_share": 0.03}, {"embedding_std": 0.1}],
    "muon": [{"normuon": True}, {"cautious": True}, {"embedding_std": 0.1}],
    "both, again": [  # because the first pass ended at the edge of what it had tried
        {"tokens_per_step": 16_384, "lr": 0.7},
        {"warmup_share": 0.2},
        {"weight_decay": 3.0},
        {"embedding_lr": 9.0},
        {"lr": 1.4},
    ],
}
DIVISORS = (1.6, 2.0, 1.4, 2.5, 3.2)  # of the tokens: how many does ours need for the baseline's loss?
LARGE_RATES = (0.7,)  # times the small network's best
STAGES = ("try", "tune", "seeds", "fractions", "published", "ablate", "large", "report")


class Results:
    """Finished runs, one line each; read again at the start."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self._end = path, time.monotonic() + seconds
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            self.rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        known = {field.name for field in fields(Setting)}
        self._by_setting = {Setting(**{k: row[k] for k in known if k in row}): row for row in self.rows}
        self._bench: Bench | None = None

    def of(self, run: Path, setting: Setting) -> dict[str, Any]:
        """The line of this setting: made now unless it is there. Raises TimeoutError when no time is left for it."""
        if setting in self._by_setting:
            return self._by_setting[setting]
        if self._bench is None or self._bench.name != setting.network:
            self._bench = None
            self._bench = Bench(run, setting.network)
        if time.monotonic() + self._bench.expected_seconds(setting) > self._end:
            raise TimeoutError
        row = asdict(setting) | self._bench.train(setting)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        self._by_setting[setting] = row
        averaged = min(row["averaged"].values(), default=math.nan)
        print(f"{row['held_out']:.4f} averaged {averaged:.4f} {row['seconds']:.1f} s {changes(row)}", flush=True)
        return row


class Bench:
    """One network, compiled, and the data; each run begins with new weights."""

    def __init__(self, run: Path, name: str) -> None:
        self.name = name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = self.device.type == "cuda"
        self.device_name = torch.cuda.get_device_name() if on_gpu else "CPU"
        torch.backends.fp32_precision = "tf32"
        config = NETWORKS[name]
        self.seq_len = config.seq_len
        with torch.device(self.device):
            self.model = Llama(config)
            self.network = PackedLlama(self.model, *([torch.bfloat16] * 2 if on_gpu else [None, None]))
        if on_gpu:
            torch._dynamo.reset()
            self.network.compile()
        self.head = self.network.packed.index(self.network.output)
        self.shards = TokenShards(run / "shards" / "train")
        self.held_out = _held_out(TokenShards(run / "shards" / "validation"), self.seq_len, self.device)
        self.tokens_per_second = 6e13 / config.n_matmul_parameters if on_gpu else 1e3
        self._known_shapes: set[int] = set()

    def expected_seconds(self, setting: Setting) -> float:
        """From the speed of the last run; compiling is counted for a new shape."""
        compiling = 0 if self._micro_batch(setting) in self._known_shapes else 12
        return setting.tokens / self.tokens_per_second + compiling + 3

    def _micro_batch(self, setting: Setting) -> int:
        return min(MICRO_BATCH[self.name], setting.tokens_per_step // self.seq_len)

    def train(self, setting: Setting) -> dict[str, Any]:
        """One run: its losses and times. Seconds are of the updates alone, without compiling and measuring."""
        initialise(self.model, setting)
        self.network.refresh()
        micro_batch = self._micro_batch(setting)
        if micro_batch not in self._known_shapes:
            self._warm_up(micro_batch)
        updates = Updates(self.network, setting)
        averages = Averages(self.network, setting.steps, AVERAGED_SHARES)
        losses, norms, measured, seconds = [], [], {}, 0.0
        marks = {max(1, round(share * setting.steps)) for share in MEASURED_SHARES}
        started = self._now()
        for step, (loss, gradients) in enumerate(self._gradients(setting, micro_batch), 1):
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # pyright: ignore[reportPrivateImportUsage]
            factor = (setting.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
            updates.step(gradients, setting.lr * lr_share(setting, step))
            averages.update(step)
            losses.append(loss)
            norms.append(norm)
            if step in marks:
                seconds += self._now() - started
                measured[step * setting.tokens_per_step] = self.measure(micro_batch, MEASURED_ROWS)
                started = self._now()
        seconds += self._now() - started
        self.tokens_per_second = setting.tokens / seconds
        row = {"steps": setting.steps, "held_out": self.measure(micro_batch), "on_the_way": measured, "averaged": {}}
        for share, values in averages.values.items():
            torch._foreach_copy_([parameter.master for parameter in self.network.packed], values)  # pyright: ignore[reportPrivateImportUsage]
            refresh(self.network)
            row["averaged"][str(share)] = self.measure(micro_batch)
        every = max(1, setting.steps // 60)
        row["losses"] = [round(value, 4) for value in torch.stack(losses)[::every].tolist()]
        row["largest_norm"] = round(float(torch.stack(norms).max()), 2)
        return row | {"seconds": round(seconds, 2), "device": self.device_name, "torch": torch.__version__}

    def _gradients(self, setting: Setting, micro_batch: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Of each update: mean loss, and its gradient by packed parameter in fp32."""
        rows = setting.tokens_per_step // self.seq_len
        batches = Batches(self.shards, self.seq_len, rows, derive_seed(setting.seed, "window order"))
        starts = range(0, rows, micro_batch)
        slices = [(step, start, micro_batch) for step in range(setting.steps) for start in starts]
        sums: list[Tensor] = []
        total = torch.zeros((), device=self.device)
        source = prefetch(batches, slices, self._to_device, ready=8)
        for number, (tokens, targets) in enumerate(source, 1):
            loss, gradients = self._loss_and_gradients(tokens, targets)
            total = total + loss
            if sums:
                torch._foreach_add_(sums, gradients)  # pyright: ignore[reportPrivateImportUsage]
            else:
                sums = gradients
            if number % len(starts) == 0:
                torch._foreach_mul_(sums, 1 / setting.tokens_per_step)  # pyright: ignore[reportPrivateImportUsage]
                yield total / setting.tokens_per_step, sums
                sums, total = [], torch.zeros((), device=self.device)

    def _loss_and_gradients(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        with fastest_first():
            hidden = self.network.hidden(tokens)
            weight = self.network.output_weight.detach()
            sums, hidden_gradient, head_gradient = loss_and_gradients(hidden.detach(), weight, targets)
            hidden.backward(hidden_gradient)
        gradients = []
        for number, parameter in enumerate(self.network.packed):
            made, parameter.leaf.grad = parameter.leaf.grad, None
            if number == self.head:  # untied: the loss makes all of it
                made = head_gradient
            assert made is not None
            gradients.append(made.float())
        return sums.loss, gradients

    def _to_device(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        tensors = [torch.from_numpy(array) for array in batch[:2]]
        if self.device.type == "cuda":
            tensors = [tensor.pin_memory() for tensor in tensors]
        inputs, targets = (tensor.to(self.device, non_blocking=True) for tensor in tensors)
        return inputs, targets

    def _warm_up(self, micro_batch: int) -> None:
        started = self._now()
        tokens = torch.ones(micro_batch, self.seq_len, dtype=torch.int64, device=self.device)
        for _ in range(2):
            self._loss_and_gradients(tokens, tokens)
        self._known_shapes.add(micro_batch)
        print(f"{self.name}: first step of {micro_batch} sequences {self._now() - started:.1f} s", flush=True)

    @torch.no_grad()
    def measure(self, micro_batch: int, rows: int | None = None) -> float:
        """Held-out loss, nats a token, of the first `rows` windows or all."""
        total, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        inputs, targets = self.held_out
        rows = min(rows or len(inputs), len(inputs))
        for start in range(0, rows, micro_batch):
            tokens = torch.ones(micro_batch, self.seq_len, dtype=torch.int64, device=self.device)
            wanted = torch.full_like(tokens, IGNORED)
            stop = min(start + micro_batch, rows)
            tokens[: stop - start], wanted[: stop - start] = inputs[start:stop], targets[start:stop]
            with torch.enable_grad():  # as in training: what was compiled for it serves here too
                hidden = self.network.hidden(tokens).detach()
            sums = next_token_loss(hidden, self.network.output_weight.detach(), wanted, chunk_tokens=16_384)
            total, count = total + sums.loss, count + sums.count
        return float(total / count)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _held_out(shards: TokenShards, seq_len: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all whole windows, seq_len tokens apart; in the order of a fixed shuffle."""
    ids = torch.from_numpy(shards.tokens(0, shards.n_tokens).astype("int64"))
    windows = ids.unfold(0, seq_len + 1, seq_len)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(1))].to(device)
    if seq_len < SEQ_LEN:  # of a dry run
        windows = windows[:4]
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


# -- what is run ---------------------------------------------------------------------------------------------------------


def search(side: str, quick: dict[str, Any]) -> Generator[Setting, float, Setting]:
    """One side's trials; takes each one's loss and returns the best setting."""
    base = replace(SIDES[side], seed=TUNING_SEED, **quick)
    best, best_loss = base, math.inf
    for candidate in (replace(base, lr=rate) for rate in RATES):
        loss = yield candidate
        if loss < best_loss:
            best, best_loss = candidate, loss
    for change in TRIALS["both"] + TRIALS[side] + TRIALS["both, again"]:
        values = dict(change)
        for key in values.keys() & {"lr", "weight_decay"}:
            values[key] = getattr(best, key) * values[key]
        candidate = replace(best, **values)
        loss = yield candidate
        if loss < best_loss - ACCEPTED:
            best, best_loss = candidate, loss
    return best


def tuned(run: Path, results: Results, quick: dict[str, Any]) -> dict[str, Setting]:
    """Both sides' best settings; the sides take turns, so that a call that is cut off leaves them equal."""
    searches = {side: search(side, quick) for side in SIDES}
    asked = {side: next(trials) for side, trials in searches.items()}
    best: dict[str, Setting] = {}
    while len(best) < len(SIDES):
        for side, trials in searches.items():
            if side in best:
                continue
            try:
                asked[side] = trials.send(results.of(run, asked[side])["held_out"])
            except StopIteration as end:
                best[side] = end.value
    return best


def stage_settings(stage: str, best: dict[str, Setting], options: argparse.Namespace) -> Iterator[Setting]:
    """The runs of a stage, the most wanted ones first."""
    adamw, muon = best["adamw"], best["muon"]
    seeds = range(TUNING_SEED + 1, TUNING_SEED + 1 + options.seeds)  # none that the tuning saw
    same = {"network": adamw.network, "tokens": adamw.tokens, "tokens_per_step": adamw.tokens_per_step}
    if stage == "seeds":
        yield from (replace(setting, seed=seed) for seed in seeds for setting in (adamw, muon))
    elif stage == "fractions":
        for divisor in DIVISORS:
            for seed in seeds[: options.fraction_seeds]:
                yield replace(muon, tokens=int(muon.tokens / divisor), seed=seed)
    elif stage == "published":
        for seed in seeds[: options.fraction_seeds]:
            yield from (replace(PUBLISHED, **same, lr=rate, seed=seed) for rate in (PUBLISHED.lr, 1e-3))
    elif stage == "ablate":
        yield from ablations(best)


def large(run: Path, results: Results, best: dict[str, Setting], options: argparse.Namespace) -> None:
    """The larger network on one pass of the data: the same rates for both sides, then a fraction and further seeds."""
    seeds = range(TUNING_SEED + 1, TUNING_SEED + 1 + options.seeds)
    at: dict[str, dict[float, Setting]] = {side: {} for side in SIDES}
    for rate in LARGE_RATES:
        for side, small in best.items():
            step = small.tokens_per_step * options.large_batch_factor
            sizes = {"network": options.large, "tokens": options.large_tokens, "tokens_per_step": step}
            at[side][rate] = replace(small, **sizes, lr=small.lr * rate, seed=seeds[0])
            results.of(run, at[side][rate])
    chosen = {side: min(rows.values(), key=lambda s: results.of(run, s)["held_out"]) for side, rows in at.items()}
    for seed in seeds:
        for side in SIDES:
            results.of(run, replace(chosen[side], seed=seed))
        results.of(run, replace(chosen["muon"], tokens=int(options.large_tokens / DIVISORS[0]), seed=seed))


def tries(network: str) -> Iterator[Setting]:
    """Short runs that use every part once, to see that they work on a device and how fast they are."""
    for tokens_per_step in (65_536, 32_768):
        for optimizer in ("adamw", "muon"):
            sizes = {"network": network, "tokens": 24 * 65_536, "tokens_per_step": tokens_per_step}
            yield Setting(**sizes, optimizer=optimizer, lr=2e-3, schedule="linear", normuon=True, cautious=True)


def ablations(best: dict[str, Setting]) -> Iterator[Setting]:
    """One thing changed at a time, at the tuning's seed."""
    base = asdict(Setting())
    kept = ("network", "tokens", "optimizer", "lr", "weight_decay", "schedule", "seed")
    for side, setting in reversed(best.items()):
        yield replace(setting, schedule="cosine")
        yield replace(setting, schedule="wsd")
        yield replace(setting, schedule="wsd", cooldown_share=0.75)
        for key, value in asdict(setting).items():
            if key not in kept and value != base[key]:
                yield replace(setting, **{key: base[key]})
        if side == "muon":
            yield replace(setting, orthogonal="polar_express")
            yield replace(setting, momentum=0.9)
            yield replace(setting, init="depth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no run that would end later")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--network", choices=list(NETWORKS), default="60m", help="of `try`")
    parser.add_argument("--large", choices=list(NETWORKS), default="120m")
    parser.add_argument("--large-tokens", type=int, default=48_000_000)
    parser.add_argument("--large-batch-factor", type=int, default=2, help="of the small network's tokens a step")
    parser.add_argument("--fraction-seeds", type=int, default=2, help="of `fractions` and `published`")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and few updates, to try the script")
    options = parser.parse_args()
    quick: dict[str, Any] = {}
    if options.dry_run:
        quick = {"network": "tiny", "tokens": 1024, "tokens_per_step": 256}
        TRIALS["both"][0] = {"tokens_per_step": 128, "lr": 0.7}
        TRIALS["both, again"][0] = {"tokens_per_step": 64, "lr": 0.7}
        options.large, options.large_tokens = "tiny", 2048
    results = Results(options.results, options.seconds)
    try:
        for stage in options.stages:
            if stage == "report":
                report(results.rows, options.results.parent)
                continue
            if stage == "try":
                for setting in tries(options.network):
                    results.of(options.run, setting)
                continue
            best = tuned(options.run, results, quick)
            print(f"{stage}: best { ({side: asdict(setting) for side, setting in best.items()}) }", flush=True)
            if stage == "large":
                large(options.run, results, best, options)
            for setting in stage_settings(stage, best, options):
                results.of(options.run, setting)
    except TimeoutError:
        print("time is up: the same command goes on from here", flush=True)


if __name__ == "__main__":
    main()
