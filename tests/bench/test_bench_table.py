"""The tables of a bench: each figure in its row, with its unit."""

import copy
import re
from typing import Any

from tinyllama.bench.bench_table import render

RESULT: dict[str, Any] = {
    "preset": "tiny-2m", "device": "CPU, 2 threads", "parameters": 2_410_176, "micro_batches_per_step": 3,
    "micro_batch_size": 2, "seq_len": 1024, "uses": "fp32 products", "tokens_per_second": 12345.6, "step_ms": 1234.56,
    "step_ms_min": 1.04, "step_ms_max": 2000.06, "steps": 7, "mfu_causal": 0.1234, "mfu_palm": 0.5678,
    "peak_flops": 5.432e12, "peak_flops_source": "measured", "first_step_seconds": 12.34, "loss_first": 8.12345,
    "loss_last": None, "torch": "2.13.0", "triton": None,
    "decode": {"tokens_per_second": 1234.5, "step_us": 5678.9, "dtype": "fp32"},
    "memory": {
        "weights": 1_500_000_000, "copies_16bit": 2_500_000, "activations_and_rest": -1_000_000_000, "peak": 999_949_999,
    },
    "ceilings": {
        "copy_bytes_per_second": 1.2345e12, "product_flops_burst": 2.5e12, "product_flops_sustained": None,
        "fp8_product_flops_burst": 3e12,
    },
    "shares": {"of_product_burst": 0.1234, "of_product_sustained": None, "of_fp8_product_burst": 0.5},
    "kernel_classes": [
        {"class": "product", "ms": 1234.567, "share": 0.75, "launches": 1234},
        {"class": "attention", "ms": 0.0, "share": 0.0, "launches": 5},
        {"class": "idle", "ms": 0.01, "share": 0.25, "launches": 0},
    ],
    "profiled_step_ms": 2345.67,
}  # fmt: skip


def rows(text: str) -> dict[str, list[str]]:
    """By a table row's first cell, its other cells."""
    found = [[cell.strip() for cell in line.strip("│┃|").split("│")] for line in text.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in found}


def test_every_figure_is_in_its_row():
    text = render(RESULT)
    lines = text.splitlines()
    assert lines[0] == "tiny-2m on CPU, 2 threads"
    found = rows(text)
    assert {name: " ".join(cells) for name, cells in list(found.items())[:10]} == {
        "parameters": "2,410,176",
        "step": "3 x 2 sequences of 1,024 tokens",
        "uses": "fp32 products",
        "tokens per second": "12,346",
        "step time": "1,234.6 ms (1.0 to 2,000.1, 7 steps)",
        "MFU": "12.3% causal, 56.8% palm, of 5.43 TFLOP/s (measured)",
        "first step": "12.3 s",
        "loss": "8.123 first, not finite last",
        "torch, triton": "2.13.0, none",
        "decoding": "1,234 tokens/s for one sequence, 5,679 us per token, fp32",
    }
    assert found["copy, read and written"] == ["1.234 TB/s", ""]
    assert found["matmul, burst"] == ["2.500 TFLOP/s", "12.3%"]
    assert found["matmul, sustained"] == ["not measured", ""]
    assert found["fp8 matmul, burst"] == ["3.000 TFLOP/s", "50.0%"]
    assert found["product"] == ["1,234.57", "75.0%", "1,234"]
    assert found["idle"] == ["0.01", "25.0%", ""]
    assert "attention" not in found  # no time, no row
    memory = " ".join(line for line in lines if "GB" in line or "MB" in line)
    assert memory == "memory: peak 999.9 MB = weights 1.50 GB + 16-bit copies 2.5 MB + activations and rest -1.00 GB"
    for title in ("Limits of the device (measured)", "One step by kind of kernel (2,345.7 ms under the profiler)"):
        assert title in " ".join(text.split())
    assert re.findall(r"(?:ms|share|launches|model FLOPs)(?= *[┃│])", text) == [
        "model FLOPs", "ms", "share", "launches",
    ]  # fmt: skip
    assert not any(line.endswith(" ") for line in lines)
    assert re.match(r"│ parameters +│ 2,410,176 +│", lines[2])  # no heads, and words to the left
    assert re.search(r"│ idle +│ +0\.01 │ +25\.0% │", text)  # numbers to the right


def test_what_was_not_measured_has_no_row():
    bare = copy.deepcopy(RESULT) | {"decode": None, "kernel_classes": None, "triton": "3.5.0", "loss_last": 2.0}
    bare["memory"] = {"weights": 10**9, "peak": 10**9}
    text = render(bare)
    assert "decoding" not in text
    assert "kind of kernel" not in text
    assert "8.123 first, 2.000 last" in text
    assert "2.13.0, 3.5.0" in text
    assert "peak 1.00 GB = weights 1.00 GB" in text
