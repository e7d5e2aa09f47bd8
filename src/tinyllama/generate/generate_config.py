"""Settings of text generation."""

from tinyllama.config_base import Config, setting


class GenerateConfig(Config):
    """`[generate]`: how tokens are chosen, and the samples that a run makes for its report."""

    prompts: list[str] = setting(["The"], "Prompts of the run's samples.")
    max_new_tokens: int = setting(128, "Most new tokens of a sample.", ge=0)
    temperature: float = setting(0.8, "Divides the logits; 0: greedy.", ge=0)
    top_k: int = setting(0, "Only the k likeliest tokens; 0: all.", ge=0)
    top_p: float = setting(0.95, "Only the likeliest tokens that together reach this probability.", gt=0, le=1)
    seed: int = setting(1, "Seed of sampling.")
