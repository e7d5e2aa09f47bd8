"""What `tinyllama plan` foresees beside what training takes: peak memory and step time, setting by setting.

    python benchmarks/plan_against_measured.py --out measured.json             # one CUDA GPU, some 150 seconds
    python benchmarks/plan_against_measured.py --from measured.json            # the table again, with today's formulas
    python benchmarks/plan_against_measured.py --dry-run                       # tiny settings on a CPU: does it run?

Each setting trains on random tokens, as `tinyllama bench` does, with nothing of the former one left on the device. The
first steps compile and warm up; the step time is the median of the timed ones. `peak` is PyTorch's `max_memory_allocated`,
beside which the plan leaves its allowance for context out; `device` is what the driver reports as used, beside which it
counts it.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tinyllama import files
from tinyllama.gpu_kinds import KINDS, find_gpu
from tinyllama.model.llama_config import preset
from tinyllama.plan.memory import memory_parts
from tinyllama.plan.step_time import step_time
from tinyllama.train.train_config import TrainConfig

WARM_UP_STEPS, TIMED_STEPS = 3, 5
SECONDS = 170  # no setting is begun later


class Setting(NamedTuple):
    preset: str
    micro_batch_size: int
    micro_batches: int = 1
    precision: str = "bf16"
    recompute: str = "none"
    optimizer_state: str = "fp32"
    seq_len: int = 2048

    def train(self) -> TrainConfig:
        values: dict[str, Any] = self._asdict()
        del values["preset"]
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
        result = files.read_json(options.measured)
    else:
        settings = DRY_SETTINGS if options.dry_run else SETTINGS
        device = "cpu" if options.dry_run else "cuda"
        result = measure(settings, device, options.seconds, with_profile=not options.no_profile, out=options.out)
    Console(width=150).print(table(result))


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(
    settings: list[Setting], device_type: str, seconds: float, *, with_profile: bool, out: Path | None
) -> dict[str, Any]:
    """Run the settings; what is measured is written after each of them."""
    import torch

    started = time.perf_counter()
    device = torch.device(device_type)
    name = torch.cuda.get_device_name() if device_type == "cuda" else "CPU"
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "rows": []}
    for setting in settings:
        if time.perf_counter() - started > seconds:
            print(f"no time is left for {setting}", file=sys.stderr)
            continue
        begun = time.perf_counter()
        try:
            row = measured(setting, device, with_profile)
        except torch.OutOfMemoryError:
            row = {"fits": False}
        row = setting._asdict() | row | {"seconds": round(time.perf_counter() - begun, 1)}
        print(json.dumps(row), file=sys.stderr, flush=True)
        result["rows"].append(row)
        if out is not None:
            files.write_json(out, result)
    return result


def measured(setting: Setting, device: Any, with_profile: bool) -> dict[str, Any]:
    """One setting: bytes and seconds."""
    import torch

    from tinyllama.bench.kernel_trace import profile_steps
    from tinyllama.bench.training_speed import fill_random, gradient_bytes, memory_parts, random_batches, timed_steps
    from tinyllama.train.step_clock import garbage_kept
    from tinyllama.train.train_state import TrainState
    from tinyllama.train.train_step import train_step

    on_gpu = device.type == "cuda"
    torch._dynamo.reset()  # each setting's layers are its own
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    left_over = torch.cuda.memory_allocated() if on_gpu else 0
    model, train = preset(setting.preset), setting.train()
    state = TrainState(model, train, device)
    fill_random(state.model, train.seed)
    state.network.refresh()
    batches = random_batches(model.vocab_size, train, device)
    forward_bytes: list[int] = []
    hidden = state.network.hidden

    def watched(*arguments: Any) -> Any:
        result = hidden(*arguments)
        forward_bytes.append(torch.cuda.memory_allocated() if on_gpu else 0)
        return result

    state.network.hidden = watched
    update = partial(train_step, state, batches, train, lr=1e-4)
    with gradient_bytes(state.gradients) as gradients, garbage_kept():
        rows = timed_steps(update, range(train.steps), device)
    seconds = [row[1] for row in rows[WARM_UP_STEPS:]]
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    free, total = torch.cuda.mem_get_info() if on_gpu else (0, 0)
    return {
        "fits": True,
        "step_seconds": statistics.median(seconds),
        "step_seconds_min": min(seconds),
        "step_seconds_max": max(seconds),
        "peak_bytes": peak,
        "reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else 0,
        "device_bytes": total - free,
        "left_over_bytes": left_over,
        "parts": memory_parts(state, max(gradients), peak),
        "after_forward_bytes": forward_bytes[-1],  # of the last micro-batch, where its backward pass begins
        "loss": [rows[0][0][0], rows[-1][0][0]],
        "kernel_classes": profiled_classes(partial(update, step=train.steps), device, profile_steps, with_profile),
    }


def profiled_classes(run_step: Any, device: Any, profile_steps: Any, with_profile: bool) -> Any:
    return profile_steps(run_step, 1, device)["kernel_classes"] if with_profile else None


# -- the plan beside it ------------------------------------------------------------------------------------------------


def planned(row: dict[str, Any], device: str) -> dict[str, Any]:
    """The plan's bytes by part and seconds by part for a measured row's setting."""
    setting = Setting(**{name: row[name] for name in Setting._fields})
    gpu = find_gpu(device) or KINDS["CPU"]
    model, train = preset(setting.preset), setting.train()
    parts = memory_parts(model, train, compiled=not gpu.is_cpu)
    time_parts = step_time(model, gpu, train)
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
        if not row["fits"]:
            shown.add_row(name, "does not fit")
            continue
        plan = planned(row, result["device"])
        needed = sum(plan["memory_parts"].values())
        shown.add_row(
            name,
            *compared(row["peak_bytes"] / 1e9, (needed - plan["memory_parts"]["context"]) / 1e9, 2),
            *compared(row["device_bytes"] / 1e9, needed / 1e9, 2),
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
