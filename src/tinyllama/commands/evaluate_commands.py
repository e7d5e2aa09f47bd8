"""The commands that evaluate a model: `evaluate` and `scorecard`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyllama.commands.options import Dtype, Json, print_json, show
from tinyllama.errors import InputError

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder with one folder per task; nothing is downloaded. Default: the Hugging Face hub."
    ),
]


AnyModel = Annotated[
    Path | None,
    typer.Argument(metavar="MODEL", help="A run folder, a checkpoint, a Hugging Face folder, or a GGUF file."),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        help="Tasks and groups, separated by commas: zero_shot, glue, superglue, squad, lambada, arc_easy ...; all."
    ),
]
Limit = Annotated[int | None, typer.Option(help="Number of examples per task, evenly spaced; default: all.", min=1)]
Shots = Annotated[int, typer.Option(help="Number of solved examples before each question.", min=0)]
Pair = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="A B", help="Compare two MODELs, or two folders with results."),
]
Results = Annotated[
    Path | None, typer.Option(help="Folder for results; default: in the run folder, else evaluations/MODEL.")
]
Format = Annotated[Dtype, typer.Option(help="Number format; auto: bf16 on a GPU, else fp32.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
BatchTokens = Annotated[
    int | None, typer.Option(help="Tokens per batch; default: 2,048 on a CPU, 65,536 on a GPU.", min=1)
]
Compiled = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the layers, which takes half a minute; default: on a GPU, if there is enough to compute.",
        show_default=False,
    ),
]
Context = Annotated[int | None, typer.Option(help="Context in tokens, at most the network's.", min=2)]


def evaluate(
    model: AnyModel = None,
    tasks: Tasks = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    num_fewshot: Shots = 0,
    compare: Pair = None,
    out: Results = None,
    dtype: Format = "auto",
    device: Device = "auto",
    tokens_per_batch: BatchTokens = None,
    max_tokens: Context = None,
    compiled: Compiled = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on standard tasks; without --tasks, on a run's own held-out documents.

    Results are written when each task ends; the same command resumes after an interruption. --compare shows the paired
    difference of two models on the same examples, with its 95% interval.

    Example: tinyllama evaluate runs/mine --tasks zero_shot,lambada --data-dir eval --limit 200

    Example: tinyllama evaluate --compare runs/a runs/b
    """
    from tinyllama.harness.task_list import need_lm_eval

    names = [word for word in (tasks or "").split(",") if word]
    asked: dict[str, Any] = {"data_dir": data_dir, "limit": limit, "num_fewshot": num_fewshot}
    asked |= {"tokens_per_batch": tokens_per_batch, "max_tokens": max_tokens, "compiled": compiled}
    if compare is not None:
        if model is not None:
            raise InputError(f"{model}: with --compare, give the two models only there")
        if names:
            need_lm_eval()
            _check_data_dir(data_dir)
            for each in compare:
                _run_tasks(each, names, asked, None, dtype, device)
        _compare(*compare, as_json)
        return
    if model is None:
        raise InputError("MODEL: give a model to evaluate, or --compare A B")
    if tasks is not None:
        need_lm_eval()
        _check_data_dir(data_dir)
        found = _run_tasks(model, names, asked, out, dtype, device)
        _write_card(model, Path(found["results"]))
        print_json(found) if as_json else typer.echo(_task_lines(found))
        return
    from tinyllama.evaluation.run_evaluation import evaluate_run
    from tinyllama.recipe import load_recipe

    recipe_path = model / "recipe.toml"
    recipe = load_recipe(str(recipe_path) if recipe_path.exists() else None)
    show(evaluate_run(model, recipe.evaluate), as_json)


def scorecard(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="MODELs that were evaluated, or folders with results.")
    ],
    as_json: Json = False,
) -> None:
    """Show scores next to published ones of the same task, metric and number of shots.

    Example: tinyllama scorecard runs/mine
    """
    from tinyllama.harness.scorecard import card, render

    found = card({str(path): _results_of(path) for path in models})
    print_json(found) if as_json else typer.echo(render(found))


def _check_data_dir(data_dir: Path | None) -> None:
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir}: no such folder")


def _run_tasks(
    model: Path, names: list[str], asked: dict[str, Any], out: Path | None, dtype: str, device: str
) -> dict[str, Any]:
    from tinyllama.exchange.open_model import open_model
    from tinyllama.generate.decode import number_format
    from tinyllama.harness.run_tasks import TaskSettings, evaluate_tasks
    from tinyllama.harness.task_list import choose_tasks

    choose_tasks(names)  # refuse a misspelt name before a large model is loaded
    opened = open_model(model, device, number_format(dtype))
    return evaluate_tasks(opened, names, TaskSettings(**asked), out or _default_results(model))


def _default_results(model: Path) -> Path:
    """The results folder of a MODEL; of a run, that of its newest checkpoint."""
    from tinyllama.harness.task_results import results_folder

    if (model / "checkpoints").is_dir():
        from tinyllama.exchange.open_model import model_folder

        return results_folder(model, model_folder(model).name)
    return results_folder(model)


def _results_of(path: Path) -> Path:
    """The results folder of a MODEL, or the path itself if it is a results folder."""
    from tinyllama.harness.task_results import SCORES

    is_model = (path / "checkpoints").is_dir() or (path / "config.json").is_file() or path.is_file()
    if not is_model and path.is_dir() and any(path.glob(f"*{SCORES}")):
        return path
    found = _default_results(path)
    if not found.is_dir():
        raise InputError(f"{path}: it has no results; run: tinyllama evaluate {path} --tasks zero_shot --data-dir D")
    return found


def _compare(a: Path, b: Path, as_json: bool) -> None:
    from tinyllama.harness import compare

    found = compare.compare(_results_of(a), _results_of(b))
    print_json(found) if as_json else typer.echo(compare.table(found))


def _write_card(model: Path, results: Path) -> None:
    """Write the scorecard into a run folder, for the report."""
    if (model / "checkpoints").is_dir():
        from tinyllama.harness.scorecard import write_run_card

        write_run_card(model, results)


def _task_lines(found: dict[str, Any]) -> str:
    lines = []
    for name, scores in found["tasks"].items():
        metrics = [key for key in scores if f"{key}_stderr" in scores]
        shown = [
            f"{metric} {scores[metric]:.4g}"
            + (f" ± {error:.2g}" if (error := scores[f"{metric}_stderr"]) is not None else "")
            for metric in metrics
        ]
        total = "" if scores["n"] == scores["n_official"] else f" of {scores['n_official']:,}"
        note = f" ({scores['note']})" if "note" in scores else ""
        lines.append(f"{name:<16}{', '.join(shown)}; {scores['n']:,}{total} examples{note}")
    for name, average in found["averages"].items():
        lines.append(f"{name:<16}average {average['value']:.4f} ± {average['stderr']:.4f}")
    lines += [f"{name:<16}skipped: {reason}" for name, reason in found["left_out"].items()]
    return "\n".join([*lines, f"results: {found['results']}"])
