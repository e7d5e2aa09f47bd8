"""The result of a bench as plain-text tables."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table


def render(result: dict[str, Any]) -> str:
    """The result of `run_bench` as tables."""
    console = Console(width=110, file=io.StringIO(), record=True, color_system=None, legacy_windows=False)
    console.print(_main_table(result))
    console.print(_memory(result["memory"]))
    console.print(_ceilings(result["ceilings"], result["shares"]))
    if result["kernel_classes"]:
        console.print(_kernels(result["kernel_classes"], result["profiled_step_ms"]))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def _main_table(result: dict[str, Any]) -> Table:
    table = _table(f"{result['preset']} on {result['device']}", "", "")
    micro_batches = f"{result['micro_batches_per_step']} x {result['micro_batch_size']} sequences"
    rows = {
        "parameters": f"{result['parameters']:,}",
        "step": f"{micro_batches} of {result['seq_len']:,} tokens",
        "uses": result["uses"],
        "tokens per second": f"{result['tokens_per_second']:,.0f}",
        "step time": f"{result['step_ms']:,.1f} ms ({result['step_ms_min']:,.1f} to {result['step_ms_max']:,.1f}, "
        f"{result['steps']} steps)",
        "MFU": f"{result['mfu_causal']:.1%} causal, {result['mfu_palm']:.1%} palm, of {result['peak_flops'] / 1e12:,.2f} "
        f"TFLOP/s ({result['peak_flops_source']})",
        "first step": f"{result['first_step_seconds']:,.1f} s",
        "loss": f"{_number(result['loss_first'])} first, {_number(result['loss_last'])} last",
        "torch, triton": f"{result['torch']}, {result['triton'] or 'none'}",
    }
    decode = result["decode"]
    if decode:
        rows["decoding"] = (
            f"{decode['tokens_per_second']:,.0f} tokens/s for one sequence, {decode['step_us']:,.0f} us per token, "
            f"{decode['dtype']}"
        )
    for row in rows.items():
        table.add_row(*row)
    return table


def _memory(parts: dict[str, int]) -> str:
    names = {"copies_16bit": "16-bit copies", "activations_and_rest": "activations and rest"}
    words = [f"{names.get(name, name)} {_size(value)}" for name, value in parts.items() if name != "peak"]
    return f"memory: peak {_size(parts['peak'])} = {' + '.join(words)}"


def _ceilings(ceilings: dict[str, float | None], shares: dict[str, float | None]) -> Table:
    table = _table("Limits of the device (measured)", "", "", "model FLOPs")
    for name, rate in ceilings.items():
        unit = "TB/s" if "bytes" in name else "TFLOP/s"
        share = shares.get(f"of_{name.replace('_flops', '')}")
        label = (
            "copy, read and written"
            if "bytes" in name
            else name.replace("product", "matmul").replace("_flops_", ", ").replace("_", " ")
        )
        shown = "not measured" if rate is None else f"{rate / 1e12:,.3f} {unit}"
        table.add_row(label, shown, "" if share is None else f"{share:.1%}")
    return table


def _kernels(rows: list[dict[str, Any]], step_ms: float) -> Table:
    table = _table(f"One step by kind of kernel ({step_ms:,.1f} ms under the profiler)", "", "ms", "share", "launches")
    for row in rows:
        if row["ms"] > 0:
            launches = f"{row['launches']:,}" if row["launches"] else ""
            table.add_row(row["class"], f"{row['ms']:,.2f}", f"{row['share']:.1%}", launches)
    return table


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB" if abs(n_bytes) >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns))
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 or not any(columns) else "right")
    return table
