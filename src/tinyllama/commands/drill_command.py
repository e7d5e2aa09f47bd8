"""The command that proves on a recipe that its run cannot be lost."""

from pathlib import Path
from typing import Annotated

import typer

from tinyllama.commands.options import Json, Overrides, RecipeName, RunDir, plain_value, print_json
from tinyllama.errors import InputError, RecipeError


def drill(
    recipe: RecipeName,
    overrides: Overrides = None,
    kills: Annotated[int, typer.Option("--kills", help="How many SIGKILLs, over one run or several.", min=1)] = 10,
    run_dir: RunDir = None,
    world_sizes: Annotated[
        str, typer.Option("--world-sizes", help="Numbers of ranks to start with, drawn each time, such as 1,2,4.")
    ] = "1",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the moments and ranks of the kills.")] = 0,
    as_json: Json = False,
) -> None:
    """A kill drill: the recipe's training, killed at random moments and taken up again, against an undisturbed run.

    The kills are spread over forward pass, reduction, save, commit and validation; a killed rank, or all of them at once.
    Every loss, the validation figures and the final weights must be the same bits. Works in RUN/drill on RUN/shards and
    RUN/tokenizer, which it only reads; drill.json and drill.md there have the report. Exit code 1 when anything differs.

    Example: tinyllama drill quickstart --run-dir runs/quickstart --kills 20 train.steps=60 train.save_every_steps=5
    """
    from tinyllama.drill.kill_drill import Drill, run_drill
    from tinyllama.drill.kill_plan import RunSchedule
    from tinyllama.recipe import load_recipe

    words = [recipe, *(overrides or [])]
    run_dir = run_dir or Path("runs") / Path(recipe).stem
    for name in ("shards", "tokenizer"):
        if not (run_dir / name).is_dir():
            raise InputError(f"{run_dir / name}: no such folder; `tinyllama {name}` creates it")
    sizes = _sizes(world_sizes)
    train = (resolved := load_recipe(recipe, overrides)).train
    if len(sizes) > 1 and not train.deterministic_reduction:
        raise RecipeError(
            f"--world-sizes {world_sizes}: the bits are the same on all of them only with "
            "train.deterministic_reduction=true"
        )
    for size in sizes:
        load_recipe(recipe, [*(overrides or []), f"parallel.replicate={size}"])
    if max(sizes) > 1 and not resolved.parallel.threads:
        words.append("parallel.threads=1")  # as torchrun has it; one process alone would take all cores
    interval = RunSchedule(train.total_steps, train.save_every_steps, train.validate_every_steps)
    timeout_seconds = resolved.parallel.timeout_seconds
    result = run_drill(Drill(words, run_dir, run_dir / "drill", kills, sizes, seed, interval, timeout_seconds))
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
