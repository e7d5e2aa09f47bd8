import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.devices import KINDS
from tinyllama.model.llama_config import PRESETS
from tinyllama.parallel.layout import AXES, ParallelConfig
from tinyllama.planning.find_layouts import find_layouts, layouts_of, plan_layout
from tinyllama.recipe import load_recipe
from tinyllama.train.train_config import TrainConfig

TINYLLAMA = PRESETS["tinyllama-1.1b"]
A100, H100 = KINDS["A100-40G"], KINDS["H100"]


def test_products_of_four_axes_by_hand():
    # 16 = 2^4 is spread over four axes in (4 + 3 choose 3) ways, 6 = 2 x 3 in 4 x 4
    for count, ways, without_pipeline, not_sharded in ((1, 1, 1, 1), (2, 4, 3, 2), (6, 16, 9, 4), (16, 35, 15, 5)):
        layouts = list(layouts_of(count))
        by_step = [layout for layout in layouts if layout.gather == "step"]  # another way where shards have no stages
        assert (len(layouts) - len(by_step), len(by_step)) == (ways, without_pipeline - not_sharded)
        assert len({layout.words() for layout in layouts}) == len(layouts)
    assert all(layout.world_size == 16 for layout in layouts_of(16))


def test_sixteen_devices():
    layouts = find_layouts(TINYLLAMA, TrainConfig(), 16, A100)
    # 32 heads, but 4 key heads: tensor is 1, 2 or 4; 22 layers: pipeline is whatever divides 16
    assert {layout.parallel.tensor for layout in layouts} == {1, 2, 4}
    assert {layout.parallel.pipeline for layout in layouts} == {1, 2, 4, 8, 16}
    fitting = [layout for layout in layouts if layout.fits]
    assert fitting[0].overrides() == ["parallel.shard=16", "parallel.gather=step", "train.micro_batch_size=8"]
    assert fitting[0].overrides(ParallelConfig(gather="step")) == ["parallel.shard=16", "train.micro_batch_size=8"]
    assert fitting[0].tokens_per_second > 0.985 * max(layout.tokens_per_second for layout in fitting)


def test_the_faster_come_first_but_for_one_percent():
    speeds = [layout.tokens_per_second for layout in find_layouts(TINYLLAMA, TrainConfig(), 8, H100)]
    assert all(later < 1.011 * earlier for earlier, later in itertools.pairwise(speeds))


def test_equals_are_replicated_first():
    first = next(layout for layout in find_layouts(TINYLLAMA, TrainConfig(), 8, H100) if layout.fits)
    assert first.parallel == ParallelConfig(replicate=8)


def test_one_device_has_one_layout():
    assert {layout.parallel.words() for layout in find_layouts(TINYLLAMA, TrainConfig(), 1, H100)} == {"one process"}


def test_one_order_of_sums_is_for_replicated_ranks():
    train = TrainConfig(deterministic_reduction=True)
    layouts = find_layouts(TINYLLAMA, train, 8, H100)
    assert {layout.parallel.words() for layout in layouts} == {"replicate 8"}
    assert find_layouts(TINYLLAMA, train, 16, H100) == []  # 8 lanes


def test_fp8_has_every_layout_whose_widths_it_can_have():
    both = [find_layouts(TINYLLAMA, TrainConfig(precision=name), 8, H100) for name in ("bf16", "fp8")]
    assert {layout.parallel.words() for layout in both[0]} == {layout.parallel.words() for layout in both[1]}
    narrow = replace(TINYLLAMA, ffn_dim=5616)  # 351 x 16
    layouts = find_layouts(narrow, TrainConfig(precision="fp8"), 8, H100)
    assert {layout.parallel.tensor for layout in layouts} == {1}


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([1, 2, 3, 4, 6, 8, 11, 16]), st.sampled_from(["tinyllama-1b", "small-120m", "quickstart"]))
def test_pretrain_takes_every_layout_that_is_found(n_gpus: int, name: str):
    recipe = load_recipe(name)
    for layout in find_layouts(recipe.llama_config(), recipe.train, n_gpus, H100)[:10]:
        taken = load_recipe(name, layout.overrides())
        assert taken.parallel.words() == layout.parallel.words()
        assert taken.parallel.world_size == n_gpus


def test_a_layout_needs_what_its_parts_need():
    planned = plan_layout(TINYLLAMA, TrainConfig(micro_batch_size=4), ParallelConfig(shard=8, tensor=2), A100)
    assert planned.memory_bytes == sum(planned.memory_parts.values())
    assert planned.tokens_per_second == pytest.approx(2_097_152 / planned.time.total)
    assert list(planned.to_dict()) == [*AXES, "gather", "micro_batch_size", "memory_bytes_per_gpu", "tokens_per_second"]


def test_a_16_gb_card_needs_recompute_and_short_moments():
    card = replace(KINDS["RTX4090"], memory_bytes=16_376 * 2**20)
    train = TrainConfig(tokens_per_step=8192, micro_batch_size=4)

    def fits(**changes: Any) -> bool:
        return any(layout.fits for layout in find_layouts(TINYLLAMA, train.model_copy(update=changes), 1, card))

    assert not fits(recompute="full")
    assert fits(recompute="full", optimizer_state="bf16")  # as measured: benchmarks/memory_by_setting.py
