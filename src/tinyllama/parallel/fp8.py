"""The layers' products in fp8 with one scale a tensor (Micikevicius et al. 2022), by torchao."""

import os
from typing import Any

from tinyllama.errors import RecipeError
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.tensor_parallel import TensorCollectives


def to_fp8(network: PackedLlama, emulate: bool = False) -> None:
    """Let the layers' products compute in fp8; before they are compiled or sharded. Raises RecipeError without torchao.

    Slices of a layer on several ranks get the scales that it would have in one piece. `emulate` rounds to fp8 and
    multiplies in fp32, on any device: for tests.
    """
    float8 = load_float8()
    float8.convert_to_float8_training(network.layers, config=float8.Float8LinearConfig(emulate=emulate))
    if isinstance(network.partition.collectives, TensorCollectives):
        from tinyllama.parallel.fp8_slices import slice_products

        slice_products(network, network.partition.collectives)


def load_float8() -> Any:
    """torchao's module. Its compiled kernels, which training does not use, are not loaded: each wants one torch only."""
    os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")
    try:
        from torchao import float8
    except ImportError:
        raise RecipeError("train.precision: 'fp8' needs torchao: pip install 'tinyllama-pretrain[fp8]'") from None
    return float8
