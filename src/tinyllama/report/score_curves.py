"""Scores of standard tasks against training tokens, beside those that TinyLlama and Pythia published of theirs."""

import math
from typing import Any

from tinyllama.report.plots import Chart, Point, Series
from tinyllama.report.run_facts import RunFacts, number, table
from tinyllama.report.run_sections import figure, section, text
from tinyllama.report.ticks import exact, percent

MAX_TASKS = 12
MAX_ROWS = 80


def score_curves(facts: RunFacts) -> str:
    """A chart a task that this run and published models share, and the table of all scores with their errors."""
    rows = [table(row) for row in _list(facts.scorecard.get("rows"))]
    published = [table(row) for row in _list(facts.scorecard.get("published_curve"))]
    ours = _own_points(facts)
    charts = []
    for (task, metric), points in list(ours.items())[:MAX_TASKS]:
        by_model: dict[str, list[Point]] = {}
        for row in published:
            if (row.get("task"), row.get("metric")) == (task, metric) and (point := _point(row)) is not None:
                by_model.setdefault(str(row.get("model")).split()[0], []).append(point)
        series = [Series("this run", points, "dots"), *(Series(name, sorted(p)) for name, p in by_model.items())]
        chart = Chart(
            f"{task}, {metric}", "training tokens, power of ten", metric, series, width=440, height=240, number=percent
        )
        charts.append(figure(chart, f"score-{task}", text(task, 40), text(metric, 40)))
    drawn = f'<div class="small-charts">{"".join(charts)}</div>' if any(charts) else ""
    lead = "Dots are this run’s checkpoints; lines are published scores in the same metric, zero-shot." if drawn else ""
    return section("Standard tasks", drawn + _table(rows), lead)


def _own_points(facts: RunFacts) -> dict[tuple[str, str], list[Point]]:
    """Of each task, its main metric by tokens: from evaluated checkpoints, and from tasks measured in training."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for row in (table(row) for row in _list(facts.scorecard.get("checkpoints"))):
        if (point := _point(row)) is not None:
            found.setdefault((str(row.get("task")), str(row.get("metric"))), {})[point[0]] = point[1]
    for row in facts.metrics:
        for task, scores in table(row.get("tasks")).items():
            metric = next(iter(table(scores)), "")
            tokens, value = number(row.get("tokens")), number(table(scores).get(metric))
            if metric and tokens and value is not None:
                found.setdefault((task, metric), {}).setdefault(math.log10(tokens), value)
    return {key: sorted(points.items()) for key, points in found.items()}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _point(row: dict[str, Any]) -> Point | None:
    tokens, value = number(row.get("tokens")), number(row.get("value"))
    return (math.log10(tokens), value) if tokens and tokens > 0 and value is not None else None


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows[:MAX_ROWS]:
        for cell in table(row.get("ours")).values():
            cell = table(cell)
            value, error = number(cell.get("value")), number(cell.get("stderr"))
            n, of = number(cell.get("n")), number(cell.get("n_official"))
            if value is None or n is None or of is None:
                continue
            count = exact(n) if n == of else f"{exact(n)} of {exact(of)}"
            spread = "" if error is None else f" ± {error:.4g}"
            lines.append(
                f"<tr><td>{text(row.get('task'), 40)}</td><td>{text(row.get('metric'), 40)}</td>"
                f"<td>{value:.4g}{spread}</td><td>{count}</td></tr>"
            )
    if not lines:
        return ""
    head = "<tr><th>task</th><th>metric</th><th>score, standard error</th><th>examples</th></tr>"
    return (
        f'<div class="wide"><table class="numbers"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
