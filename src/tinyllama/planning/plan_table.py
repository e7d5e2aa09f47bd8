"""A plan as plain-text tables: main numbers, memory and step time by category, the layouts that fit."""

import io
import shlex
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from tinyllama.parallel.layout import AXES, ParallelConfig

MAX_LAYOUTS = 12  # that the table shows


def render(planned: dict[str, Any]) -> str:
    """The result of `cost.plan` as plain text tables."""
    console = Console(width=100, file=io.StringIO(), record=True, color_system=None, legacy_windows=False)
    console.print(_main_table(planned))
    if planned["memory_parts"]:
        console.print(_parts(f"Memory {_where(planned)}", planned["memory_parts"], size))
    if planned["step_seconds_parts"]:
        console.print(_parts("One step", planned["step_seconds_parts"], lambda seconds: f"{seconds * 1e3:,.1f} ms"))
    if planned["layouts"]:
        console.print(_layouts(planned["layouts"], planned["gpus"]))
    for line in planned["changes"]:
        console.print(f"does not fit: {line}", markup=False, highlight=False)
    for line in planned["notes"]:
        console.print(f"note: {line}", markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def size(n_bytes: float) -> str:
    """Bytes in decimal units: 1.50 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:,.2f} {unit}"
    return f"{n_bytes / 1e3:,.2f} kB"


def duration(days: float) -> str:
    """Days in a suitable unit: 90.4 days, 3.2 hours, 4.1 minutes."""
    if days >= 2:
        return f"{days:,.1f} days"
    hours = days * 24
    return f"{hours:.1f} hours" if hours >= 2 else f"{hours * 60:.1f} minutes"


def _main_table(planned: dict[str, Any]) -> Table:
    table = _table(f"{planned['gpus']} x {planned['device']}: {'fits' if planned['fits'] else 'does not fit'}", "", "")
    flops = planned["flops_per_token"]
    rows = {
        "parameters": f"{planned['parameters']:,}",
        "FLOPs per token": f"{flops['causal']:,} causal, {flops['palm']:,} palm",
        "tokens": f"{planned['tokens']:,} in {planned['steps']:,} steps",
        "disk": size(planned["disk_bytes"]),
    }
    if planned["memory_bytes_per_gpu"] is not None:
        have = size(planned["usable_memory_bytes_per_gpu"])
        rows["memory per device"] = f"{size(planned['memory_bytes_per_gpu'])} of {have} usable"
    if planned["fits"]:
        rows["layout"] = f"{layout_words(planned['parallel'])}, micro-batch {planned['micro_batch_size']}"
        if len(planned["stage_layers"]) > 1:
            rows["stages"] = f"{' + '.join(map(str, planned['stage_layers']))} layers"
        rows["tokens per second"] = f"{planned['tokens_per_second']:,.0f}"
        rows["MFU"] = f"{planned['mfu_causal']:.1%} causal, {planned['mfu_palm']:.1%} palm"
        rows["time"] = f"{duration(planned['days'])}, {planned['gpu_hours']:,.1f} device hours"
    if planned["cost"] is not None:
        rows["cost"] = f"{planned['cost']:,.2f}"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _where(planned: dict[str, Any]) -> str:
    """The device of the memory table; with several stages, one of the stage that needs most."""
    layers, stage = planned["stage_layers"], planned["memory_stage"]
    return f"on stage {stage + 1} of {len(layers)}, {layers[stage]} layers" if len(layers) > 1 else "of one device"


def _parts(title: str, parts: dict[str, float], show: Callable[[float], str]) -> Table:
    table = _table(title, "category", "", "share")
    total = sum(parts.values())
    for name, value in [*parts.items(), ("total", total)]:
        table.add_row(name.replace("_", " "), show(value), f"{value / total:.1%}" if total else "")
    return table


def _layouts(layouts: list[dict[str, Any]], n_gpus: int) -> Table:
    """The best layouts; with several devices, each layout with its best micro-batch."""
    shown: dict[Any, dict[str, Any]] = {}
    for layout in layouts:
        shown.setdefault(layout_words(layout) if n_gpus > 1 else layout["micro_batch_size"], layout)
    table = _table("Layouts that fit, best first", "layout", "micro-batch", "memory per device", "tokens per second")
    for layout in list(shown.values())[:MAX_LAYOUTS]:
        table.add_row(
            layout_words(layout),
            str(layout["micro_batch_size"]),
            size(layout["memory_bytes_per_gpu"]),
            f"{layout['tokens_per_second']:,.0f}",
        )
    if len(shown) > MAX_LAYOUTS:
        table.caption = f"and {len(shown) - MAX_LAYOUTS} more; --json has all"
    return table


def layout_words(keys: dict[str, Any]) -> str:
    """`replicate 2 x shard 8`: the axes with more than one rank, and how shards are gathered."""
    return ParallelConfig(**{key: keys[key] for key in (*AXES, "gather")}).words()


def launch_command(planned: dict[str, Any], words: list[str]) -> str:
    """The command that starts the planned run: `pretrain` with the layout's overrides, under torchrun with several ranks."""
    pretrain = shlex.join(["pretrain", *words, *planned["overrides"]])
    per_node = planned["gpus_per_node"]
    if planned["gpus"] == 1:
        return f"start it with: tinyllama {pretrain}"
    n_nodes = planned["gpus"] // per_node
    nodes = f"--nnodes {n_nodes} --rdzv-backend c10d --rdzv-endpoint HOST:29500 " if n_nodes > 1 else ""
    where = " on each node" if n_nodes > 1 else ""
    return f"start it{where} with: torchrun {nodes}--nproc-per-node {per_node} -m tinyllama {pretrain}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns))
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right")
    return table
