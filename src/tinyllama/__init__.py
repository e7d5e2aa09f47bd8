"""Pre-train a small language model from scratch, end to end."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinyllama.api import clean, evaluate, open_model, plan, pretrain, train_tokenizer, training_batches
from tinyllama.api_results import (
    CleanResult,
    EvaluateResult,
    LastWordResult,
    LayoutEstimate,
    PlanResult,
    PretrainResult,
    TaskResults,
    TokenizerFit,
    TokenizerResult,
    ValidationResult,
)
from tinyllama.errors import InputError, RecipeError, RunStoppedError, TinyllamaError
from tinyllama.model.llama_config import LlamaConfig

if TYPE_CHECKING:
    from tinyllama.generate.language_model import Generation, LanguageModel, TextScore
    from tinyllama.step_batches import StepBatches

__version__ = "0.1.0"
__all__ = [
    "CleanResult",
    "EvaluateResult",
    "Generation",
    "InputError",
    "LanguageModel",
    "LastWordResult",
    "LayoutEstimate",
    "LlamaConfig",
    "PlanResult",
    "PretrainResult",
    "RecipeError",
    "RunStoppedError",
    "StepBatches",
    "TaskResults",
    "TextScore",
    "TinyllamaError",
    "TokenizerFit",
    "TokenizerResult",
    "ValidationResult",
    "clean",
    "evaluate",
    "open_model",
    "plan",
    "pretrain",
    "train_tokenizer",
    "training_batches",
]

# Types whose modules load torch or numpy are imported when they are asked for.
_LAZY = {
    "Generation": "tinyllama.generate.language_model",
    "LanguageModel": "tinyllama.generate.language_model",
    "StepBatches": "tinyllama.step_batches",
    "TextScore": "tinyllama.generate.language_model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tinyllama' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
