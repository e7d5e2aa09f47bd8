"""Settings of text generation."""

from typing import Annotated

from pydantic import Field

from tinyllama.config import Config, setting


class GenerateConfig(Config):
    """`[generate]`: how tokens are chosen, and the samples that a run makes for its report."""

    prompts: list[str] = setting(["The"], "Prompts of the run's samples.")
    max_new_tokens: int = setting(128, "Most new tokens of a sample; 0: none.", ge=0)
    temperature: float = setting(0.8, "Divides the logits; 0: greedy.", ge=0, allow_inf_nan=False)
    top_k: int = setting(0, "Only the k likeliest tokens; 0: all.", ge=0)
    top_p: float = setting(0.95, "Only the likeliest tokens that together reach this probability.", gt=0, le=1)
    min_p: float = setting(0.0, "Only tokens at least so likely, measured by the likeliest; 0: all.", ge=0, le=1)
    repetition_penalty: float = setting(
        1.0, "Divides the logits of tokens already in the text; 1: none.", gt=0, allow_inf_nan=False
    )
    stop: list[Annotated[str, Field(min_length=1)]] = setting([], "Texts that end a sample; they are not part of it.")
    seed: int = setting(1, "Seed of sampling; number n of several texts has seed + n.", ge=-(2**62), le=2**62)
