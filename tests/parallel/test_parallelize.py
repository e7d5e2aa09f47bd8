"""The table of slices: every parameter is in it, and what it cuts can be joined again."""

import pytest
import torch

from tests.tiny_model import tiny_llama
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import PRESETS
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.parallelize import COLUMNS, ROWS, WHOLE, partition_config, slice_style
from tinyllama.parallel.pipeline_split import stage_layers


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("stage", [0, 1])
def test_every_parameter_has_a_style_and_its_part_the_shape(name: str, tensor: int, stage: int):
    layers = stage_layers(PRESETS[name], 2)[stage]
    with torch.device("meta"):
        whole, part = Llama(PRESETS[name]), Llama(partition_config(PRESETS[name], tensor, layers))
    for key, value in part.named_parameters():
        shape = list(whole.get_parameter(key).shape)
        style = slice_style(key)
        if style is not None:
            shape[style] //= tensor
        assert list(value.shape) == shape, key
    assert len(part.layers) == len(layers)


def test_styles_by_hand():
    model = tiny_llama(embedding_dim=16)
    styles = {name.removesuffix(".weight"): slice_style(name) for name, _ in model.named_parameters()}
    assert {name for name, style in styles.items() if style == COLUMNS} == {
        f"layers.{layer}.{part}" for layer in range(2) for part in ("attention.o", "feed_forward.down")
    }
    assert {name for name, style in styles.items() if style is WHOLE and "layers" not in name} == {
        "norm", "embedding_projection", "head_projection",
    }  # fmt: skip
    assert styles["embedding"] == styles["head"] == styles["layers.1.attention.k"] == ROWS
    with pytest.raises(KeyError):
        slice_style("layers.0.attention.bias")


def test_places_of_ranks_by_hand():
    """Neighbours slice, then share shards, then copy; stages are furthest apart."""
    layout = ParallelConfig(replicate=2, shard=2, tensor=2, pipeline=2)
    assert layout.coordinates(0) == {"pipeline": 0, "replicate": 0, "shard": 0, "tensor": 0}
    assert layout.coordinates(1) == {"pipeline": 0, "replicate": 0, "shard": 0, "tensor": 1}
    assert layout.coordinates(10) == {"pipeline": 1, "replicate": 0, "shard": 1, "tensor": 0}
    assert [layout.data_rank(rank) for rank in range(16)] == [0, 0, 1, 1, 2, 2, 3, 3] * 2
