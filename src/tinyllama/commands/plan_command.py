"""The command `plan`."""

from pathlib import Path
from typing import Annotated

import typer

from tinyllama.commands.options import Json, Overrides, RecipeName, print_json


def plan(
    recipe: RecipeName,
    gpus: Annotated[str, typer.Option("--gpus", help="COUNTxKIND, such as 16xA100-40G.")],
    overrides: Overrides = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Training tokens, such as 3T; default: the recipe's.")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", help="Price of one GPU for one hour.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", help="GPUs of one machine; default: 8.")
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option("--devices", help="A TOML file of your own kinds of devices; see docs/plan.md."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate time, memory, disk and cost of a run, and list the parallel layouts that fit, best first.

    Known kinds: A100-40G, A100-80G, H100, H200, B200, L40S, RTX4090, CPU.

    Example: tinyllama plan tinyllama-1b --gpus 16xA100-40G --tokens 3T --price 1.50
    """
    from tinyllama.planning.cost import parse_tokens
    from tinyllama.planning.cost import plan as make_plan
    from tinyllama.planning.device_file import read_devices
    from tinyllama.planning.plan_table import launch_command, render
    from tinyllama.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    planned = make_plan(
        resolved.llama_config(), resolved.train, gpus, parse_tokens(tokens) if tokens else None, price,
        gpus_per_node=gpus_per_node, devices=read_devices(devices) if devices else None, parallel=resolved.parallel,
    )  # fmt: skip
    if as_json:
        print_json(planned)
        return
    typer.echo(render(planned))
    if planned["fits"]:
        typer.echo(launch_command(planned, [recipe, *(overrides or [])]))
