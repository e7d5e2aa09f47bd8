"""What `tinyllama plan` foresees beside what training takes: peak memory and step time, setting by setting.

    python benchmarks/plan_against_measured.py --out measured.json             # one CUDA GPU, some 150 seconds
    python benchmarks/plan_against_measured.py --from measured.json            # the table again, with today's formulas
    python benchmarks/plan_against_measured.py --dry-run                       # tiny settings on a CPU: does it run?
    torchrun --nproc-per-node 2 benchmarks/plan_against_measured.py --out measured_2.json   # each axis, on two GPUs

Each setting trains on random tokens, as `tinyllama bench` does. What the former one left on the device, as weights that
compiled parts of a network refer to, is not counted, and `device` is left out then. The first steps compile and warm up; the
step time is the median of the timed ones. `peak` is PyTorch's `max_memory_allocated`, beside which the plan leaves its
allowance for context out; `device` is what the driver reports as used, beside which it counts it. Of several ranks the
largest peak and the slowest step count.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from tinyllama import files
from tinyllama.bench.kernel_trace import profile_steps
from tinyllama.bench.training_speed import fill_random, gradient_bytes, random_batches, timed_steps
from tinyllama.devices import KINDS, find_gpu
from tinyllama.model.llama_config import preset
from tinyllama.parallel.launch import join
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.ranks import Ranks
from tinyllama.planning.memory import WORKSPACE_BYTES, allocated_bytes, memory_parts
from tinyllama.planning.step_time import step_time
from tinyllama.train.optimizer import MOMENTS
from tinyllama.train.precision import choose_device
from tinyllama.train.step_clock import gc_paused
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import train_step

WARM_UP_STEPS, TIMED_STEPS = 3, 5
SECONDS = 170  # no setting is begun later


class Setting(NamedTuple):
    preset: str
    micro_batch_size: int
    micro_batches: int = 1  # of a step, over all data ranks
    precision: str = "bf16"
    recompute: str = "none"
    optimizer_state: str = "fp32"
    seq_len: int = 2048
    parallel: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    def train(self) -> TrainConfig:
        values: dict[str, Any] = self._asdict()
        del values["preset"], values["parallel"]
        tokens = values.pop("micro_batches") * self.micro_batch_size * self.seq_len
        return TrainConfig(tokens_per_step=tokens, steps=WARM_UP_STEPS + TIMED_STEPS, **values)


SETTINGS = [
    Setting("tinyllama-1.1b", 16),
    Setting("tinyllama-1.1b", 8, 4),
    Setting("small-120m", 16, seq_len=1024),
    Setting("small-120m", 32, 2, seq_len=1024),
    Setting("tinyllama-1.1b", 16, 2, recompute="selective"),
    Setting("tinyllama-1.1b", 16, 2, recompute="full"),
    Setting("article-1.1b", 8, 2),
    Setting("small-120m", 8, 2, precision="fp32", seq_len=1024),
    Setting("tinyllama-1.1b", 2, 4),
    Setting("tinyllama-1.1b", 8, 2, precision="fp16"),
    Setting("tinyllama-1.1b", 2, 2, seq_len=8192),
    Setting("tinyllama-1.1b", 1, recompute="full", optimizer_state="bf16"),
]
LAYOUTS_OF_TWO: list[dict[str, Any]] = [
    {"replicate": 2}, {"shard": 2}, {"shard": 2, "gather": "step"}, {"tensor": 2}, {"pipeline": 2},
]  # fmt: skip
SETTINGS_OF_TWO = [
    Setting("tinyllama-1.1b", 8, 8, recompute=recompute, parallel=parallel)
    for recompute in ("none", "full")
    for parallel in LAYOUTS_OF_TWO
]
DRY_SETTINGS_OF_TWO = [Setting("tiny-2m", 1, 4, "fp32", seq_len=64, parallel=parallel) for parallel in LAYOUTS_OF_TWO]
DRY_SETTINGS = [
    Setting("tiny-2m", 2, precision="fp32", seq_len=64),
    Setting("tiny-2m", 2, 2, recompute="full", seq_len=64),
    Setting("tiny-2m", 1, 2, optimizer_state="bf16", recompute="selective", seq_len=64),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON of what was measured")
    parser.add_argument("--from", dest="measured", type=Path, help="JSON of an earlier run, instead of measuring")
    parser.add_argument("--dry-run", action="store_true", help="tiny settings on this machine's CPU")
    parser.add_argument("--no-profile", action="store_true", help="leave the time by kernel class out")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="begin no setting after so long")
    options = parser.parse_args()
    if options.measured:
        Console(width=150).print(table(files.read_json(options.measured)))
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    choices = {
        (1, False): SETTINGS,
        (1, True): DRY_SETTINGS,
        (2, False): SETTINGS_OF_TWO,
        (2, True): DRY_SETTINGS_OF_TWO,
    }
    with join(ParallelConfig(replicate=size)) as ranks:
        device = choose_device("cpu" if options.dry_run else "cuda", ranks.local_rank if ranks else None)
        bench = Bench(device, ranks or Ranks(), with_profile=size == 1 and not options.no_profile)
        result = bench.measure(choices[size, options.dry_run], options.seconds, options.out)
    if bench.ranks.is_first:
        Console(width=150).print(table(result))


# -- measuring ---------------------------------------------------------------------------------------------------------


class Bench:
    """Trains settings on this rank's device."""

    def __init__(self, device: torch.device, ranks: Ranks, *, with_profile: bool) -> None:
        self.device, self.ranks, self.with_profile = device, ranks, with_profile
        self.on_gpu = device.type == "cuda"
        ranks.connect(device)

    def measure(self, settings: list[Setting], seconds: float, out: Path | None) -> dict[str, Any]:
        """A row for each setting; what is measured is written after each of them."""
        started = time.perf_counter()
        name = torch.cuda.get_device_name() if self.on_gpu else "CPU"
        result: dict[str, Any] = {"device": name, "torch": torch.__version__, "rows": []}
        for setting in settings:
            begun = time.perf_counter()
            if self.largest(begun - started) > seconds:
                print(f"no time is left for {setting}", file=sys.stderr)
                continue
            try:
                row = self.measured(setting)
            except torch.OutOfMemoryError:
                row = {"fits": False}
            row = setting._asdict() | row | {"seconds": round(time.perf_counter() - begun, 1)}
            result["rows"].append(row)
            if self.ranks.is_first:
                print(json.dumps(row), file=sys.stderr, flush=True)
            if self.ranks.is_first and out is not None:
                files.write_json(out, result)
        self.ranks.stop_watching()
        return result

    def largest(self, value: float) -> float:
        """Over the ranks."""
        if self.ranks.is_alone:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return tensor.item()

    def parallelize(self, parallel: ParallelConfig) -> None:
        """The ranks' layout from now on."""
        if not self.ranks.is_alone:
            self.ranks.parallel, self.ranks.mesh = parallel, RankMesh(parallel, self.ranks.rank)
            self.ranks.mesh.connect(self.device)

    def allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.on_gpu else 0

    def measured(self, setting: Setting) -> dict[str, Any]:
        """One setting: bytes and seconds."""
        torch._dynamo.reset()  # each setting's layers are its own
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        left_over = self.allocated()
        self.parallelize(ParallelConfig(**setting.parallel))
        model, train = preset(setting.preset), setting.train()
        state = TrainState(model, train, self.device, ranks=self.ranks)
        if self.ranks.parallel.is_model_parallel:
            state.init_weights(train.seed)
        else:
            fill_random(state.model, train.seed)
            state.network.refresh()
        own = train.layout(self.ranks.data_size).of_rank(self.ranks.data_rank)
        batches = [random_batches(model.vocab_size, train, self.device)[number] for number in own]
        forward_bytes = self.watch_forward(state)
        update = partial(train_step, state, batches, train, lr=1e-4)
        with gradient_bytes(state.gradients) as gradients, gc_paused():
            rows = timed_steps(update, range(train.steps), self.device)
        seconds = [row[1] for row in rows[WARM_UP_STEPS:]]
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else 0
        free, total = torch.cuda.mem_get_info() if self.on_gpu else (0, 0)
        run_step = partial(update, step=train.steps)
        return {
            "fits": True,
            "step_seconds": self.largest(statistics.median(seconds)),
            "step_seconds_min": min(seconds),
            "step_seconds_max": max(seconds),
            "peak_bytes": int(self.largest(peak)),
            "reserved_bytes": torch.cuda.max_memory_reserved() if self.on_gpu else 0,
            "device_bytes": int(self.largest(total - free)),
            "left_over_bytes": left_over,
            "held_bytes": held_bytes(state) | {"gradients": max(gradients)},
            "after_forward_bytes": forward_bytes[-1],  # of the last micro-batch, where its backward pass begins
            "loss": [rows[0][0][0], rows[-1][0][0]],
            "kernel_classes": profile_steps(run_step, 1, self.device)["kernel_classes"] if self.with_profile else None,
        }

    def watch_forward(self, state: TrainState) -> list[int]:
        """A list that gets the bytes allocated after each forward pass."""
        found: list[int] = []
        compute = state.network.forward

        def watched(*arguments: Any, **keywords: Any) -> Any:
            result = compute(*arguments, **keywords)
            found.append(self.allocated())
            return result

        state.network.forward = watched
        return found


def held_bytes(state: TrainState) -> dict[str, int]:
    """Bytes of what lives from step to step on this rank."""
    packed = state.network.packed
    moments = [moment for number in range(len(MOMENTS)) for moment in state.optimizer.packed_moments(number)]
    return {
        "weights": sum(parameter.master.nbytes for parameter in packed),
        "copies": sum(parameter.copy.nbytes for parameter in packed if parameter.copy is not None),
        "moments": sum(moment.nbytes for moment in moments),
    }


# -- the plan beside it ------------------------------------------------------------------------------------------------


def planned(row: dict[str, Any], device: str) -> dict[str, Any]:
    """The plan's bytes by part and seconds by part for a measured row's setting."""
    setting = Setting(**{name: row[name] for name in Setting._fields if name in row})
    gpu = find_gpu(device) or KINDS["CPU"]
    model, train = preset(setting.preset), setting.train()
    parallel = ParallelConfig(**setting.parallel)
    parts = memory_parts(model, train, parallel, on_gpu=not gpu.is_cpu)
    time_parts = step_time(model, gpu, train, parallel)
    return {"memory_parts": parts, "step_seconds_parts": vars(time_parts)}


def table(result: dict[str, Any]) -> Table:
    """Measured and planned, side by side, for people."""
    columns = ("setting", "peak GB", "plan", "", "device GB", "plan", "", "step ms", "plan", "")
    shown = Table(*columns, title=f"{result['device']}, torch {result['torch']}", title_justify="left")
    for row in result["rows"]:
        name = (
            f"{row['preset']} {row['micro_batches']} x {row['micro_batch_size']} x {row['seq_len']} {row['precision']}"
        )
        name += f" {row['recompute']}" + (" bf16 moments" if row["optimizer_state"] == "bf16" else "")
        if row.get("parallel"):
            name = f"{ParallelConfig(**row['parallel']).words()}: {name}"
        if not row["fits"]:
            shown.add_row(name, "does not fit")
            continue
        plan = planned(row, result["device"])
        needed = sum(plan["memory_parts"].values())
        not_its_own = max(0, row["left_over_bytes"] - WORKSPACE_BYTES)  # products' workspace is each setting's
        shown.add_row(
            name,
            *compared((row["peak_bytes"] - not_its_own) / 1e9, allocated_bytes(plan["memory_parts"]) / 1e9, 2),
            *compared(0 if not_its_own else row["device_bytes"] / 1e9, needed / 1e9, 2),
            *compared(row["step_seconds"] * 1e3, sum(plan["step_seconds_parts"].values()) * 1e3, 1),
        )
    return shown


def compared(seen: float, foreseen: float, digits: int) -> tuple[str, str, str]:
    """Both figures and by how much the plan is off; a CPU's memory is not measured."""
    if not seen:
        return "", f"{foreseen:,.{digits}f}", ""
    return f"{seen:,.{digits}f}", f"{foreseen:,.{digits}f}", f"{foreseen / seen - 1:+.1%}"


if __name__ == "__main__":
    main()
