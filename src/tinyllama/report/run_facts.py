"""Reads a run folder into one record. A missing file leaves its field empty.

Texts and names come from the web and from a model: the page has to escape them. Numbers pass through `number`, which
gives None for a null, a NaN or a text.
"""

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyllama import files
from tinyllama.errors import InputError

# Each phase and the manifest of its result, in the order in which they run.
MANIFESTS = {
    "crawl": "crawl/manifest.json",
    "documents": "documents/manifest.json",
    "clean": "clean/manifest.json",
    "tokenizer": "tokenizer/manifest.json",
    "shards": "shards/manifest.json",
    "pretrain": "checkpoints/manifest.json",
    "evaluate": "evaluation.manifest.json",
    "generate": "samples.manifest.json",
    "export": "model/manifest.json",
}
OTHER_FILES = (
    "recipe.toml", "clean/funnel.json", "metrics.jsonl", "events.jsonl", "evaluation.json", "samples.json", "scorecard.json",
)  # fmt: skip


@dataclass(frozen=True)
class FunnelStep:
    """One step of cleaning: documents before and after, bytes of text after, and how many each reason dropped."""

    name: str
    documents_in: int
    documents_out: int
    bytes_out: int | None = None
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """Everything that the report shows. `metrics` has one row per step, in the order of steps; `document_groups` has the
    counts of cleaning (in, out, bytes_out) of each domain, language and licence."""

    name: str
    recipe_text: str
    recipe: dict[str, Any]
    manifests: dict[str, dict[str, Any]]
    funnel: tuple[FunnelStep, ...]
    document_groups: dict[str, dict[str, Any]]
    metrics: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...]
    evaluation: dict[str, Any]
    samples: tuple[dict[str, Any], ...]
    scorecard: dict[str, Any]

    def summary(self, phase: str) -> dict[str, Any]:
        """The summary of a finished phase; empty when it has not finished."""
        return table(self.manifests.get(phase, {}).get("summary"))

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Seconds of each finished phase, in the order in which they run."""
        seconds = {phase: number(self.summary(phase).get("seconds")) for phase in MANIFESTS}
        if seconds["clean"] is not None:
            del seconds["documents"]  # cleaning's seconds include them
        return {phase: value for phase, value in seconds.items() if value is not None and value >= 0}

    @property
    def validation(self) -> dict[str, Any]:
        """The latest validation metrics: of `evaluate`, else of the end of training, else the last in metrics.jsonl."""
        for found in (self.evaluation.get("validation"), self.summary("pretrain").get("validation")):
            if table(found):
                return table(found)
        measured = [table(row.get("validation")) for row in self.metrics if table(row.get("validation"))]
        return measured[-1] if measured else {}

    @property
    def unigram_perplexity(self) -> float | None:
        """Perplexity of the unigram model on the same validation tokens."""
        return first_number(*(found.get("unigram_perplexity") for found in (self.evaluation, self.summary("pretrain"))))

    @property
    def model_values(self) -> dict[str, Any]:
        """The model's sizes: as the finished training recorded them, else as in the recipe."""
        trained = table(self.manifests.get("pretrain", {}).get("config"))
        return table(trained.get("model")) or table(self.recipe.get("model"))

    @property
    def last_word(self) -> dict[str, Any]:
        """Last-word accuracy on held-out passages: accuracy, accuracy_stderr, n, examples."""
        return table(table(self.evaluation.get("tasks")).get("last_word"))

    @property
    def parameters(self) -> float | None:
        """Number of parameters, as the first of these phases recorded it."""
        return first_number(*(self.summary(phase).get("parameters") for phase in ("pretrain", "evaluate", "export")))


def number(value: Any) -> float | int | None:
    """`value` when it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer that no float can hold
        return None


def first_number(*values: Any) -> float | int | None:
    """The first of the values that is a finite number."""
    return next((found for value in values if (found := number(value)) is not None), None)


def table(value: Any) -> dict[str, Any]:
    """`value` when it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def tables(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in `value` when it is a list, else none."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def counts(value: Any) -> dict[str, int]:
    """The positive counts of a JSON object (reason: count), by decreasing count, then by name."""
    found = {name: int(count) for name, raw in table(value).items() if (count := number(raw)) and count >= 1}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def read_run(run_dir: Path) -> RunFacts:
    """Read a run folder. Raises InputError when it is not one, or when one of its files is damaged."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such folder; give a run folder")
    if not any((run_dir / name).is_file() for name in (*MANIFESTS.values(), *OTHER_FILES)):
        raise InputError(f"{run_dir}: not a run folder: it has no recipe.toml, manifest or metrics.jsonl")
    recipe_text, recipe = _recipe(run_dir / "recipe.toml")
    funnel = _json_table(run_dir / "clean/funnel.json")
    return RunFacts(
        name=run_dir.resolve().name,
        recipe_text=recipe_text,
        recipe=recipe,
        manifests={phase: found for phase, name in MANIFESTS.items() if (found := _json_table(run_dir / name))},
        funnel=_funnel(funnel),
        document_groups={name: table(funnel.get(name)) for name in ("domain", "language", "licence")},
        metrics=_metrics(run_dir / "metrics.jsonl"),
        events=tuple(_rows(run_dir / "events.jsonl")),
        evaluation=_json_table(run_dir / "evaluation.json"),
        samples=tuple(tables(_json_table(run_dir / "samples.json").get("samples"))),
        scorecard=_json_table(run_dir / "scorecard.json"),
    )


def _json_table(path: Path) -> dict[str, Any]:
    return table(files.read_json(path)) if path.is_file() else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return tables(files.read_jsonl(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); remove it or restore it") from None


def _recipe(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except ValueError as error:  # covers UnicodeDecodeError and TOMLDecodeError
        raise InputError(f"{path}: not valid TOML ({error})") from None


def _metrics(path: Path) -> tuple[dict[str, Any], ...]:
    """One row per step: a resumed run repeats the steps after its checkpoint, and the later row counts."""
    by_step = {int(step): row for row in _rows(path) if (step := number(row.get("step"))) is not None}
    return tuple(by_step[step] for step in sorted(by_step))


def _funnel(value: dict[str, Any]) -> tuple[FunnelStep, ...]:
    """The steps of funnel.json."""
    steps = []
    for row in tables(value.get("steps")):
        before, after = number(row.get("documents_in")), number(row.get("documents_out"))
        if before is None or after is None:
            continue
        name, size, dropped = str(row.get("step", "")), number(row.get("bytes_out")), counts(row.get("dropped"))
        steps.append(FunnelStep(name, int(before), int(after), None if size is None else int(size), dropped))
    return tuple(steps)
