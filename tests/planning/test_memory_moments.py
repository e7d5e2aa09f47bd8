"""What is there at each moment of a step, by hand: of a network of 5 layers with narrow embeddings.

One layer's products: 32 x 8 x 12 of attention, 3 x 32 x 48 of the feed-forward, 7,680 together. An embedding or head of
1,000 pieces and width 16: 16,000. A projection: 512. Norms: 64 a layer, 32 at the end.
"""

from dataclasses import replace
from typing import Any

import pytest

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.memory import (
    _gathered_bytes,
    _gradient_bytes,
    _loss_bytes,
    _stream_bytes,
    memory_parts,
    micro_batches_in_flight,
    micro_batches_per_rank,
    process_groups,
)
from tinyllama.planning.stage_sizes import Stage, stages
from tinyllama.train.train_config import TrainConfig

MODEL = LlamaConfig(
    vocab_size=1000, seq_len=64, dim=32, n_layers=5, n_heads=4, n_kv_heads=2, ffn_dim=48, embedding_dim=16
)
FEW_PIECES = replace(MODEL, vocab_size=100)
LAYER, TABLE, PROJECTION = 7680, 16_000, 512
ALL = 5 * LAYER + 2 * PROJECTION + 2 * TABLE + 11 * 32


def recipe(parallel: ParallelConfig, micro_batches: int, micro_batch_size: int = 1, **values: Any) -> TrainConfig:
    """`micro_batches`: of one data rank."""
    seq_len = values.pop("seq_len", 64)
    tokens = micro_batches * parallel.data_ranks * micro_batch_size * seq_len
    return TrainConfig(tokens_per_step=tokens, micro_batch_size=micro_batch_size, seq_len=seq_len, **values)


def moment(function: Any, sizes: dict[str, Any], micro_batches: int, *more: Any, stage: int = 0, **values: Any) -> Any:
    """Of a function of stage, recipe and layout."""
    model, parallel = values.pop("model", MODEL), ParallelConfig.model_validate(sizes)
    found = list(stages(model, parallel))[stage]
    return tuple(function(found, recipe(parallel, micro_batches, **values), parallel, *more))


@pytest.mark.parametrize(
    ("sizes", "micro_batches", "values", "expected"),
    [
        ({"replicate": 2}, 2, {}, (0, 0, 0)),
        # in the loss: tables in fp32, the head's short copy and its gradient; in the backward pass two layers; at the end
        # the tables' gradients
        ({"shard": 2}, 2, {}, (128_000 + 32_000 + 64_000, 128_000 + 30_720, 128_000 + 128_000)),
        ({"shard": 2}, 1, {}, (224_000, 128_000 + 30_720 + 64_000, 256_000)),  # the head's gradient is the sum itself
        ({"shard": 2}, 2, {"precision": "fp32"}, (128_000 + 64_000, 128_000 + 61_440, 256_000)),  # no short copy
        # few pieces: the last layer, with its gradient in both formats, is more than the tables
        ({"shard": 2}, 2, {"model": FEW_PIECES}, (22_400, 12_800 + 30_720, 12_800 + 30_720 + 6 * LAYER)),
        (
            {"shard": 2, "gather": "step"}, 2, {"model": FEW_PIECES},
            (22_400 + 78_848, 12_800 + 78_848, 12_800 + 2 * LAYER + 6 * LAYER),
        ),
        # copies sum the layers' shards at the end
        ({"replicate": 2, "shard": 4}, 2, {}, (224_000, 158_720, 256_000 + 5 * LAYER)),
        ({"shard": 2, "gather": "step"}, 2, {}, (78_848 + 224_000, 78_848 + 128_000, 256_000)),
    ],
)  # fmt: skip
def test_gathered_weights(
    sizes: dict[str, Any], micro_batches: int, values: dict[str, Any], expected: tuple[int, int, int]
):
    assert moment(_gathered_bytes, sizes, micro_batches, **values) == expected


def test_gathered_weights_of_stages():
    """All of a stage's layers stay, with the projection, in 16 bits; the last stage has the head's gradient."""
    first, last = (moment(_gathered_bytes, {"shard": 2, "pipeline": 2}, 2, stage=stage) for stage in (0, 1))
    (n_first, n_last) = (stage.n_layers for stage in stages(MODEL, ParallelConfig(pipeline=2)))
    assert (n_first, n_last) == (3, 2)  # the head is worth 1.2 layers
    staying = [2 * (n_layers * LAYER + PROJECTION) for n_layers in (n_first, n_last)]
    assert first[1:] == (staying[0] + 64_000, staying[0] + 64_000)
    assert last == (staying[1] + 64_000 + 32_000 + 64_000, staying[1] + 64_000, staying[1] + 64_000)


@pytest.mark.parametrize(("seq_len", "has_gradient"), [(8192, False), (8194, True)])
def test_a_slice_s_head_gradient_is_there_in_the_loss_of_several_chunks(seq_len: int, has_gradient: bool):
    in_loss = moment(_gathered_bytes, {"shard": 2, "tensor": 2}, 1, seq_len=seq_len)[0]
    assert in_loss == 64_000 + 16_000 + (32_000 if has_gradient else 0)


@pytest.mark.parametrize(
    ("sizes", "number", "expected"),
    [
        # 16 bits where products read copies, but the head's is made in fp32; all fp32 from the second micro-batch on
        ({}, 0, (0, 4 * ALL - 2 * (5 * LAYER + 2 * PROJECTION))),
        ({}, 1, (4 * ALL - 2 * (5 * LAYER + 2 * PROJECTION), 4 * ALL)),
        ({}, 2, (4 * ALL, 4 * ALL)),
        ({}, 3, (4 * ALL, 4 * ALL)),
        # a quarter of the layers, all of tables and norms
        ({"shard": 4}, 0, (0, 4 * ALL - 4 * (39_424 - 9856))),
        ({"shard": 4}, 3, (4 * ALL - 4 * (39_424 - 9856),) * 2),
        ({"shard": 4, "gather": "step"}, 0, (0, 4 * ALL)),
        ({"shard": 4, "gather": "step"}, 2, (4 * ALL, 4 * ALL)),
        ({"shard": 4, "gather": "step"}, 3, (4 * ALL, 4 * ALL - 4 * (39_424 - 9856))),
    ],
)
def test_sums_of_gradients_before_and_after_each_of_four_micro_batches(
    sizes: dict[str, Any], number: int, expected: tuple[int, int]
):
    assert moment(_gradient_bytes, sizes, 4, number) == expected


def test_copies_sum_in_fp32_after_the_last_micro_batch():
    short = 4 * ALL - 2 * (5 * LAYER + 2 * PROJECTION)
    assert moment(_gradient_bytes, {"replicate": 2}, 1, 0) == (0, 4 * ALL)
    assert moment(_gradient_bytes, {"replicate": 2}, 2, 0) == (0, short)
    assert moment(_gradient_bytes, {}, 1, 0) == (0, short)
    assert moment(_gradient_bytes, {"replicate": 2}, 2, 0, precision="fp32") == (0, 4 * ALL)


def test_a_first_stage_s_gradients_are_short_but_for_the_embedding():
    held = 3 * LAYER + PROJECTION + TABLE + 6 * 32
    found = moment(_gradient_bytes, {"pipeline": 2}, 2, 0)
    assert found == (0, 4 * held - 2 * (3 * LAYER + PROJECTION))
    # shards of stages are shared out after the pipeline has ended
    assert moment(_gradient_bytes, {"shard": 2, "pipeline": 2}, 2, 1) == (4 * held, 4 * held)


@pytest.mark.parametrize(
    ("sizes", "micro_batches", "expected"),
    [
        ({}, 1, (2 * 64 * 1000 + 2048, 2048)),
        ({}, 2, (2 * 64 * 1000 + 2 * 2048, 2048)),  # the former micro-batch's gradients of the hidden states
        ({"tensor": 2}, 1, (6 * 64 * 500 + 2 * 2048, 1024)),
    ],
)
def test_the_loss_and_what_is_left_after_it(sizes: dict[str, Any], micro_batches: int, expected: tuple[int, int]):
    parallel = ParallelConfig.model_validate(sizes)
    assert _loss_bytes(MODEL, recipe(parallel, micro_batches), parallel) == expected


@pytest.mark.parametrize(
    ("precision", "stage", "expected"),
    # sent streams wait, two gradients may be on their way; and the gradient that goes back, of all but the first stage
    [("bf16", 0, (3 + 2) * 4096), ("bf16", 1, (1 + 2 + 2) * 4096), ("bf16", 2, 4096), ("fp16", 2, 8192)],
)
def test_streams_on_their_way_between_three_stages(precision: Any, stage: int, expected: int):
    parallel = ParallelConfig(pipeline=3)
    chosen = list(stages(MODEL, parallel))[stage]
    assert _stream_bytes(chosen, recipe(parallel, 8, precision=precision), parallel) == expected
    sliced = ParallelConfig(pipeline=3, tensor=2)
    assert _stream_bytes(chosen, recipe(sliced, 8, precision=precision), sliced) == expected // 2
    assert _stream_bytes(chosen, recipe(ParallelConfig(), 8, precision=precision), ParallelConfig()) == 0


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ({}, 0), ({"replicate": 2}, 1), ({"shard": 2}, 2), ({"tensor": 2}, 2), ({"replicate": 2, "shard": 2}, 3),
        ({"pipeline": 2}, 3), ({"replicate": 2, "shard": 2, "tensor": 2, "pipeline": 2}, 6),
    ],
)  # fmt: skip
def test_groups_of_ranks(sizes: dict[str, int], groups: int):
    assert process_groups(ParallelConfig.model_validate(sizes)) == groups


def test_the_driver_s_and_the_libraries_share():
    alone, pair = (memory_parts(MODEL, recipe(p, 2), p) for p in (ParallelConfig(), ParallelConfig(replicate=2)))
    assert alone["context"] == 820_000_000
    assert pair["context"] == 1_820_000_000
    assert memory_parts(MODEL, recipe(ParallelConfig(), 2), on_gpu=False)["context"] == 0
    on_cpu = memory_parts(MODEL, recipe(ParallelConfig(), 2, compile="on"), on_gpu=False)
    assert alone["buffers"] - on_cpu["buffers"] == 64 * 2**20


def test_micro_batches_of_a_rank_and_of_a_stage():
    parallel = ParallelConfig(replicate=2, shard=2, pipeline=3)
    assert micro_batches_per_rank(recipe(parallel, 5, 2), parallel) == 5
    assert micro_batches_per_rank(TrainConfig(tokens_per_step=64, seq_len=64, micro_batch_size=1), parallel) == 1
    every = list(stages(MODEL, parallel))
    assert [micro_batches_in_flight(stage, recipe(parallel, 5), parallel) for stage in every] == [3, 2, 1]
    assert [micro_batches_in_flight(stage, recipe(parallel, 2), parallel) for stage in every] == [2, 2, 1]


# -- what stages hold --------------------------------------------------------------------------------------------------


def stage_of(n_layers: int, is_first: bool, is_last: bool, tensor: int = 1, **changes: Any) -> Stage:
    return Stage(replace(MODEL, **changes), n_layers, is_first, is_last, tensor, 0)


@pytest.mark.parametrize(
    ("stage", "tables", "projections", "norms", "products"),
    [
        (stage_of(5, True, True), 2 * TABLE, 1024, 352, 5 * LAYER + 1024 + TABLE),
        (stage_of(2, True, False), TABLE, 512, 128, 2 * LAYER + 512),
        (stage_of(3, False, False), 0, 0, 192, 3 * LAYER),
        (stage_of(1, False, True), TABLE, 512, 96, LAYER + 512 + TABLE),
        (stage_of(5, True, True, tied_head=True), TABLE, 1024, 352, 5 * LAYER + 1024 + TABLE),
        (stage_of(1, False, True, tied_head=True), TABLE, 512, 96, LAYER + 512 + TABLE),  # a copy of the first one's
        (stage_of(1, False, True, embedding_dim=32), 2 * TABLE, 0, 96, LAYER + 2 * TABLE),
        (stage_of(5, True, True, tensor=2), TABLE, 1024, 352, 5 * LAYER // 2 + 1024 + TABLE // 2),
    ],
)
def test_what_a_stage_holds(stage: Stage, tables: int, projections: int, norms: int, products: int):
    assert (stage.tables, stage.projections, stage.norms, stage.matmul_parameters) == (
        tables,
        projections,
        norms,
        products,
    )
    in_layers = stage.n_layers * LAYER // stage.tensor
    assert stage.parameters == in_layers + tables + projections + norms
    assert stage.held(1) == stage.parameters
    shared = in_layers + tables + projections
    assert stage.held(7) == shared // 7 + (shared % 7 > 0) + norms
