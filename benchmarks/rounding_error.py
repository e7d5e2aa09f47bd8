"""How far off a layout's gradients are in 16 bits, beside one process's: both against float64 with the same weights.

    python -m benchmarks.rounding_error [--processes 2 4] [--dtype bf16 fp16] [--json table.json]

A training of one process gives weights, step by step, which are rounded to the short format: so all compute with the same
numbers. Then the layout, one process, and one process in float64 make the step's gradients. What is told is the error of
each part's gradients relative to their norm: the root of the mean of its squares over steps, layers and cases. CPU, gloo.

A second table has how far one process's training parts from itself when its first weights are moved by 1e-7, and from that
of float64: as the gradient norm's largest relative difference in 10 steps.
"""

import argparse
import json
import math
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.layout_equality import (
    CASES,
    LEARNING_RATE,
    STEPS,
    canonical_gradients,
    joined,
    launch,
    lay_out_as,
    own_batches,
    start,
    training,
)
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.train_step import train_step

NUDGE = 1e-7
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS: dict[int, list[dict[str, int]]] = {
    2: [{"tensor": 2}, {"shard": 2}, {"pipeline": 2}],
    4: [{"tensor": 4}, {"tensor": 2, "pipeline": 2}],
}


class Made(NamedTuple):
    """What one step gave, of the mean loss."""

    gradients: dict[str, Tensor]  # whole and canonical, on rank 0
    norm: float


class Judged:
    """A state that makes gradients of weights which it is given."""

    def __init__(self, case: str, dtype: str, ranks: Ranks) -> None:
        self._ranks, self._parallel, self._mesh = ranks, ranks.parallel, ranks.mesh
        self._config, self._train, self._state = start(case, dtype, ranks)

    def gradients(self, weights: dict[str, Tensor], step: int) -> Made:
        """Of the step's batches; all ranks of the layout call it together."""
        ranks, state = self._ranks, self._state
        ranks.parallel, ranks.mesh = self._parallel, self._mesh
        state.load_weights(weights)
        state.broadcast()
        totals = state.passes.accumulate(own_batches(step, self._config, self._train, ranks), step)
        scale = 1 / (totals[2] * state.loss_scale.factor).double()
        found = {name: value.double() * scale for name, value in canonical_gradients(state).items()}
        norm = (state.gradients.norm() * scale).item()
        state.gradients.clear()
        return Made(found, norm)


def errors(
    case: str, dtype: str, ranks: Ranks, rank: int, layouts: list[dict[str, int]], steps: int
) -> list[dict[str, Any]]:
    """A row for each layout, step and parameter, on rank 0."""
    config, train, trained = start(case, dtype, Ranks())
    exact, one = Judged(case, "float64", Ranks()), Judged(case, dtype, Ranks())
    judged = {}
    for sizes in layouts:
        lay_out_as(ranks, ParallelConfig(**sizes), rank)
        judged[ranks.parallel.words()] = Judged(case, dtype, ranks)
    trained.init_weights(7)
    rows = []
    for step in range(steps):
        weights = {name: value.to(FORMATS[dtype]).float() for name, value in trained.weights()}
        wanted, alone = exact.gradients(weights, step), one.gradients(weights, step)
        for words, state in judged.items():
            made = state.gradients(weights, step)
            for name, value in wanted.gradients.items() if rank == 0 else ():
                size = value.norm().item()
                row = {"case": case, "dtype": dtype, "layout": words, "step": step, "name": name}
                of_one, of_layout = ((found.gradients[name] - value).norm().item() / size for found in (alone, made))
                norms = {"norm_one": alone.norm / wanted.norm - 1, "norm_layout": made.norm / wanted.norm - 1}
                rows.append(row | {"one": of_one, "layout_error": of_layout} | norms)
        train_step(trained, own_batches(step, config, train, Ranks()), train, step=step, lr=LEARNING_RATE)
    return rows


def on_rank(
    rank: int, size: int, port: int, path: str, cases: list[str], dtypes: list[str], layouts: list[dict[str, int]],
    steps: int,
) -> None:  # fmt: skip
    with joined(rank, size, port) as ranks:
        rows = [row for dtype in dtypes for case in cases for row in errors(case, dtype, ranks, rank, layouts, steps)]
    if rank == 0:
        Path(path).write_text(json.dumps(rows))


def measure(
    size: int, path: Path, cases: list[str], dtypes: list[str], layouts: list[dict[str, int]] | None = None,
    steps: int = STEPS,
) -> list[dict[str, Any]]:  # fmt: skip
    """One launch of `size` processes: `errors` of all layouts (default LAYOUTS), cases and formats."""
    launch(on_rank, size, str(path), cases, dtypes, layouts or LAYOUTS[size], steps)
    return json.loads(path.read_text())


def by_part(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Errors of one process and of the layout, by layout, format and part of the network; `all` is over all parameters."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        words = row["name"].removesuffix(".weight").split(".")
        for part in (".".join(words[2:] if words[0] == "layers" else words), "all"):
            groups[row["layout"], row["dtype"], part].append(row)
    return {
        key: (_mean_root([row["one"] for row in group]), _mean_root([row["layout_error"] for row in group]))
        for key, group in groups.items()
    }


def _mean_root(values: list[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one row for each layout and format."""
    found, lines = by_part(rows), []
    for layout, dtype in dict.fromkeys((row["layout"], row["dtype"]) for row in rows):
        one, cut = found[layout, dtype, "all"]
        parts = {
            part: cut / one for (where, form, part), (one, cut) in found.items() if (where, form) == (layout, dtype)
        }
        worst = max(parts, key=lambda part: parts[part])
        chosen = [row for row in rows if (row["layout"], row["dtype"]) == (layout, dtype)]
        norms = [max(abs(row[key]) for row in chosen) for key in ("norm_one", "norm_layout")]
        words = f"{one:.2e} | {cut:.2e} | {cut / one:.3f} | {parts[worst]:.3f} ({worst})"
        lines.append(f"| {layout} | {dtype} | {words} | {norms[0]:.1e} | {norms[1]:.1e} |")
    head = "| layout | format | one process | layout | ratio | largest ratio of a part | norm, one process | norm, layout |"
    return "\n".join([head, "|---|---|---:|---:|---:|---|---:|---:|", *lines])


def drift(case: str, dtype: str) -> tuple[float, float]:
    """Largest relative difference of one process's gradient norms from those begun NUDGE apart, and from float64's."""
    torch.set_num_threads(1)
    found, moved = (training(case, dtype, Ranks(), nudge).norms for nudge in (0.0, NUDGE))
    exact = training(case, "float64", Ranks()).norms
    apart, off = (max(abs(a / b - 1) for a, b in zip(found, other, strict=True)) for other in (moved, exact))
    return apart, off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], choices=list(LAYOUTS))
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--dtype", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in options.processes:
        rows += measure(size, Path(f"/tmp/rounding_error_{os.getpid()}.json"), options.case, options.dtype)
    print(table(rows))
    print(f"\n| case | format | norm, begun {NUDGE:g} apart | norm, from float64 |\n|---|---|---:|---:|")
    for dtype in options.dtype:
        for case in options.case:
            apart, off = drift(case, dtype)
            print(f"| {case} | {dtype} | {apart:.1e} | {off:.1e} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    sys.exit(not all(math.isfinite(row["layout_error"]) for row in rows))


if __name__ == "__main__":
    main()
