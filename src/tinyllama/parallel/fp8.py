"""The layers' matmuls in fp8 with one scale per tensor (Micikevicius et al. 2022), by torchao."""

import os
from typing import Any

from tinyllama.errors import RecipeError
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.tensor_parallel import TensorCollectives


def to_fp8(network: PackedLlama, emulate: bool = False) -> None:
    """Convert the layers' matmuls to fp8; before they are compiled or sharded. Raises RecipeError without torchao.

    Slices of a layer on several ranks get the scales of the unsliced layer. `emulate` rounds to fp8 and
    multiplies in fp32, on any device: for tests.
    """
    float8 = load_float8()
    float8.convert_to_float8_training(network.layers, config=float8.Float8LinearConfig(emulate=emulate))
    if isinstance(network.partition.collectives, TensorCollectives):
        from tinyllama.parallel.fp8_slices import slice_matmuls

        slice_matmuls(network, network.partition.collectives)


def load_float8() -> Any:
    """torchao's module, without its compiled kernels: training needs none, and each supports one torch version only."""
    os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")
    try:
        from torchao import float8
    except ImportError:
        raise RecipeError("train.precision: 'fp8' needs torchao: pip install 'tinyllama-pretrain[fp8]'") from None
    return float8
