"""What is said to help when nothing fits, of a plan that is told what fits; and the notes beside a plan."""

from dataclasses import replace
from typing import Any, cast

import pytest

from tinyllama.devices import KINDS, GpuKind
from tinyllama.model.llama_config import PRESETS, LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning import plan_advice
from tinyllama.planning.find_layouts import PlannedLayout
from tinyllama.planning.plan_advice import notes, uneven_step
from tinyllama.planning.step_time import StepTime
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, A100 = PRESETS["tinyllama-1.1b"], KINDS["A100-40G"]


def layout(speed: float = 1000.0, n_bytes: int = 10**9, size: int = 16, usable: int = 2 * 10**9, **sizes: Any):
    """A layout of so many tokens a second and bytes."""
    time = StepTime(1000 / speed, 0, 0, 0, 0, 0, bubble=0, data_communication=0, optimizer=0)
    return PlannedLayout(ParallelConfig(**sizes), size, 0, {"weights": n_bytes}, time, 1000, usable)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch):
    """Sets what fits: a condition of recipe, number of devices and kind."""

    def set_condition(condition: Any) -> None:
        def found(model: LlamaConfig, train: TrainConfig, n_gpus: int, gpu: GpuKind) -> list[PlannedLayout]:
            n_bytes = 10**9 if condition(train, n_gpus, gpu) else 3 * 10**9
            return [layout(n_bytes=3 * 10**9), layout(n_bytes=n_bytes)]

        monkeypatch.setattr(plan_advice, "find_layouts", found)

    return set_condition


def lines(n_gpus: int = 2, gpu: GpuKind = A100, **values: Any) -> list[str]:
    smallest = layout(n_bytes=50 * 10**9, size=4, shard=n_gpus)
    return plan_advice.changes_that_help(TINYLLAMA, TrainConfig(**values), n_gpus, gpu, smallest)


def test_nothing_helps_but_shorter_sequences(fits: Any):
    fits(lambda *_: False)
    lacking = (50e9 - int(40_960 * 2**20 * 0.97)) / 1e9
    assert lines() == [
        f"the smallest layout (shard 2, micro-batch 4) needs {lacking:,.2f} GB more than each A100-40G has",
        "train.seq_len: shorter than 2048 needs less for activations",
    ]
    assert lines(1)[0] == f"the smallest layout needs {lacking:,.2f} GB more than each A100-40G has"


@pytest.mark.parametrize(
    ("helps", "words"),
    [
        (lambda train: train.recompute != "none", "train.recompute: 'selective' would fit"),
        (lambda train: train.recompute == "full", "train.recompute: 'full' would fit"),
        (
            lambda train: (train.recompute, train.optimizer_state) == ("full", "bf16"),
            "train.recompute: 'full' and train.optimizer_state: 'bf16' would fit",
        ),
    ],
)
def test_the_least_saving_that_helps_is_named_alone(fits: Any, helps: Any, words: str):
    fits(lambda train, *_: helps(train))
    assert [line for line in lines() if "would fit" in line] == [words]


@pytest.mark.parametrize(("needed", "said"), [(4, 4), (5, 8), (512, 512), (513, None)])
def test_the_smallest_doubling_that_helps_is_named(fits: Any, needed: int, said: int | None):
    fits(lambda _, n_gpus, __: n_gpus >= needed)
    found = [line for line in lines() if "more devices" in line]
    assert found == ([f"more devices: {said}xA100-40G would fit"] if said else [])


def test_one_larger_device_that_helps_is_named(fits: Any):
    fits(lambda _, n_gpus, gpu: n_gpus == 2 and gpu.memory_bytes > 90_000 * 2**20)
    assert [line for line in lines() if "another" in line] == ["another device: 2xH200 would fit"]
    fits(lambda _, n_gpus, __: n_gpus == 2)  # whatever device: the same memory is no other one
    assert [line for line in lines() if "another" in line] == ["another device: 2xA100-80G would fit"]
    own = replace(KINDS["B200"], name="own")  # no known one has more
    assert not any("another" in line for line in lines(gpu=own))
    small = replace(A100, memory_bytes=16_000 * 2**20)
    assert "another device: 2xA100-40G would fit" in lines(gpu=small), "a CPU's memory is larger, but it is no GPU"


def test_why_nothing_divides():
    def why(n_gpus: int, **values: Any) -> str:
        (line,) = plan_advice.changes_that_help(TINYLLAMA, TrainConfig(**values), n_gpus, A100, None)
        return line

    lanes = why(3, deterministic_reduction=True, reduction_lanes=8)
    assert lanes.startswith("train.deterministic_reduction: 3 ranks cannot share train.reduction_lanes = 8 evenly")
    # the lanes divide: then it is the step
    assert why(4, deterministic_reduction=True, reduction_lanes=8).startswith("train.tokens_per_step: ")
    assert why(3, reduction_lanes=8).endswith(
        "tensor or pipeline parallelism (4 key heads, 22 layers) does not leave a number of data ranks that could share it"
    )


@pytest.mark.parametrize(("tokens", "near"), [(2048, 6144), (8192, 6144), (10_240, 12_288), (61_440, 61_440)])
def test_the_nearest_step_that_divides(tokens: int, near: int):
    said = uneven_step(TrainConfig(tokens_per_step=tokens, micro_batch_size=1), 3)
    assert said == (
        f"train.tokens_per_step: {tokens:,} is not a multiple of gpus x seq_len = 3 x 2048 = 6,144; {near:,} would be"
    )


# -- notes -------------------------------------------------------------------------------------------------------------


def said(layouts: list[PlannedLayout], n_gpus: int = 8, parallel: ParallelConfig | None = None, size: int = 16):
    train = TrainConfig(micro_batch_size=size)
    return notes(train, n_gpus, A100, layouts, parallel)[1:]


def test_on_what_the_speed_rests():
    first = notes(TrainConfig(), 8, A100, [], None)
    assert first == ["matmuls reach 74% of the peak, assumed: the shares measured on an H100"]
    assert notes(TrainConfig(), 24, A100, [], None)[1:] == [
        "3 nodes of 8, 25 GB/s per device between nodes, 240 GB/s inside a node"
    ]


def test_a_step_that_only_stages_can_share_is_noted():
    assert said([layout(replicate=4, tensor=2), layout(replicate=8)]) == []
    (line,) = said([layout(replicate=4, tensor=2), layout(pipeline=8)])
    assert line.endswith("and would allow replicate or shard alone")


def test_the_recipe_s_micro_batch_is_noted():
    eight, sixteen = layout(replicate=8, size=8), layout(replicate=8, size=16)
    too_large = layout(replicate=8, size=16, n_bytes=2 * 10**9 + 1)
    assert said([eight]) == ["train.micro_batch_size 16 does not divide the step among 8 devices"]
    assert said([eight, too_large]) == ["train.micro_batch_size 16 does not fit; choose one of the layouts"]
    assert said([eight, too_large, sixteen]) == []
    assert said([]) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"replicate": 4}, ", replicate 4, micro-batch 16, is for 4 devices"),
        (
            {"replicate": 2, "shard": 4},
            ", replicate 2 x shard 4, micro-batch 16, does not divide the model or the step",
        ),
        ({"tensor": 4, "replicate": 2}, ", replicate 2 x tensor 4, micro-batch 16, needs 3.0 GB and does not fit"),
        ({"shard": 8}, ", shard 8, micro-batch 16: 75.0% of the best one's speed"),
    ],
)
def test_the_recipe_s_own_layout_is_compared(sizes: dict[str, int], expected: str):
    layouts = [
        layout(9000, 3 * 10**9, replicate=2, tensor=4), layout(1000, replicate=8, size=16),
        layout(500, shard=8, size=8), layout(750, shard=8, size=16),
    ]  # fmt: skip
    (line,) = said(layouts, parallel=ParallelConfig.model_validate(sizes))
    assert line.startswith(f"the recipe's own layout{expected}")


def test_no_layout_is_compared_where_the_recipe_names_none():
    assert said([layout(replicate=8)], parallel=ParallelConfig()) == said([layout(replicate=8)]) == []
    assert said([layout(replicate=8)], parallel=cast("Any", None)) == []
