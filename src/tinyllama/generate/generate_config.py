"""Settings of text generation."""

from typing import Annotated

from pydantic import Field

from tinyllama.config import Config, setting


class GenerateConfig(Config):
    """`[generate]`: how tokens are chosen, and the samples of a run's report."""

    prompts: list[str] = setting(["The"], "Prompts of the run's samples.")
    max_new_tokens: int = setting(128, "Maximum number of new tokens per sample; 0: none.", ge=0)
    temperature: float = setting(0.8, "Divides the logits; 0: greedy.", ge=0, allow_inf_nan=False)
    top_k: int = setting(0, "Keep the k most likely tokens; 0: all.", ge=0)
    top_p: float = setting(0.95, "Keep the most likely tokens whose probabilities add up to this.", gt=0, le=1)
    min_p: float = setting(
        0.0, "Keep tokens with at least this times the probability of the most likely one; 0: all.", ge=0, le=1
    )
    repetition_penalty: float = setting(
        1.0, "Values above 1 penalise tokens that are already in the text; 1: none.", gt=0, allow_inf_nan=False
    )
    stop: list[Annotated[str, Field(min_length=1)]] = setting([], "Strings that end a sample; not part of it.")
    seed: int = setting(1, "Seed of sampling; text n of several uses seed + n.", ge=-(2**62), le=2**62)
