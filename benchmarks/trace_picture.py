"""A picture of the traces of benchmarks/layouts_on_gpus.py: what ran beside what on one GPU, or on both of a pipeline.

    python -m benchmarks.layouts_on_gpus --gpus 2 --traces traces
    python benchmarks/trace_picture.py traces --out records/layouts_traces.svg

One lane for the computation, one for NCCL's kernels. Spans that lie closer than a pixel are drawn as one.
"""

import argparse
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, LEFT, LANE, GAP = 1000, 120, 16, 4  # pixels
COMPUTATION, NCCL = "#4878a8", "#d8743c"
Span = tuple[float, float]  # milliseconds


class Panel(NamedTuple):
    """A part of a step. Of `ms` 0 it is all of it; a negative start counts from the end."""

    title: str
    traces: tuple[str, ...]
    start_ms: float
    ms: float


PANELS = (
    Panel("replicate 2: gradients summed beside the last backward pass", ("replicate_2.rank_0",), -150, 150),
    Panel("shard 2 by step: gathered beside the first forward pass", ("shard_2_by_step.rank_0",), 0, 100),
    Panel("shard 2 by step: summed beside the last backward pass", ("shard_2_by_step.rank_0",), -150, 150),
    Panel("shard 2: gathered and summed for each layer", ("shard_2.rank_0",), 400, 150),
    Panel("tensor 2: products wait for each other's slices", ("tensor_2.rank_0",), 400, 20),
    Panel("pipeline 2: both stages of a step", ("pipeline_2.rank_0", "pipeline_2.rank_1"), 0, 0),
)


def panels_of(folder: Path) -> list[Panel]:
    """Those whose traces are in the folder."""
    return [panel for panel in PANELS if all((folder / f"{name}.json").is_file() for name in panel.traces)]


def spans_of(path: Path) -> tuple[list[Span], list[Span]]:
    """Times of the computation's kernels and of NCCL's, in milliseconds from the first of all."""
    events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    kernels = [event for event in events if event.get("ph") == "X" and event.get("cat") == "kernel"]
    first = min(float(event["ts"]) for event in kernels)
    found: tuple[list[Span], list[Span]] = ([], [])
    for event in kernels:
        begin = (float(event["ts"]) - first) / 1000
        found["nccl" in event["name"].lower()].append((begin, begin + float(event["dur"]) / 1000))
    return found


def merged(spans: list[Span], near: float) -> Iterator[Span]:
    """The spans in order, those nearer than `near` to each other as one."""
    begin, end = None, 0.0
    for start, stop in sorted(spans):
        if begin is None:
            begin, end = start, stop
        elif start - end < near:
            end = max(end, stop)
        else:
            yield begin, end
            begin, end = start, stop
    if begin is not None:
        yield begin, end


def bars(spans: list[Span], window: Span, top: float, colour: str) -> Iterator[str]:
    pixels = (WIDTH - LEFT) / (window[1] - window[0])
    for begin, end in merged(spans, 1 / pixels):
        x, stop = ((min(max(at, window[0]), window[1]) - window[0]) * pixels for at in (begin, end))
        if stop > x:
            yield f'<rect x="{LEFT + x:.1f}" y="{top}" width="{stop - x:.1f}" height="{LANE}" fill="{colour}"/>'


def draw(folder: Path) -> str:
    """The picture as SVG."""
    shapes: list[str] = []
    top = 0
    for panel in panels_of(folder):
        traces = {name: spans_of(folder / f"{name}.json") for name in panel.traces}
        whole = max(end for lanes in traces.values() for spans in lanes for _, end in spans)
        start = panel.start_ms if panel.start_ms >= 0 else whole + panel.start_ms
        window = (start, start + panel.ms if panel.ms else whole)
        top += 26
        span = f"{window[0]:.0f} to {window[1]:.0f} ms of {whole:.0f}"
        shapes.append(f'<text x="0" y="{top - 6}" font-weight="bold">{escape(panel.title)}, {span}</text>')
        for name, lanes in traces.items():
            rank = f" of {name.split('.')[1].replace('_', ' ')}" if len(traces) > 1 else ""
            for word, spans, colour in zip(("kernels", "NCCL"), lanes, (COMPUTATION, NCCL), strict=True):
                shapes.append(f'<text x="0" y="{top + 12}">{word}{rank}</text>')
                shapes += bars(spans, window, top, colour)
                top += LANE + GAP
    style = f'font-family="sans-serif" font-size="12" viewBox="0 0 {WIDTH} {top + GAP}"'
    size = f'width="{WIDTH}" height="{top + GAP}"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(shapes)}</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, help="the folder of --traces")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not panels_of(options.traces):
        parser.error(f"{options.traces} has no traces of two GPUs; benchmarks/layouts_on_gpus.py --traces makes them")
    options.out.write_text(draw(options.traces))


if __name__ == "__main__":
    main()
