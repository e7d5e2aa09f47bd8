"""Which layouts are looked at and which comes first, of layouts whose speed and memory are given."""

from typing import Any

import pytest

from tinyllama.devices import KINDS
from tinyllama.model.llama_config import PRESETS, LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning import find_layouts
from tinyllama.planning.find_layouts import PlannedLayout, micro_batch_sizes, usable_bytes
from tinyllama.planning.step_time import StepTime
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, H100 = PRESETS["tinyllama-1.1b"], KINDS["H100"]
SMALL = LlamaConfig(vocab_size=96, seq_len=16, dim=32, n_layers=4, n_heads=4, n_kv_heads=4, ffn_dim=48)
TRAIN = TrainConfig(tokens_per_step=64 * 16, seq_len=16, micro_batch_size=1)


def planned(parallel: ParallelConfig, size: int, speed: float, n_bytes: int = 10, usable: int = 10) -> PlannedLayout:
    time = StepTime(1e6 / speed, 0, 0, 0, 0, 0, bubble=0, data_communication=0, optimizer=0)
    return PlannedLayout(parallel, size, 0, {"weights": n_bytes - 3, "optimizer": 3}, time, 10**6, usable)


def order(monkeypatch: pytest.MonkeyPatch, speed_of: Any, n_gpus: int = 4, bytes_of: Any = lambda *_: 10) -> list[str]:
    """Words of all layouts in their order, of speeds that are told."""

    def plan_layout(model: LlamaConfig, train: TrainConfig, parallel: ParallelConfig, gpu: Any) -> PlannedLayout:
        size = train.micro_batch_size
        return planned(parallel, size, speed_of(parallel, size), bytes_of(parallel, size))

    monkeypatch.setattr(find_layouts, "plan_layout", plan_layout)
    found = find_layouts.find_layouts(SMALL, TRAIN, n_gpus, H100)
    return [f"{layout.parallel.words()} / {layout.micro_batch_size}" for layout in found]


def test_equals_come_in_the_order_of_axes(monkeypatch: pytest.MonkeyPatch):
    found = order(monkeypatch, lambda *_: 1000.0)
    firsts = [words.removesuffix(" / 16") for words in found if words.endswith(" / 16")]
    assert firsts == [
        "replicate 4", "shard 4", "shard 4 by step", "tensor 4", "pipeline 4", "replicate 2 x shard 2",
        "replicate 2 x shard 2 by step", "replicate 2 x tensor 2", "shard 2 x tensor 2", "shard 2 x tensor 2 by step",
        "replicate 2 x pipeline 2", "shard 2 x pipeline 2", "tensor 2 x pipeline 2",
    ]  # fmt: skip
    of_replicate = [words for words in found if words.startswith("replicate 4 ")]
    assert of_replicate == [f"replicate 4 / {size}" for size in (16, 8, 4, 2, 1)]
    assert found[:5] == of_replicate


@pytest.mark.parametrize(("speed", "is_first"), [(1009.0, False), (1011.0, True), (989.0, False)])
def test_more_than_a_hundredth_faster_comes_first(monkeypatch: pytest.MonkeyPatch, speed: float, is_first: bool):
    def speed_of(parallel: ParallelConfig, size: int) -> float:
        return speed if (parallel.pipeline, size) == (4, 4) else 1000.0

    assert (order(monkeypatch, speed_of)[0] == "pipeline 4 / 4") == is_first


def test_the_best_is_the_fastest_that_fits(monkeypatch: pytest.MonkeyPatch):
    """A faster one that does not fit is before it, in an order that is counted from the one that fits."""

    def speed_of(parallel: ParallelConfig, size: int) -> float:
        return 1e6 if parallel.tensor == 4 else 1000.0

    def bytes_of(parallel: ParallelConfig, size: int) -> int:
        return 11 if parallel.tensor == 4 else 10

    found = order(monkeypatch, speed_of, bytes_of=bytes_of)
    assert found[0] == "tensor 4 / 64"
    assert found[next(number for number, words in enumerate(found) if "tensor 4" not in words)] == "replicate 4 / 16"
    assert (
        order(monkeypatch, speed_of, bytes_of=lambda *_: 11)[0] == "replicate 4 / 16"
    )  # nothing fits: no speed counts


def test_as_much_memory_as_there_is_fits():
    one = ParallelConfig()
    assert planned(one, 1, 1, n_bytes=10, usable=10).fits
    assert not planned(one, 1, 1, n_bytes=11, usable=10).fits
    assert planned(one, 1, 1, n_bytes=11).memory_bytes == 11
    assert planned(one, 1, 500.0).tokens_per_second == 500.0
    assert usable_bytes(H100) == int(81_559 * 2**20 * 0.97)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (ParallelConfig(), ["parallel.shard=2", "parallel.pipeline=2", "train.micro_batch_size=4"]),
        (
            ParallelConfig(replicate=2, tensor=2, gather="step"),
            [
                "parallel.replicate=1", "parallel.shard=2", "parallel.tensor=1", "parallel.pipeline=2",
                "parallel.gather=layer", "train.micro_batch_size=4",
            ],
        ),
    ],
)  # fmt: skip
def test_keys_that_make_a_recipe_train_so(own: ParallelConfig, expected: list[str]):
    assert planned(ParallelConfig(shard=2, pipeline=2), 4, 1).overrides(own) == expected
    assert planned(ParallelConfig(tensor=2), 4, 1).overrides(ParallelConfig(gather="step", tensor=2)) == [
        "parallel.tensor=2", "train.micro_batch_size=4",
    ]  # fmt: skip


def test_a_layout_as_it_is_listed():
    assert planned(ParallelConfig(shard=2, gather="step"), 4, 123.456, n_bytes=9).to_dict() == {
        "replicate": 1, "shard": 2, "tensor": 1, "pipeline": 1, "gather": "step", "micro_batch_size": 4,
        "memory_bytes_per_gpu": 9, "tokens_per_second": 123.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sequences", "sizes", "values", "expected"),
    [
        (256, {}, {}, [1, 2, 4, 8, 16, 32, 64, 128]),  # no more than 128
        (258, {}, {}, [1, 2, 3, 6, 43, 86]),
        (12, {"replicate": 2}, {}, [1, 2, 3, 6]),
        (12, {"pipeline": 3}, {}, [1, 2, 3, 4]),  # three micro-batches at least
        (12, {"tensor": 8}, {}, []),  # 4 key heads
        (8, {"replicate": 2}, {"deterministic_reduction": True, "reduction_lanes": 4}, [1, 2]),
        (8, {"tensor": 2}, {"deterministic_reduction": True, "reduction_lanes": 1}, []),
    ],
)
def test_micro_batches_that_divide(sequences: int, sizes: dict[str, int], values: dict[str, Any], expected: list[int]):
    train = TrainConfig(tokens_per_step=sequences * 2048, micro_batch_size=1, **values)
    assert micro_batch_sizes(TINYLLAMA, train, ParallelConfig.model_validate(sizes)) == expected


def test_a_step_of_no_whole_sequences_has_no_micro_batch():
    train = TrainConfig(tokens_per_step=2 * 2048, micro_batch_size=1).model_copy(update={"tokens_per_step": 4097})
    assert micro_batch_sizes(TINYLLAMA, train, ParallelConfig()) == []


def test_fp8_needs_rows_in_sixteens():
    """Sequences of 8 tokens: only even numbers of them are multiples of 16."""
    train = TrainConfig(tokens_per_step=8 * 8, seq_len=8, micro_batch_size=1, precision="fp8")
    both = [micro_batch_sizes(TINYLLAMA, train, ParallelConfig(tensor=tensor)) for tensor in (1, 2)]
    bf16 = train.model_copy(update={"precision": "bf16"})
    assert micro_batch_sizes(TINYLLAMA, bf16, ParallelConfig()) == [1, 2, 4, 8]
    assert both == [[2, 4, 8], [2, 4, 8]]
