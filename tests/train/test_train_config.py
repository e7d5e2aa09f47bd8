"""Defaults and limits of [train], and the arithmetic of steps and micro-batches."""

from typing import Any

import pytest
from pydantic import ValidationError

from tinyllama.parallel.layout import Layout, ParallelConfig
from tinyllama.train.train_config import TrainConfig, refuse_what_needs_whole_networks

DEFAULTS: dict[str, Any] = {
    "tokens": 3_000_000_000_000, "steps": 0, "tokens_per_step": 2_097_152, "micro_batch_size": 16, "seq_len": 2048,
    "precision": "bf16", "recompute": "none", "optimizer": "adamw", "optimizer_state": "fp32", "beta1": 0.9, "beta2": 0.95,
    "adam_eps": 1e-8, "lr_schedule": "cosine", "peak_lr": 4e-4, "min_lr": 4e-5, "warmup_steps": 2000, "cooldown_steps": 0,
    "weight_decay": 0.1, "max_grad_norm": 1.0, "z_loss": 0.0, "deterministic_reduction": False, "reduction_lanes": 8,
    "seed": 42, "init_from": "", "device": "auto", "compile": "auto", "save_every_steps": 1000, "keep_checkpoints": 2,
    "keep_every_steps": 0, "keep_best": True, "on_full_disk": "stop", "time_limit_minutes": 0.0, "max_skipped_in_a_row": 10,
    "spike_guard": "roll_back", "spike_threshold": 6.0, "spike_window": 128, "spike_steps_in_a_row": 3,
    "max_spike_roll_backs": 3, "on_spike_limit": "stop", "verify_shards": "once", "validate_every_steps": 1000,
    "validation_tokens": 2_097_152, "evaluate_tasks": [], "evaluate_every_steps": 0, "evaluate_limit": 200,
    "evaluate_data_dir": "",
}  # fmt: skip
NONE_OR_MORE = (
    "steps", "warmup_steps", "cooldown_steps", "keep_every_steps", "max_spike_roll_backs", "evaluate_every_steps",
)  # fmt: skip
ONE_OR_MORE = (
    "tokens", "save_every_steps", "keep_checkpoints", "max_skipped_in_a_row", "spike_steps_in_a_row",
    "validate_every_steps", "validation_tokens", "evaluate_limit",
)  # fmt: skip
ZERO_OR_ABOVE = ("weight_decay", "max_grad_norm", "z_loss", "time_limit_minutes", "min_lr", "beta1", "beta2")
LOWEST: dict[str, tuple[Any, Any]] = {  # the lowest value, and one that is refused
    **dict.fromkeys(NONE_OR_MORE, (0, -1)),
    **dict.fromkeys(ONE_OR_MORE, (1, 0)),
    **dict.fromkeys(ZERO_OR_ABOVE, (0.0, -1e-9)),
    "adam_eps": (1e-30, 0.0),
    "spike_threshold": (1e-9, 0.0),
    "spike_window": (8, 7),
}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**changes)


def test_the_defaults_are_tinyllamas():
    assert TrainConfig().model_dump() == DEFAULTS


@pytest.mark.parametrize("key", LOWEST)
def test_the_lowest_value_is_allowed_and_the_next_one_below_refused(key: str):
    lowest, refused = LOWEST[key]
    assert getattr(config(**{key: lowest}), key) == lowest
    with pytest.raises(ValidationError, match=key):
        config(**{key: refused})


def test_sizes_that_make_up_a_step_are_at_least_one_and_a_sequence_two():
    least: dict[str, Any] = {"tokens_per_step": 2, "micro_batch_size": 1, "seq_len": 2, "deterministic_reduction": True}
    assert config(**least, reduction_lanes=1).micro_batches_per_step == 1
    for key, value in {"tokens_per_step": 0, "micro_batch_size": 0, "seq_len": 1, "reduction_lanes": 0}.items():
        with pytest.raises(ValidationError, match=key):
            config(**(least | {"reduction_lanes": 1, key: value}))


def test_peak_lr_is_above_zero_and_min_lr_not_above_it():
    assert TrainConfig(peak_lr=1e-9, min_lr=1e-9).peak_lr == 1e-9
    with pytest.raises(ValidationError, match="peak_lr"):
        TrainConfig(peak_lr=0.0, min_lr=0.0)
    with pytest.raises(ValidationError, match=r"min_lr: 2e-09 is above peak_lr 1e-09"):
        TrainConfig(peak_lr=1e-9, min_lr=2e-9)


@pytest.mark.parametrize("key", ["beta1", "beta2"])
def test_betas_are_below_one(key: str):
    assert getattr(config(**{key: 0.9999}), key) == 0.9999
    with pytest.raises(ValidationError, match=key):
        config(**{key: 1.0})


def test_a_step_is_whole_micro_batches():
    train = TrainConfig(tokens_per_step=96, micro_batch_size=2, seq_len=8)
    assert train.micro_batches_per_step == 6
    for wrong, mend in ((100, 96), (120, 112), (15, 16), (1, 16), (31, 16), (33, 32)):
        words = (
            f"tokens_per_step: {wrong} is not a multiple of micro_batch_size x seq_len = 2 x 8 = 16; {mend} would be"
        )
        with pytest.raises(ValidationError, match=words):
            config(tokens_per_step=wrong, micro_batch_size=2, seq_len=8)


def test_steps_win_over_tokens_and_tokens_are_rounded_up():
    size: dict[str, Any] = {"tokens_per_step": 32, "micro_batch_size": 2, "seq_len": 16}
    assert [TrainConfig(tokens=tokens, **size).total_steps for tokens in (1, 32, 33, 64, 65)] == [1, 1, 2, 2, 3]
    assert TrainConfig(tokens=65, steps=7, **size).total_steps == 7


def test_lanes_count_with_one_order_of_sums_only():
    size: dict[str, Any] = {
        "tokens_per_step": 24,
        "micro_batch_size": 1,
        "seq_len": 2,
    }  # 12 micro-batches: not for 8 lanes
    assert config(**size).layout(3) == Layout(3, 12, 0)
    assert config(**size, deterministic_reduction=True, reduction_lanes=4).layout(2) == Layout(2, 12, 4)
    with pytest.raises(ValidationError, match="reduction_lanes: 8 lanes cannot share the step's 12 micro-batches"):
        config(**size, deterministic_reduction=True)
    with pytest.raises(ValueError, match="5 ranks cannot share the step's 12"):
        config(**size).layout(5)


def test_one_order_of_sums_is_refused_where_the_network_is_cut():
    refuse_what_needs_whole_networks(TrainConfig(), ParallelConfig(shard=2))
    with pytest.raises(ValueError, match=r"deterministic_reduction: true .* false, or parallel\.replicate=6 without"):
        refuse_what_needs_whole_networks(TrainConfig(deterministic_reduction=True), ParallelConfig(shard=2, tensor=3))
