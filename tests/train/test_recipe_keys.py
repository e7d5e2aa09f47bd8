"""Every key of [model], [train] and [parallel] does what its declaration says: it changes the result, or it does not.

Each key is changed alone, from a recipe in which it matters, and the two runs are compared part by part. A key that is
declared to say only how a result is reached leaves the weights as they are, where nothing goes wrong.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.train.run_processes import untimed
from tinyllama import api, files
from tinyllama.config import Config
from tinyllama.errors import RecipeError, RunStoppedError
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.recipe import ModelConfig
from tinyllama.train import metrics, trainer
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_step import StepResult, train_step

BASE: dict[str, Any] = {
    "tokenizer.vocab_size": 512, "model.preset": "tiny-2m", "model.dim": 16, "model.n_layers": 2, "model.ffn_dim": 24,
    "model.n_heads": 4, "model.n_kv_heads": 2, "train.steps": 4, "train.seq_len": 16, "train.micro_batch_size": 2,
    "train.tokens_per_step": 128, "train.precision": "fp32", "train.device": "cpu", "train.warmup_steps": 1,
    "train.cooldown_steps": 1, "train.peak_lr": 0.02, "train.max_grad_norm": 0.5, "train.save_every_steps": 1,
    "train.keep_checkpoints": 1, "train.keep_best": False, "train.validate_every_steps": 2, "train.validation_tokens": 60,
    "parallel.threads": 1,
}  # fmt: skip
# What recipes have beside it in which more keys matter.
LINEAR = {"model.rope_scaling": "linear", "model.rope_factor": 4.0}
LLAMA3 = {"model.rope_scaling": "llama3", "model.rope_factor": 4.0, "model.rope_original_seq_len": 1000}
BY_TOKENS = {"train.steps": 0, "train.tokens": 400}
ONE_ORDER = {"train.deterministic_reduction": True, "train.reduction_lanes": 4}
DIVERGING = {"train.peak_lr": 5.0, "train.warmup_steps": 0, "model.tied_head": False}
TASKS = {"train.evaluate_tasks": ["piqa"]}
NO_NUMBERS = {"train.peak_lr": 1e38, "train.max_skipped_in_a_row": 2, "train.validate_every_steps": 9}
SPIKY = {  # `spiky` raises the loss of steps 10 and 11, each once: the run goes back once
    "train.steps": 14, "train.warmup_steps": 13, "train.cooldown_steps": 0, "train.peak_lr": 1e-5, "train.min_lr": 1e-6,
    "train.spike_threshold": 4.0, "train.spike_window": 8, "train.spike_steps_in_a_row": 2,
    "train.max_spike_roll_backs": 1, "train.validate_every_steps": 14, "train.keep_checkpoints": 9,
    "model.tied_head": False,
}  # fmt: skip

RESULT = {"weights", "rows"}


class Change(NamedTuple):
    """Another value of a key, from BASE and `beside`; the parts of the outcome that are other ones then."""

    key: str
    value: Any
    parts: set[str]
    beside: dict[str, Any] = {}  # noqa: RUF012


NOTHING: set[str] = set()
STATE = {"state"}  # the network's settings or the recipe in the checkpoint
CHANGES = [
    Change("model.preset", "small-120m", RESULT | STATE),
    Change("model.vocab_size", 520, RESULT | STATE),
    Change("model.dim", 24, RESULT | STATE),
    Change("model.n_layers", 1, RESULT | STATE),
    Change("model.n_heads", 2, RESULT | STATE),
    Change("model.n_kv_heads", 1, RESULT | STATE),
    Change("model.head_dim", 8, RESULT | STATE),
    Change("model.ffn_dim", 32, RESULT | STATE),
    Change("model.embedding_dim", 8, RESULT | STATE),
    Change("model.tied_head", False, RESULT | STATE),
    Change("model.rope_theta", 100.0, RESULT | STATE),
    Change("model.rope_scaling", "none", RESULT | STATE, LINEAR),
    Change("model.rope_factor", 2.0, RESULT | STATE, LINEAR),
    Change("model.rope_low_freq_factor", 2.0, RESULT | STATE, LLAMA3),
    Change("model.rope_high_freq_factor", 9.0, RESULT | STATE, LLAMA3),
    Change("model.rope_original_seq_len", 500, RESULT | STATE, LLAMA3),
    Change("model.norm_eps", 1e-2, RESULT | STATE),
    Change("model.dropout", 0.3, RESULT | STATE),
    Change("model.attention_dropout", 0.3, RESULT | STATE),
    Change("train.tokens", 300, RESULT | STATE | {"events", "checkpoints"}, BY_TOKENS),
    Change("train.tokens", 399, STATE, BY_TOKENS),  # as many steps
    Change("train.tokens", 300, STATE),  # steps win
    Change("train.steps", 3, RESULT | STATE | {"events", "checkpoints"}),
    Change("train.tokens_per_step", 96, RESULT | STATE),
    Change("train.micro_batch_size", 4, RESULT | STATE),
    Change("train.seq_len", 8, RESULT | STATE),
    Change("train.precision", "bf16", RESULT | STATE),
    Change("train.precision", "fp16", RESULT | STATE),
    Change("train.recompute", "selective", NOTHING),
    Change("train.recompute", "full", NOTHING),
    Change("train.optimizer_state", "bf16", RESULT | STATE),
    Change("train.beta1", 0.5, RESULT | STATE),
    Change("train.beta2", 0.5, RESULT | STATE),
    Change("train.adam_eps", 1e-3, RESULT | STATE),
    Change("train.lr_schedule", "wsd", RESULT | STATE),
    Change("train.peak_lr", 0.01, RESULT | STATE),
    Change("train.min_lr", 0.01, RESULT | STATE),
    Change("train.warmup_steps", 2, RESULT | STATE),
    Change("train.cooldown_steps", 2, RESULT | STATE),
    Change("train.weight_decay", 0.5, RESULT | STATE),
    Change("train.max_grad_norm", 0.1, RESULT | STATE),
    Change("train.z_loss", 0.1, RESULT | STATE),
    Change("train.deterministic_reduction", True, RESULT | STATE, {"train.reduction_lanes": 4}),
    Change("train.reduction_lanes", 1, RESULT | STATE, ONE_ORDER),
    Change("train.seed", 43, RESULT | STATE),
    Change("train.init_from", "MODEL", RESULT | STATE),
    Change("train.device", "auto", NOTHING),
    Change("train.compile", "off", NOTHING),
    Change("train.save_every_steps", 3, {"events", "checkpoints"}),
    Change("train.keep_checkpoints", 2, {"checkpoints"}),
    Change("train.keep_every_steps", 2, {"checkpoints"}),
    Change("train.keep_best", True, {"checkpoints"}, DIVERGING),
    Change("train.on_full_disk", "go_on", NOTHING),
    Change("train.time_limit_minutes", 1e-9, {"weights", "rows", "events", "checkpoints", "state", "end"}),
    Change("train.time_limit_minutes", 60.0, NOTHING),
    Change("train.max_skipped_in_a_row", 3, NOTHING),
    Change("train.max_skipped_in_a_row", 1, {"rows", "events", "state", "checkpoints"}, NO_NUMBERS),
    Change("train.spike_guard", "off", STATE | {"checkpoints"}),  # no losses are kept
    Change("train.spike_guard", "watch", RESULT | STATE | {"events"}, SPIKY),
    Change("train.spike_threshold", 3.0, NOTHING),
    Change("train.spike_threshold", 2000.0, RESULT | STATE | {"events"}, SPIKY),
    Change("train.spike_window", 9, NOTHING),
    Change("train.spike_window", 10, RESULT | STATE | {"events"}, SPIKY),
    Change("train.spike_steps_in_a_row", 1, {"checkpoints"}),
    Change("train.spike_steps_in_a_row", 1, RESULT | STATE | {"events", "checkpoints", "end"}, SPIKY),
    Change("train.max_spike_roll_backs", 0, NOTHING),
    Change("train.max_spike_roll_backs", 0, RESULT | STATE | {"events", "checkpoints", "end"}, SPIKY),
    Change("train.on_spike_limit", "go_on", NOTHING, SPIKY),
    Change("train.on_spike_limit", "go_on", RESULT | STATE | {"events", "checkpoints", "end"},
           SPIKY | {"train.max_spike_roll_backs": 0}),
    Change("train.verify_shards", "always", NOTHING),
    Change("train.verify_shards", "never", {"verified"}),
    Change("train.validate_every_steps", 3, {"rows"}),
    Change("train.validation_tokens", 40, {"rows"}),
    Change("train.evaluate_tasks", ["piqa"], {"rows"}),
    Change("train.evaluate_every_steps", 3, {"rows"}, TASKS),
    Change("train.evaluate_limit", 7, {"rows"}, TASKS),
    Change("train.evaluate_data_dir", "examples", {"rows"}, TASKS),
    Change("parallel.gather", "step", NOTHING),
    Change("parallel.threads", 2, {"threads"}),
    Change("parallel.timeout_seconds", 5.0, NOTHING),
    *(Change(f"parallel.{axis}", 2, {"refused"}) for axis in ("replicate", "shard", "tensor", "pipeline")),
]  # fmt: skip
UNTRIED = {"train.optimizer"}  # has one value


class FakeTasks:
    """Says what it was asked for."""

    def __init__(self, *asked: Any) -> None:
        self.asked = asked

    def measure(self, *_: Any) -> dict[str, Any]:
        return {"asked": self.asked}


def spiky(raised: set[int]) -> Callable[..., StepResult]:
    """`train_step`, which reports a loss of 20 nats more at steps 10 and 11; `raised` holds those that had it."""

    def step_of(*words: Any, step: int, **keywords: Any) -> StepResult:
        result = train_step(*words, step=step, **keywords)
        if step + 1 not in (10, 11) or step + 1 in raised:
            return result
        raised.add(step + 1)
        return replace(result, loss=result.loss + 20)

    return step_of


def outcome_of(run_dir: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The parts of what a run leaves behind."""
    words, end = [f"{key}={json.dumps(value)}" for key, value in values.items()], ""
    summary: dict[str, Any] = {}
    try:
        summary = api.pretrain("small-120m", run_dir, words).to_dict()
    except (RunStoppedError, RecipeError) as error:
        if not (run_dir / "events.jsonl").exists():
            return {"refused": str(error)}
        end = f"{type(error).__name__}, exit code {error.exit_code}"
    folder, events = run_dir / "checkpoints", files.read_jsonl(run_dir / "events.jsonl")
    newest = max(folder.glob("step_*"), default=None)
    return {
        "end": end,
        "weights": summary.get("weights_sha256"),
        "rows": untimed(files.read_jsonl(run_dir / "metrics.jsonl")),
        "state": newest and {key: value for key, value in files.read_json(newest / "state.json").items() if key != "step"},
        "checkpoints": sorted(path.name for path in folder.glob("step_*")),
        "events": sorted(((row["event"], row["step"]) for row in events), key=lambda one: one[0]),  # saves are a thread's
        "threads": {row["threads"] for row in events if "threads" in row},
        "verified": (run_dir / "verified.json").exists(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, Any]]:
    """Outcomes of the recipes that keys are changed in."""
    return {}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.key}={change.value}")
def test_a_key_changes_what_it_is_declared_to_change(
    change: Change,
    known: dict[str, dict[str, Any]],
    small_run: Callable[[str], Path],
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(metrics, "peak_flops", lambda *_: 1e12)  # measured, it takes longer than the run
    monkeypatch.setattr(trainer, "TrainingTasks", FakeTasks)
    recipe, raised = BASE | change.beside, set[int]()
    if "train.spike_window" in change.beside:
        monkeypatch.setattr(trainer, "train_step", spiky(raised))
    if str(change.beside) not in known:
        known[str(change.beside)] = outcome_of(small_run("base"), recipe)
    before, value = known[str(change.beside)], change.value
    if value == "MODEL":
        model = small_run("model")
        outcome_of(model, recipe | {"train.seed": 5})
        value = str(model)
    raised.clear()
    after = outcome_of(small_run("changed"), recipe | {change.key: value})
    changed = {part for part in after if before.get(part) != after[part]}
    assert changed == change.parts


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """`parallel.threads` is the process's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


SECTIONS: dict[str, type[Config]] = {"model": ModelConfig, "train": TrainConfig, "parallel": ParallelConfig}


def test_every_key_is_tried_and_those_that_change_the_result_are_declared_so():
    fields = {f"{section}.{name}" for section, kind in SECTIONS.items() for name in kind.model_fields}
    assert fields == {change.key for change in CHANGES} | UNTRIED
    how_only = {f"{section}.{name}" for section, kind in SECTIONS.items() for name in kind.how_only_names()}
    calm = [change for change in CHANGES if change.beside not in (SPIKY, NO_NUMBERS) and "end" not in change.parts]
    changes_result = {change.key for change in calm if "weights" in change.parts and "refused" not in change.parts}
    assert changes_result == fields - how_only - UNTRIED
