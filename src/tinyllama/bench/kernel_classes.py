"""Classifies kernels by name and sums a step's time by class. Names are of CUDA kernels, on a CPU of PyTorch operations."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# The first matching pattern decides, ignoring case. Inductor's names list what was fused (triton_poi_fused_mm_silu_0 is no
# matmul), so they come first; attention kernels contain CUTLASS types (`cutlass::bfloat16_t`), so attention comes before
# matmuls.
PATTERNS: tuple[tuple[str, str], ...] = (
    ("attention", r"^triton_tem\w*attention"),
    ("product", r"^triton_(tem|mm|bmm|addmm)_"),
    ("fused elementwise", r"^triton_|^_add_norm_|^_swiglu_|CompiledFxGraph|_cpp_fused_"),
    ("attention", r"cudnn|fmha|flash|attention|sdpa"),
    ("cross entropy", r"^_rows(_|$)|nll_loss|log_?softmax|cross_entropy|scatter_gather"),
    ("cross entropy", r"^aten::(logsumexp|gather|scatter_add_?|amax|exp_|log)$"),  # of loss_in_place_reference
    ("optimizer", r"^_(update|accumulate)(_|$)|multi_tensor|foreach|adam|lpnorm|^aten::linalg_vector_norm$"),
    ("product", r"cublas|nvjet|gemm|gemv|cutlass|xmma|scaled_mm|splitk|^aten::(mm|addmm|bmm|linear|matmul|mkldnn\w*)$"),
    (
        "embedding",
        r"embedding|compute_grad_weight|index|gather|radix|merge_?sort|segment|krn_partial|sum_and_scatter|cub::|thrust",
    ),
    ("copies and casts", r"memcpy|memset|copy|(?<!with)(?<!without)cast|CatArray|FillFunctor"),
    ("copies and casts", r"^aten::(to|clone|contiguous|reshape|cat|stack|fill_|zero_|zeros\w*|ones\w*|float)$"),
    ("elementwise", r"elementwise"),
    (
        "elementwise",
        r"^aten::(add|sub|mul|div|neg|silu|sigmoid|rsqrt|sqrt|pow|square|mean|cos|sin|exp|where|clamp)\w*$",
    ),
)
CLASSES: tuple[str, ...] = (
    "product", "attention", "cross entropy", "fused elementwise", "elementwise", "optimizer", "copies and casts",
    "embedding", "other",
)  # fmt: skip
IDLE = "idle"
TOP_KERNELS, NAME_CHARACTERS = 15, 90
_COMPILED = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in PATTERNS)


@dataclass(frozen=True)
class KernelTime:
    """Milliseconds and launches of one kernel per step."""

    name: str
    ms: float
    launches: float


def kernel_class(name: str) -> str:
    """One of CLASSES."""
    return next((found for found, pattern in _COMPILED if pattern.search(name)), "other")


def class_table(kernels: Iterable[KernelTime], idle_ms: float) -> list[dict[str, Any]]:
    """A row for each class and one for idle time: milliseconds, share and launches per step."""
    ms, launches = dict.fromkeys(CLASSES, 0.0), dict.fromkeys(CLASSES, 0.0)
    for kernel in kernels:
        name = kernel_class(kernel.name)
        ms[name] += kernel.ms
        launches[name] += kernel.launches
    rows = [(name, ms[name], launches[name]) for name in CLASSES] + [(IDLE, idle_ms, 0.0)]
    total = sum(row[1] for row in rows)
    return [
        {"class": name, "ms": round(time, 4), "share": round(time / total, 6), "launches": round(count)}
        for name, time, count in rows
    ]


def top_kernels(kernels: Iterable[KernelTime]) -> list[dict[str, Any]]:
    """The kernels with the most time per step, the longest first."""
    largest = sorted(kernels, key=lambda kernel: kernel.ms, reverse=True)[:TOP_KERNELS]
    return [
        {
            "name": kernel.name[:NAME_CHARACTERS],
            "class": kernel_class(kernel.name),
            "ms": round(kernel.ms, 4),
            "launches": round(kernel.launches),
        }
        for kernel in largest
    ]
