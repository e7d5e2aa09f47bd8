"""The average that small models are known by: of the seven zero-shot tasks, with its error."""

import math
from typing import Any

from tinyllama.harness.task_list import SEVEN


def averages(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of the seven tasks' main metrics, and of the six without BoolQ, with standard errors; {} unless all are there.

    Tasks are independent samples: the error is the root of the summed squares over their number.
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
