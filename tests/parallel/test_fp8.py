"""Which products become fp8, and what is said where they cannot."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.instruments.dry_run import _fake_ranks
from tests.tiny_model import tiny_config, tiny_llama
from tinyllama.errors import RecipeError
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel import fp8
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.parallelize import parallelize


def test_without_torchao_the_mend_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.delenv("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", raising=False)
    with pytest.raises(
        RecipeError, match=r"^train\.precision: 'fp8' needs torchao: pip install 'tinyllama-pretrain\[fp8\]'"
    ):
        fp8.load_float8()
    assert os.environ["TORCHAO_FORCE_SKIP_LOADING_SO_FILES"] == "1"


@pytest.mark.parametrize("emulate", [False, True])
def test_only_the_layers_are_converted(monkeypatch: pytest.MonkeyPatch, emulate: bool):
    given: list[Any] = []
    stand_in = SimpleNamespace(
        Float8LinearConfig=lambda emulate: ("config", emulate),
        convert_to_float8_training=lambda modules, config: given.append((modules, config)),
    )
    monkeypatch.setattr(fp8, "load_float8", lambda: stand_in)
    network = PackedLlama(tiny_llama())
    fp8.to_fp8(network, *([True] if emulate else []))
    assert given == [(network.layers, ("config", emulate))]


def test_slices_take_the_place_of_each_product_with_its_weight():
    pytest.importorskip("torchao")
    from torchao.float8.float8_linear import Float8Linear

    from tinyllama.parallel.fp8_slices import SLICED_BY_ROWS, Fp8Slice

    assert SLICED_BY_ROWS == {"qkv": True, "o": False, "gate_up": True, "down": False}
    config = tiny_config(dim=64, n_heads=4, n_kv_heads=4, ffn_dim=64)
    for sizes, kind in (({"tensor": 2}, Fp8Slice), ({"shard": 2}, Float8Linear)):
        with _fake_ranks(ParallelConfig.model_validate(sizes), 0) as ranks:
            network = parallelize(
                config, ranks.mesh, torch.float32, (torch.bfloat16, torch.bfloat16), seq_len=8, recompute="none",
                is_fp8=True, compiled=False,
            )  # fmt: skip
            leaves = {parameter.path: parameter.leaf for parameter in network.packed}
            for number, layer in enumerate(network.layers):
                for name, is_row_sliced in SLICED_BY_ROWS.items():
                    product: Any = getattr(layer, name)
                    assert isinstance(product, kind)
                    if isinstance(product, Fp8Slice):
                        assert product._is_row_sliced == is_row_sliced
                        assert product.weight is leaves[f"layers.{number}.{name}.weight"]
                        assert product._group == ranks.mesh.group("tensor").group_name
