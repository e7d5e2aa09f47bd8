"""List of tasks and groups, read from the files in `tasks/`.

A file in `tasks/` has one entry per task:

    base          lm-eval's own file (under lm_eval/tasks) that gives prompt, answers and hub data set
    config        lm-eval's keys that override it, or a whole task if there is no base
    test, train   files under the data folder: the evaluated examples, and those that few-shot examples are drawn from
    test_rows, train_rows   [first, last + 1] of them, if one file serves as both
    fields        what every row must have; `a.b` is the field b of a
    allowed       by field, its permitted values, where lm-eval would accept any
    n_official    rows of the official set, so that scores of partial sets are labelled as such
    note          a remark that is shown with the score
    group         a template that gives the examples of one group the same value; groups are evaluated whole
    metrics       name: how the score is computed from all examples' values (see task_scores.py); the first is the main one
    scores_no_answer   also ask for the log-probability of "unanswerable" (SQuAD 2.0)
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyllama.errors import InputError, MissingExtraError

FOLDER = Path(__file__).parent / "tasks"
SEVEN = (
    "hellaswag",
    "openbookqa",
    "winogrande",
    "arc_challenge",
    "arc_easy",
    "boolq",
    "piqa",
)  # those of TinyLlama's table
GROUPS: dict[str, tuple[str, ...]] = {
    "glue": ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "mnli_mismatch", "qnli", "rte", "wnli"),
    "superglue": ("boolq", "cb", "copa", "multirc", "record", "sglue_rte", "wic", "wsc", "axb", "axg"),
    "squad": ("squad_v1", "squad_v2"),
    "zero_shot": SEVEN,
}
INSTALL_LINE = "pip install 'tinyllama-pretrain[eval]'"


@dataclass(frozen=True)
class TaskEntry:
    """One task; fields as in its file."""

    name: str
    metrics: dict[str, str]
    fields: list[str]
    n_official: int
    test: list[str]
    base: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    train: list[str] = field(default_factory=list)
    test_rows: tuple[int, int] | None = None
    train_rows: tuple[int, int] | None = None
    group: str | None = None
    allowed: dict[str, list[Any]] = field(default_factory=dict)
    note: str | None = None
    scores_no_answer: bool = False

    @property
    def main_metric(self) -> str:
        """The metric that averages and plots use."""
        return next(iter(self.metrics))


def need_lm_eval() -> None:
    """Raise MissingExtraError, with the command that installs it, if lm-eval is missing."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"lm-eval is not installed; tasks need it: {INSTALL_LINE}") from None


def all_tasks() -> dict[str, TaskEntry]:
    """Every task by name. Raises MissingExtraError without lm-eval."""
    need_lm_eval()
    from lm_eval.tasks._yaml_loader import load_yaml

    entries: dict[str, TaskEntry] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for name, values in load_yaml(path).items():
            lists = {key: _as_list(values.get(key)) for key in ("test", "train")}
            rows = {key: tuple(values[key]) for key in ("test_rows", "train_rows") if key in values}
            entries[name] = TaskEntry(name, **(values | lists | rows))
    return entries


def choose_tasks(names: Sequence[str]) -> list[TaskEntry]:
    """The tasks of names and groups, in order, each once; `all` is all of them.

    Raises InputError with the nearest name for an unknown one.
    """
    entries = all_tasks()
    chosen: dict[str, TaskEntry] = {}
    for name in names:
        if name not in entries and name not in GROUPS and name != "all":
            near = difflib.get_close_matches(name, [*entries, *GROUPS, "all"], n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"groups are {', '.join(GROUPS)}; or all"
            raise InputError(f"--tasks {name}: no such task; {hint}")
        for task in entries if name == "all" else GROUPS.get(name, (name,)):
            chosen[task] = entries[task]
    if not chosen:
        raise InputError(f"--tasks: name at least one task or group; groups are {', '.join(GROUPS)}; or all")
    return list(chosen.values())


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def averages(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of the seven zero-shot tasks' main metrics, and of the six without BoolQ, with standard errors.

    {} unless all seven are there. Tasks are independent samples: the error is the root of the sum of squares, divided by
    their number.
    """
    if not all(name in found for name in SEVEN):
        return {}
    result: dict[str, dict[str, float]] = {}
    for title, names in (("zero_shot", SEVEN), ("zero_shot_without_boolq", [n for n in SEVEN if n != "boolq"])):
        main = {name: next(iter(found[name]["kinds"])) for name in names}
        values = [found[name]["metrics"][metric] for name, metric in main.items()]
        errors = [found[name]["metrics"][f"{metric}_stderr"] or 0.0 for name, metric in main.items()]
        result[title] = {
            "value": sum(values) / len(values),
            "stderr": math.sqrt(sum(error**2 for error in errors)) / len(values),
        }
    return result
