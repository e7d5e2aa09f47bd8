"""Compares two models task by task on the examples that both answered."""

from pathlib import Path
from typing import Any

from tinyllama.errors import InputError
from tinyllama.harness.task_results import groups_of, read_examples, read_scores
from tinyllama.harness.task_scores import HIGHER_IS_BETTER, Difference, difference


def compare(folder_a: Path, folder_b: Path) -> dict[str, Any]:
    """B minus A for every metric of every task that both results folders have in the same setting.

    Returns `tasks`: by result name, by metric: `a`, `b`, `difference`, `low` and `high` (95% interval of the difference),
    `n`, `verdict`, and for metrics that are means `wins`, `losses`, `sign_p`; and `only_in` (results of one side only).
    Raises InputError when there is nothing to compare.
    """
    a, b = read_scores(folder_a), read_scores(folder_b)
    both = [name for name in a if name in b]
    if not both:
        raise InputError(f"{folder_a} and {folder_b} have no task in common; they have {_names(a)} and {_names(b)}")
    tasks = {name: _of_task(name, folder_a, folder_b, a[name], b[name]) for name in both}
    only = {str(folder_a): sorted(a.keys() - b.keys()), str(folder_b): sorted(b.keys() - a.keys())}
    return {"a": str(folder_a), "b": str(folder_b), "tasks": tasks, "only_in": only}


def _of_task(
    name: str, folder_a: Path, folder_b: Path, a: dict[str, Any], b: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    rows_a = {row["doc_sha256"]: row for row in read_examples(folder_a, name)}
    rows_b = {row["doc_sha256"]: row for row in read_examples(folder_b, name)}
    shared = [key for key in rows_a if key in rows_b]
    if len(shared) < 2:
        raise InputError(f"{folder_a / name} and {folder_b / name}: {len(shared)} examples in common; two are needed")
    groups = groups_of([rows_a[key] for key in shared])
    found: dict[str, dict[str, Any]] = {}
    for metric, kind in a["kinds"].items():
        values = [[rows[key]["values"][metric] for key in shared] for rows in (rows_a, rows_b)]
        try:
            gap = difference(kind, values[0], values[1], groups)
        except ValueError:  # a metric of fewer than two of these examples
            continue
        found[metric] = {
            "a": a["metrics"][metric],
            "b": b["metrics"][metric],
            "difference": gap.value,
            "low": gap.low,
            "high": gap.high,
            "n": gap.n,
            "verdict": verdict(gap, HIGHER_IS_BETTER[kind]),
        }
        if gap.wins is not None:
            found[metric] |= {"wins": gap.wins, "losses": gap.losses, "sign_p": gap.sign_p}
    return found


def verdict(gap: Difference, higher_is_better: bool) -> str:
    """In words: which model is better, if the interval does not contain 0."""
    if not gap.is_shown:
        return "no difference shown"
    return "B is better" if (gap.value > 0) == higher_is_better else "A is better"


def table(found: dict[str, Any]) -> str:
    """The comparison as text, one line per metric."""
    lines = [f"A: {found['a']}", f"B: {found['b']}", ""]
    lines.append(f"{'task':<24}{'metric':<20}{'A':>9}{'B':>9}{'B - A':>9}  {'95% interval':<20}{'n':>7}  verdict")
    for name, metrics in found["tasks"].items():
        for metric, row in metrics.items():
            interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
            numbers = f"{row['a']:>9.4g}{row['b']:>9.4g}{row['difference']:>+9.4f}  {interval:<20}{row['n']:>7,}"
            split = f" ({row['wins']} won, {row['losses']} lost, p {row['sign_p']:.2g})" if "wins" in row else ""
            lines.append(f"{name:<24}{metric:<20}{numbers}  {row['verdict']}{split}")
    n_intervals = sum(len(metrics) for metrics in found["tasks"].values())
    lines.append(f"\n{n_intervals} intervals of 95%: for equal models, one in twenty does not contain 0 by chance.")
    lines += [f"only in {folder}: {', '.join(names)}" for folder, names in found["only_in"].items() if names]
    return "\n".join(lines)


def _names(scores: dict[str, Any]) -> str:
    return ", ".join(sorted(scores)[:12])
