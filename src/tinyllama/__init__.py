"""Pre-train a small language model from scratch, end to end."""

from tinyllama.api import clean, evaluate, open_model, plan, pretrain, train_tokenizer

__version__ = "0.1.0"
__all__ = ["clean", "evaluate", "open_model", "plan", "pretrain", "train_tokenizer"]
