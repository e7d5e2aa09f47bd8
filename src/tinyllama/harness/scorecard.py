"""Table of model scores next to published ones in the same setting; published scores in other settings follow below."""

from pathlib import Path
from typing import Any

from tinyllama import files
from tinyllama.harness.references import LM_EVAL, REFERENCES, SEVEN_METRICS, Reference
from tinyllama.harness.task_results import RUN_FOLDER, read_scores

RUN_CARD = "scorecard.json"  # in a run folder; the report shows it
Row = dict[str, Any]


def card(folders: dict[str, Path]) -> dict[str, Any]:
    """The scores in results folders, given by model name.

    Returns `rows`, one per (task, metric, shots): `ours` (by model: `value`, `stderr`, `n`, `n_official`, `note`),
    `published` (comparable ones, by model) and `other_settings`; `averages` of the seven zero-shot tasks by model,
    including published ones; and `sources`. Raises InputError for a folder without results.
    """
    ours: dict[tuple[str, str, int], dict[str, Any]] = {}
    by_model: dict[str, dict[str, dict[str, Any]]] = {}
    for model, folder in folders.items():
        for scores in _most_examples(read_scores(folder)):
            if scores["num_fewshot"] == 0:
                by_model.setdefault(model, {})[scores["task"]] = scores
            for metric in scores["kinds"]:
                cell = {"value": scores["metrics"][metric], "stderr": scores["metrics"][f"{metric}_stderr"]}
                cell |= {name: scores[name] for name in ("n", "n_official", "note")}
                ours.setdefault((scores["task"], metric, scores["num_fewshot"]), {})[model] = cell
    rows = [_row(key, cells) for key, cells in ours.items()]
    used = {name for row in rows for name in (*row["published"], *row["other_settings"])}
    return {
        "models": list(folders),
        "rows": rows,
        "averages": _averages(by_model),
        "sources": [_source(r) for r in REFERENCES if used & {r.model, r.title}],
    }


def _most_examples(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The result on the most examples, for each task and number of shots."""
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for scores in results.values():
        key = (scores["task"], scores["num_fewshot"])
        if key not in best or scores["n"] > best[key]["n"]:
            best[key] = scores
    return list(best.values())


def _row(key: tuple[str, str, int], cells: dict[str, Any]) -> Row:
    task, metric, shots = key
    found = [r for r in REFERENCES if (task, metric) in r.scores]
    return {
        "task": task,
        "metric": metric,
        "shots": shots,
        "ours": cells,
        "published": {r.model: r.scores[task, metric] for r in found if r.is_like_ours and r.shots == shots},
        "other_settings": {
            r.title: {"value": r.scores[task, metric], "setting": r.setting, "shots": r.shots}
            for r in found
            if not (r.is_like_ours and r.shots == shots)
        },
    }


def _averages(by_model: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Averages of the seven zero-shot tasks, with errors where known and the number of training tokens."""
    from tinyllama.harness.task_list import averages

    found: dict[str, dict[str, Any]] = {}
    for model, scores in by_model.items():
        if average := averages(scores):
            about = next(iter(scores.values()))["model"]
            found[model] = {**average, "tokens": about.get("tokens"), "is_ours": True}
    for reference in REFERENCES:
        if reference.setting == LM_EVAL and reference.shots == 0 and set(SEVEN_METRICS) <= reference.scores.keys():
            values = {task: reference.scores[task, metric] for task, metric in SEVEN_METRICS}
            six = [value for task, value in values.items() if task != "boolq"]
            found[reference.model] = {
                "zero_shot": {"value": sum(values.values()) / len(values), "stderr": None},
                "zero_shot_without_boolq": {"value": sum(six) / len(six), "stderr": None},
                "tokens": reference.tokens,
                "is_ours": False,
            }
    return found


def _source(reference: Reference) -> dict[str, Any]:
    return {name: getattr(reference, name) for name in ("model", "setting", "shots", "source", "tokens")}


def write_run_card(run_dir: Path, results: Path) -> None:
    """Write a run's card and the scores of its evaluated checkpoints into the run folder, for the report."""
    found = card({run_dir.name: results})
    checkpoints = []
    for folder in sorted(path for path in (run_dir / RUN_FOLDER).glob("*") if path.is_dir()):
        for scores in _most_examples(read_scores(folder)):
            if scores["num_fewshot"] == 0:
                metric = next(iter(scores["kinds"]))
                values = {"value": scores["metrics"][metric], "stderr": scores["metrics"][f"{metric}_stderr"]}
                about = {"tokens": scores["model"]["tokens"], "step": scores["model"]["step"], "n": scores["n"]}
                checkpoints.append({"task": scores["task"], "metric": metric} | values | about)
    curve = [
        {"model": r.model, "tokens": r.tokens, "task": task, "metric": metric, "value": value}
        for r in REFERENCES
        if r.setting == LM_EVAL and r.shots == 0 and r.tokens
        for (task, metric), value in r.scores.items()
    ]
    files.write_json(run_dir / RUN_CARD, found | {"checkpoints": checkpoints, "published_curve": curve})


# -- as text -----------------------------------------------------------------------------------------------------------


def render(found: dict[str, Any]) -> str:
    """The card as text: scores in percent (perplexities and bits as they are), scores in other settings, sources."""
    models = found["models"]
    comparable = {name for row in found["rows"] for name in row["published"]}
    published = list(dict.fromkeys(r.model for r in REFERENCES if r.model in comparable))
    width = max([14, *(len(name) + 2 for name in models)])
    heads = {name: name.replace("TinyLlama", "TL") for name in published}
    lines = [f"{'task':<15}{'metric':<17}{'shots':>5} " + "".join(f"{_shortened(name):>{width}}" for name in models)]
    lines[0] += "".join(f"{head:>{len(head) + 2}}" for head in heads.values())
    for row in found["rows"]:
        cells = "".join(f"{_cell(row['ours'].get(name), row['metric']):>{width}}" for name in models)
        published_cells = "".join(
            f"{_number(row['published'].get(name), row['metric']):>{len(head) + 2}}" for name, head in heads.items()
        )
        lines.append(f"{row['task']:<15}{row['metric']:<17}{row['shots']:>5} {cells}{published_cells}")
    lines += ["", *_average_lines(found["averages"])]
    remarks = [
        f"{row['task']}: {cell['n']:,} of {cell['n_official']:,} examples"
        + (f", {cell['note']}" if cell["note"] else "")
        for row in found["rows"]
        for cell in row["ours"].values()
        if cell["n"] != cell["n_official"] or cell["note"]
    ]
    lines += ["", *dict.fromkeys(remarks)]
    others = [
        f"{row['task']} {row['metric']}: {name} {_number(cell['value'], row['metric'])} ({cell['setting']})"
        for row in found["rows"]
        for name, cell in row["other_settings"].items()
    ]
    if others:
        lines += ["", "Published in other settings, not comparable with the table:", *others]
    sources: dict[str, dict[str, None]] = {}  # models by source
    for source in found["sources"]:
        sources.setdefault(source["source"], {})[source["model"]] = None
    lines += ["", "Sources:", *(f"{', '.join(names)}: {source}" for source, names in sources.items())]
    return "\n".join(lines)


def _average_lines(averages: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, row in averages.items():
        shown = [
            f"{row[key]['value']:.2%}" + _error(row[key]["stderr"]) for key in ("zero_shot", "zero_shot_without_boolq")
        ]
        lines.append(f"{name:<24}average of the seven {shown[0]}, without BoolQ {shown[1]}")
    return lines


def _error(stderr: float | None) -> str:
    return "" if stderr is None else f" ± {stderr * 100:.2f}"


def _cell(cell: dict[str, Any] | None, metric: str) -> str:
    if cell is None:
        return ""
    value = _number(cell["value"], metric)
    if cell["stderr"] is None:
        return value
    return f"{value} ± {cell['stderr'] * (1 if _is_plain(metric) else 100):.2g}"


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if _is_plain(metric) else f"{value * 100:.2f}"


def _is_plain(metric: str) -> bool:
    return "perplexity" in metric or metric == "bits_per_byte"


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else "…" + name[-23:]
