"""The public Python API: what the commands do, as functions. A recipe is a path or a packaged name; overrides are
`section.key=value`. Heavy libraries are imported when a function works.

    import tinyllama
    tinyllama.clean(["crawl"], "cleaned", overrides=["clean.min_words=30"])
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyllama import phases
from tinyllama.phase_runner import run_phase
from tinyllama.planning import cost
from tinyllama.planning.device_file import read_devices
from tinyllama.recipe import load_recipe

if TYPE_CHECKING:
    from tinyllama.exchange.open_model import OpenedModel

PathLike = str | Path


def open_model(model: PathLike, device: str = "auto") -> "OpenedModel":
    """Network, configuration and tokenizer of a run folder, a checkpoint, a Hugging Face folder or a GGUF file, in fp32.

    Raises InputError when it is none of them or is damaged.
    """
    from tinyllama.exchange.open_model import open_model

    return open_model(Path(model), device)


def clean(
    inputs: Sequence[PathLike], out: PathLike, recipe: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Raw pages and documents (WARC, parquet, JSON Lines) to training documents in `out`; returns the counts."""
    resolved, out = load_recipe(recipe, list(overrides)), Path(out)
    return run_phase(phases.clean_phase(resolved, tuple(map(Path, inputs)), out, out / "documents"))


def train_tokenizer(
    inputs: Sequence[PathLike], out: PathLike, recipe: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Training documents to a BPE tokenizer in `out`; returns its figures."""
    resolved = load_recipe(recipe, list(overrides))
    return run_phase(phases.tokenizer_phase(resolved, tuple(map(Path, inputs)), Path(out)))


def pretrain(
    recipe: str, run_dir: PathLike, overrides: Sequence[str] = (), allow_changes: Sequence[str] = ()
) -> dict[str, Any]:
    """Train on run_dir/shards with run_dir/tokenizer to the recipe's end, resuming by itself; returns the figures.

    `allow_changes`: keys, such as `train.peak_lr`, that may differ from what the run began with. Raises RunStoppedError when
    a signal, the time limit or a full disk ends the run before its end: called again, it goes on.
    """
    return phases.pretrain(load_recipe(recipe, list(overrides)), Path(run_dir), allow_changes)


def evaluate(run_dir: PathLike, recipe: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Validation figures and last-word accuracy of a finished run."""
    from tinyllama.evaluation.run_evaluation import evaluate_run

    return evaluate_run(Path(run_dir), load_recipe(recipe, list(overrides)).evaluate)


def plan(
    recipe: str,
    gpus: str,
    tokens: str | None = None,
    price_per_gpu_hour: float | None = None,
    overrides: Sequence[str] = (),
    *,
    gpus_per_node: int | None = None,
    devices: PathLike | None = None,
) -> dict[str, Any]:
    """Time, memory, disk and cost of a run on `gpus` (such as 16xA100-40G) before it starts.

    `gpus_per_node`: default 8. `devices`: a TOML file of kinds beside the known ones (planning/device_file.py).
    """
    resolved = load_recipe(recipe, list(overrides))
    budget = cost.parse_tokens(tokens) if tokens else None
    return cost.plan(
        resolved.llama_config(), resolved.train, gpus, budget, price_per_gpu_hour, gpus_per_node=gpus_per_node,
        devices=read_devices(Path(devices)) if devices else None, parallel=resolved.parallel,
    )  # fmt: skip
