"""Results folders made by hand, for tests of what reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyllama.harness.task_results import write_result


def write_scores(
    folder: Path, name: str, kinds: dict[str, str], metrics: Mapping[str, float | None], **about: Any
) -> None:
    """A task's result; `about`: other fields, and `examples`: (hash, values by metric[, group]) of each."""
    examples = about.pop("examples", [])
    scores = {
        "task": name.split("-")[0], "metrics": metrics, "kinds": kinds, "n": 100, "n_official": 100, "n_truncated": 0,
        "num_fewshot": 0, "note": None, "seconds": 1.0, "model": {"tokens": None, "step": None}, "fingerprint": "f",
    }  # fmt: skip
    rows = [
        {"doc_sha256": key, "values": values} | ({"group": group[0]} if group else {})
        for key, values, *group in examples
    ]
    write_result(folder, name, scores | about, rows)
