"""The command `drill`."""

from pathlib import Path
from typing import Annotated

import typer

from tinyllama.commands.options import Json, Overrides, RecipeName, RunDir, plain_value, print_json
from tinyllama.errors import RecipeError


def drill(
    recipe: RecipeName,
    overrides: Overrides = None,
    kills: Annotated[int, typer.Option("--kills", help="Number of SIGKILLs, over one or several runs.", min=1)] = 10,
    run_dir: RunDir = None,
    world_sizes: Annotated[
        str, typer.Option("--world-sizes", help="Numbers of ranks, such as 1,2,4; each start uses one of them.")
    ] = "1",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the times and ranks of the kills.")] = 0,
    as_json: Json = False,
) -> None:
    """Train with random kills and resumes, and compare the result with an undisturbed run.

    The kills are spread over forward pass, reduction, save, commit and validation, and hit one rank or all of them. Every
    loss, the validation metrics and the final weights must be bit-for-bit equal. Reads RUN/shards and RUN/tokenizer, works
    in RUN/drill and writes drill.json and drill.md there. Exit code 1 when anything differs.

    Example: tinyllama drill quickstart --run-dir runs/quickstart --kills 20 train.steps=60 train.save_every_steps=5
    """
    from tinyllama.drill.kill_drill import Drill, run_drill
    from tinyllama.drill.kill_plan import RunSchedule
    from tinyllama.phases import check_training_inputs
    from tinyllama.recipe import load_recipe

    words = [recipe, *(overrides or [])]
    run_dir = run_dir or Path("runs") / Path(recipe).stem
    check_training_inputs(run_dir)
    sizes = _sizes(world_sizes)
    resolved = load_recipe(recipe, overrides)
    train = resolved.train
    if len(sizes) > 1 and not train.deterministic_reduction:
        raise RecipeError(
            f"--world-sizes {world_sizes}: results are bit-for-bit equal on all of them only with "
            "train.deterministic_reduction=true"
        )
    for size in sizes:
        load_recipe(recipe, [*(overrides or []), f"parallel.replicate={size}"])
    if max(sizes) > 1 and not resolved.parallel.threads:
        words.append("parallel.threads=1")  # as under torchrun; a single process would use all cores
    schedule = RunSchedule(train.total_steps, train.save_every_steps, train.validate_every_steps)
    timeout_seconds = resolved.parallel.timeout_seconds
    result = run_drill(Drill(words, run_dir, run_dir / "drill", kills, sizes, seed, schedule, timeout_seconds))
    if as_json:
        print_json(result)
    else:
        for name in ("kills", "agree", "runs", "fell_in", "weights_sha256", "seconds"):
            typer.echo(f"{name}: {plain_value(result[name])}")
        typer.echo(f"report: {run_dir / 'drill' / 'drill.md'}")
    if result["agree"] != result["kills"]:
        raise typer.Exit(1)


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise RecipeError(f"--world-sizes {text}: write numbers of ranks, such as 1,2,4")
    return sizes
