"""Line charts as inline SVG: axes with round ticks, a legend, marks for events, values under the pointer.

Colours come from the page's style sheet by class, so a chart suits light and dark. Each chart carries its points in
`data-chart` (JSON), which report.js reads to show values; without scripts the chart is whole all the same.
"""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from tinyllama.report.ticks import exact, linear_ticks, log_ticks, short

Point = tuple[float, float]

MAX_POINTS = 600  # of one line: more cannot be told apart on a screen
MAX_MARKS = 40  # of one kind
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 40  # room around the plot, in the chart's own units


@dataclass(frozen=True)
class Series:
    """Points of one name, by x. `kind` also names its style: a line, a faint line behind, a dashed one, or dots."""

    name: str
    points: Sequence[Point]
    kind: Literal["line", "faint", "dashed", "dots"] = "line"


MARK_NAMES = {
    "resume": "resumed",
    "roll-back": "went back to here",
    "stop": "stopped",
    "spike": "loss spike",
    "skip": "step left out",
    "save": "checkpoint saved",
}


@dataclass(frozen=True)
class Mark:
    """Something that happened at x. `kind`, of MARK_NAMES, has a shape of its own, told apart without colours: lines
    through the plot, a diamond at its top, a cross or a triangle at its foot."""

    x: float
    label: str
    kind: str


@dataclass(frozen=True)
class Chart:
    """What one chart shows. `number` writes the values under the pointer."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    log_y: bool = False
    from_zero: bool = False
    width: int = 920
    height: int = 340
    number: Callable[[float], str] = exact


@dataclass(frozen=True)
class _Scale:
    """Maps values to the chart's units, linearly or by logarithm."""

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
    """At most about `limit` points with the same outline: the lowest and the highest of each run of neighbours."""
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

    Near the start fewer are taken (an eighth of the points before), where a loss falls too fast to be averaged.
    """
    sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
    smooth = []
    for index, (x, _) in enumerate(points):
        reach = min(radius, index // 8)
        first, end = index - reach, min(len(points), index + reach + 1)
        smooth.append((x, (sums[end] - sums[first]) / (end - first)))
    return smooth


def line_chart(chart: Chart, chart_id: str) -> str:
    """The chart as an SVG element; empty when no series has a point that can be shown."""
    series = [_drawable(one, chart.log_y) for one in chart.series]
    series = [one for one in series if one.points]
    if not series:
        return ""
    x_scale, y_scale = _scales(chart, series)
    chart_id = escape(chart_id)
    drawn = [_axes(chart, x_scale, y_scale), _marks(chart.marks, x_scale, chart.height - BOTTOM)]
    drawn += [_series(one, x_scale, y_scale) for one in series]
    return (
        f'<svg class="chart" viewBox="0 0 {chart.width} {chart.height}" role="img" '
        f'aria-labelledby="{chart_id}-title {chart_id}-text" data-chart="{_pointer_data(chart, series, x_scale, y_scale)}">'
        f'<title id="{chart_id}-title">{escape(chart.title)}</title>'
        f'<desc id="{chart_id}-text">{escape(_description(chart, series))}</desc>'
        f"{''.join(drawn)}"
        f'<line class="pointer" y1="{TOP}" y2="{chart.height - BOTTOM}"/></svg>'
    )


def legend(chart: Chart) -> str:
    """Names of the series and of the kinds of marks, as an HTML list; empty for a single series without marks."""
    shown = list(dict.fromkeys((one.kind, one.name) for one in chart.series if one.points))
    kinds = {mark.kind for mark in chart.marks}
    shown += [(kind, name) for kind, name in MARK_NAMES.items() if kind in kinds]
    if len(shown) < 2:
        return ""
    items = "".join(f'<li><i class="key {kind}"></i>{escape(name)}</li>' for kind, name in shown)
    return f'<ul class="legend">{items}</ul>'


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
        room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        low, high = (low if chart.from_zero and low == 0 else low - room), high + room
    x_scale = _Scale(min(xs), max(xs), LEFT, chart.width - RIGHT)
    return x_scale, _Scale(low, high, chart.height - BOTTOM, TOP, chart.log_y)


def _axes(chart: Chart, x_scale: _Scale, y_scale: _Scale) -> str:
    foot, right = chart.height - BOTTOM, chart.width - RIGHT
    parts = []
    for value in (log_ticks if chart.log_y else linear_ticks)(y_scale.low, y_scale.high):
        y = f"{y_scale(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y}" dy="0.32em" text-anchor="end">{short(value)}</text>')
    for value in linear_ticks(x_scale.low, x_scale.high, wanted=8 if chart.width > 600 else 4):
        x = f"{x_scale(value):.1f}"
        parts.append(f'<text class="tick" x="{x}" y="{foot + 17}" text-anchor="middle">{short(value)}</text>')
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{foot}" y2="{foot + 4}"/>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{foot}" y2="{foot}"/>')
    parts.append(
        f'<text class="label" x="{right}" y="{chart.height - 4}" text-anchor="end">{escape(chart.x_label)}</text>'
    )
    return "".join(parts)


def _series(series: Series, x_scale: _Scale, y_scale: _Scale) -> str:
    places = [(f"{x_scale(x):.1f}", f"{y_scale(y):.1f}") for x, y in series.points]
    if series.kind == "dots" or len(places) == 1:
        return "".join(f'<circle class="{series.kind} point" cx="{x}" cy="{y}" r="4"/>' for x, y in places)
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    return f'<path class="{series.kind}" d="{path}"/>'


def _marks(marks: Sequence[Mark], x_scale: _Scale, foot: int) -> str:
    parts = []
    for kind in MARK_NAMES:
        inside = [mark for mark in marks if mark.kind == kind and x_scale.low <= mark.x <= x_scale.high]
        for mark in inside[:: math.ceil(len(inside) / MAX_MARKS) or 1]:
            shape = _mark_shape(kind, f"{x_scale(mark.x):.1f}", foot)
            parts.append(f'<g class="mark {kind}"><title>{escape(mark.label)}</title>{shape}</g>')
    return "".join(parts)


def _mark_shape(kind: str, x: str, foot: int) -> str:
    line = f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{foot}"/>'
    return {
        "resume": line,
        "stop": line,
        "roll-back": f'{line}<path d="M{x} {TOP - 5}l-9 5l9 5z"/>',  # an arrow to the left
        "spike": f'<path d="M{x} {TOP - 7}l6 7l-6 7l-6 -7z"/>',
        "skip": f'<path class="cross" d="M{x} {foot - 6}m-4 -4l8 8m-8 0l8 -8"/>',
        "save": f'<path d="M{x} {foot - 2}l-4.5 -8h9z"/>',
    }[kind]


def _description(chart: Chart, series: Sequence[Series]) -> str:
    """The chart in words, for who does not see it."""
    lines = []
    for one in series:
        first, last = (chart.number(one.points[end][1]) for end in (0, -1))
        lines.append(f"{one.name}: from {first} to {last} over {len(one.points)} points")
    counts = {name: sum(mark.kind == kind for mark in chart.marks) for kind, name in MARK_NAMES.items()}
    marked = "; ".join(f"{name}: {count}" for name, count in counts.items() if count)
    return f"{chart.y_label} by {chart.x_label}. {'; '.join(lines)}." + (f" Marks: {marked}." if marked else "")


def _pointer_data(chart: Chart, series: Sequence[Series], x_scale: _Scale, y_scale: _Scale) -> str:
    """What report.js needs: the axis' name, and for each series its points as [place x, place y, x, y in words]."""
    data = {
        "x": chart.x_label,
        "series": [
            {
                "name": one.name,
                "points": [
                    [round(x_scale(x), 1), round(y_scale(y), 1), exact(x), chart.number(y)] for x, y in one.points
                ],
            }
            for one in series
        ],
    }
    return escape(json.dumps(data, ensure_ascii=False, separators=(",", ":")), quote=True)
