"""Line charts: from series of points to the coordinates and words that chart.html.j2 writes as SVG.

Each chart carries its points as JSON, from which report.js shows the values under the pointer; without scripts the
chart is still complete.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tinyllama.report.ticks import exact, linear_ticks, log_ticks, short

Point = tuple[float, float]

MAX_POINTS = 600  # of one line: more cannot be told apart on a screen
MAX_MARKS = 40  # of one kind
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 40  # margins around the plot, in the units of the chart


@dataclass(frozen=True)
class Series:
    """Named points in the order of x. `kind` is the style: a line, a faint line, a dashed line, or dots."""

    name: str
    points: Sequence[Point]
    kind: Literal["line", "faint", "dashed", "dots"] = "line"


MARK_NAMES = {
    "resume": "resumed",
    "roll-back": "rolled back to here",
    "stop": "stopped",
    "spike": "loss spike",
    "skip": "step skipped",
    "save": "checkpoint saved",
}


@dataclass(frozen=True)
class Mark:
    """An event at x. Each `kind` of MARK_NAMES has its own shape, so that colour is not needed to tell them apart."""

    x: float
    label: str
    kind: str


@dataclass(frozen=True)
class Chart:
    """What one chart shows. `caption` and `unit` are shown above it, `title` is read by screen readers; `number` formats
    the values under the pointer."""

    id: str
    caption: str
    unit: str
    title: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    x_label: str = "step"
    log_y: bool = False
    from_zero: bool = False
    width: int = 920
    height: int = 340
    number: Callable[[float], str] = exact


@dataclass(frozen=True)
class Drawing:
    """A chart's lines and texts. Coordinates are in the units of the chart, as text with one decimal."""

    chart: Chart
    y_ticks: list[tuple[str, str]]  # y, label
    x_ticks: list[tuple[str, str]]  # x, label
    lines: list[tuple[str, list[tuple[str, str]]]]  # kind, (x, y) of each point
    marks: list[tuple[str, str, str]]  # kind, x, label
    legend: list[tuple[str, str]]  # kind, name
    description: str
    pointer_data: str
    plot_area: tuple[int, int, int, int]  # left, right, top, bottom


@dataclass(frozen=True)
class _Scale:
    """Maps values to the units of the chart, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * share


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most about `limit` points with the same outline: the lowest and the highest of each group of neighbours."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / (limit // 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        ends = {min(group, key=lambda point: point[1]), max(group, key=lambda point: point[1])}
        kept += sorted(ends)
    return [points[0], *(point for point in kept if points[0][0] < point[0] < points[-1][0]), points[-1]]


def smoothed(points: Sequence[Point], radius: int) -> list[Point]:
    """Mean of each point and its neighbours, up to `radius` on each side.

    Near the start the radius is an eighth of the points before, because the loss falls too fast there to be averaged.
    """
    sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
    smooth = []
    for index, (x, _) in enumerate(points):
        reach = min(radius, index // 8)
        first, end = index - reach, min(len(points), index + reach + 1)
        smooth.append((x, (sums[end] - sums[first]) / (end - first)))
    return smooth


def draw(chart: Chart) -> Drawing | None:
    """The chart, ready to be written as SVG; None when no series has a point that can be shown."""
    series = [one for one in (_drawable(series, chart.log_y) for series in chart.series) if one.points]
    if not series:
        return None
    x_scale, y_scale = _scales(chart, series)
    y_ticks = (log_ticks if chart.log_y else linear_ticks)(y_scale.low, y_scale.high)
    x_ticks = linear_ticks(x_scale.low, x_scale.high, wanted=8 if chart.width > 600 else 4)
    return Drawing(
        chart,
        y_ticks=[(f"{y_scale(value):.1f}", short(value)) for value in y_ticks],
        x_ticks=[(f"{x_scale(value):.1f}", short(value)) for value in x_ticks],
        lines=[(one.kind, [(f"{x_scale(x):.1f}", f"{y_scale(y):.1f}") for x, y in one.points]) for one in series],
        marks=_marks(chart.marks, x_scale),
        legend=_legend(chart),
        description=_description(chart, series),
        pointer_data=_pointer_data(chart, series, x_scale, y_scale),
        plot_area=(LEFT, chart.width - RIGHT, TOP, chart.height - BOTTOM),
    )


def draw_all(charts: Iterable[Chart]) -> list[Drawing]:
    """The charts that have something to show."""
    return [drawing for chart in charts if (drawing := draw(chart))]


def _drawable(series: Series, log_y: bool) -> Series:
    points = [(x, y) for x, y in series.points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)]
    return Series(series.name, points if series.kind == "dots" else thin(points), series.kind)


def _scales(chart: Chart, series: Sequence[Series]) -> tuple[_Scale, _Scale]:
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    low, high = min(ys), max(ys)
    if chart.from_zero:
        low = min(0.0, low)
    if not chart.log_y:
        margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        low, high = (low if chart.from_zero and low == 0 else low - margin), high + margin
    x_scale = _Scale(min(xs), max(xs), LEFT, chart.width - RIGHT)
    return x_scale, _Scale(low, high, chart.height - BOTTOM, TOP, chart.log_y)


def _marks(marks: Sequence[Mark], x_scale: _Scale) -> list[tuple[str, str, str]]:
    shown = []
    for kind in MARK_NAMES:
        inside = [mark for mark in marks if mark.kind == kind and x_scale.low <= mark.x <= x_scale.high]
        stride = math.ceil(len(inside) / MAX_MARKS) or 1
        shown += [(kind, f"{x_scale(mark.x):.1f}", mark.label) for mark in inside[::stride]]
    return shown


def _legend(chart: Chart) -> list[tuple[str, str]]:
    """Kind and name of each series and of each kind of mark, once."""
    marked = {mark.kind for mark in chart.marks}
    shown = [(one.kind, one.name) for one in chart.series if one.points]
    return list(dict.fromkeys([*shown, *((kind, name) for kind, name in MARK_NAMES.items() if kind in marked)]))


def _description(chart: Chart, series: Sequence[Series]) -> str:
    """The chart in words, for screen readers."""
    lines = []
    for one in series:
        first, last = (chart.number(one.points[end][1]) for end in (0, -1))
        lines.append(f"{one.name}: from {first} to {last} over {len(one.points)} points")
    counts = {name: sum(mark.kind == kind for mark in chart.marks) for kind, name in MARK_NAMES.items()}
    marked = "; ".join(f"{name}: {count}" for name, count in counts.items() if count)
    return f"{chart.y_label} by {chart.x_label}. {'; '.join(lines)}." + (f" Marks: {marked}." if marked else "")


def _pointer_data(chart: Chart, series: Sequence[Series], x_scale: _Scale, y_scale: _Scale) -> str:
    """What report.js reads: the name of the x axis, and of each series [x, y, label of x, label of y] by point."""
    shown = []
    for one in series:
        points = [[round(x_scale(x), 1), round(y_scale(y), 1), exact(x), chart.number(y)] for x, y in one.points]
        shown.append({"name": one.name, "points": points})
    return json.dumps({"x": chart.x_label, "series": shown}, ensure_ascii=False, separators=(",", ":"))
