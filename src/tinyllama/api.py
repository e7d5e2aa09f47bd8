"""The public Python API: what the commands do, as functions. A recipe is a path or a packaged name; overrides are
`section.key=value`. Heavy libraries are imported when a function is called.

    import tinyllama
    model = tinyllama.open_model("runs/quickstart")
    print(model.generate("Return the", max_new_tokens=50)[0].text)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tinyllama import phases
from tinyllama.api_results import CleanResult, EvaluateResult, PlanResult, PretrainResult, TokenizerResult
from tinyllama.phase_runner import run_phase
from tinyllama.planning import cost
from tinyllama.planning.device_file import read_devices
from tinyllama.recipe import load_recipe

if TYPE_CHECKING:
    from tinyllama.generate.language_model import LanguageModel
    from tinyllama.step_batches import StepBatches

PathLike = str | Path


def open_model(
    model: PathLike, device: str = "auto", dtype: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
) -> "LanguageModel":
    """The model in a run folder (its newest valid checkpoint), a checkpoint, a Hugging Face folder or a GGUF file.

    `device`: auto, cpu or cuda. `dtype` of the weights; auto: bf16 on a GPU, else fp32. Raises InputError when `model` is
    none of these or is damaged.
    """
    from tinyllama.exchange.open_model import open_model
    from tinyllama.generate.decode import number_format
    from tinyllama.generate.language_model import LanguageModel

    return LanguageModel(open_model(Path(model), device, number_format(dtype)))


def clean(
    inputs: Sequence[PathLike], out: PathLike, recipe: str | None = None, overrides: Sequence[str] = ()
) -> CleanResult:
    """Turn raw pages and documents (WARC, parquet, JSON Lines) into training documents in `out`."""
    resolved, out = load_recipe(recipe, list(overrides)), Path(out)
    phase = phases.clean_phase(resolved, tuple(map(Path, inputs)), out, out / "documents")
    return CleanResult.model_validate(run_phase(phase))


def train_tokenizer(
    inputs: Sequence[PathLike], out: PathLike, recipe: str | None = None, overrides: Sequence[str] = ()
) -> TokenizerResult:
    """Train a BPE tokenizer on training documents; its files are written to `out`."""
    resolved = load_recipe(recipe, list(overrides))
    return TokenizerResult.model_validate(
        run_phase(phases.tokenizer_phase(resolved, tuple(map(Path, inputs)), Path(out)))
    )


def pretrain(
    recipe: str, run_dir: PathLike, overrides: Sequence[str] = (), allow_changes: Sequence[str] = ()
) -> PretrainResult:
    """Train on run_dir/shards with run_dir/tokenizer to the recipe's last step; resumes if the run was stopped.

    `allow_changes`: keys, such as `train.peak_lr`, that may differ from what the run began with. Raises RunStoppedError
    when a signal, the time limit or a full disk ends the run early; call it again to resume. Under torchrun, only rank 0
    gets the fields; the result of the other ranks is empty.
    """
    found = phases.pretrain(load_recipe(recipe, list(overrides)), Path(run_dir), allow_changes)
    return PretrainResult.model_validate(found) if found else PretrainResult.model_construct()


def training_batches(run_dir: PathLike, step: int) -> "StepBatches":
    """The tokens that step `step` of a run trains on, counted from 1: exactly those that the trainer reads.

    `.tokens` has shape (sequences, seq_len + 1) and dtype int64; `.micro_batches` are views of it. For a step after the
    newest checkpoint it is what the run reads if no further window is quarantined. Raises InputError when the run has no
    such step, no training shards, or shards other than those that it was trained on.
    """
    from tinyllama.step_batches import read_step

    return read_step(Path(run_dir), step)


def evaluate(run_dir: PathLike, recipe: str | None = None, overrides: Sequence[str] = ()) -> EvaluateResult:
    """Measure a finished run on its held-out text: validation loss and last-word accuracy."""
    from tinyllama.evaluation.run_evaluation import evaluate_run

    return EvaluateResult.model_validate(evaluate_run(Path(run_dir), load_recipe(recipe, list(overrides)).evaluate))


def plan(
    recipe: str,
    gpus: str,
    tokens: str | None = None,
    price_per_gpu_hour: float | None = None,
    overrides: Sequence[str] = (),
    *,
    gpus_per_node: int | None = None,
    devices: PathLike | None = None,
) -> PlanResult:
    """Estimate time, memory, disk space and cost of a run on `gpus` (such as 16xA100-40G) before it starts.

    `gpus_per_node`: default 8. `devices`: a TOML file with further kinds of device (planning/device_file.py).
    """
    resolved = load_recipe(recipe, list(overrides))
    budget = cost.parse_tokens(tokens) if tokens else None
    planned = cost.plan(
        resolved.llama_config(), resolved.train, gpus, budget, price_per_gpu_hour, gpus_per_node=gpus_per_node,
        devices=read_devices(Path(devices)) if devices else None, parallel=resolved.parallel,
    )  # fmt: skip
    return PlanResult.model_validate(planned)
