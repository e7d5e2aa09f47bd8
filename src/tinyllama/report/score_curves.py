"""Scores of standard tasks against training tokens, next to the published scores of TinyLlama and Pythia."""

import math
from typing import Any

from tinyllama.report.plots import Chart, Point, Series, draw_all
from tinyllama.report.run_facts import RunFacts, number, table, tables
from tinyllama.report.templates import shortened
from tinyllama.report.ticks import exact, percent

MAX_TASKS = 12
MAX_ROWS = 80


def score_curves(facts: RunFacts) -> dict[str, Any]:
    """A chart for each task of this run, with published models, and all scores with their errors; empty without any."""
    published = tables(facts.scorecard.get("published_curve"))
    charts = []
    for (task, metric), points in list(_own_points(facts).items())[:MAX_TASKS]:
        by_model: dict[str, list[Point]] = {}
        for row in published:
            if (row.get("task"), row.get("metric")) == (task, metric) and (point := _point(row)) is not None:
                by_model.setdefault(str(row.get("model")).split()[0], []).append(point)
        series = [Series("this run", points, "dots"), *(Series(name, sorted(p)) for name, p in by_model.items())]
        charts.append(Chart(
            f"score-{task}", shortened(task, 40), shortened(metric, 40), f"{task}, {metric}", metric, series,
            x_label="training tokens, power of ten", width=440, height=240, number=percent,
        ))  # fmt: skip
    found = {"charts": draw_all(charts), "rows": _rows(facts)}
    return found if any(found.values()) else {}


def _own_points(facts: RunFacts) -> dict[tuple[str, str], list[Point]]:
    """The main metric of each task by tokens: of evaluated checkpoints, and of tasks measured in training."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for row in tables(facts.scorecard.get("checkpoints")):
        if (point := _point(row)) is not None:
            found.setdefault((str(row.get("task")), str(row.get("metric"))), {})[point[0]] = point[1]
    for row in facts.metrics:
        for task, scores in table(row.get("tasks")).items():
            metric = next(iter(table(scores)), "")
            tokens, value = number(row.get("tokens")), number(table(scores).get(metric))
            if metric and tokens and value is not None:
                found.setdefault((task, metric), {}).setdefault(math.log10(tokens), value)
    return {key: sorted(points.items()) for key, points in found.items()}


def _point(row: dict[str, Any]) -> Point | None:
    tokens, value = number(row.get("tokens")), number(row.get("value"))
    return (math.log10(tokens), value) if tokens and tokens > 0 and value is not None else None


def _rows(facts: RunFacts) -> list[tuple[Any, Any, str, str]]:
    """Task, metric, score with its standard error, and number of examples."""
    found = []
    for row in tables(facts.scorecard.get("rows"))[:MAX_ROWS]:
        for cell in tables(list(table(row.get("ours")).values())):
            value, error, n, of = (number(cell.get(key)) for key in ("value", "stderr", "n", "n_official"))
            if value is None or n is None or of is None:
                continue
            score = f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.4g}"
            count = exact(n) if n == of else f"{exact(n)} of {exact(of)}"
            found.append((row.get("task"), row.get("metric"), score, count))
    return found
