"""Builds this rank's part of a network: tensor slices, recomputation, fp8, torch.compile, FSDP2.

There is one valid order, the order of the code: slices first, because they decide the shapes; then recomputation and fp8
matmuls, inside what is compiled; then the compiler, inside what gathers weights; sharding last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.packed_llama import PackedLlama, PackedParameter, Recompute
from tinyllama.model.partition import Collectives, Partition
from tinyllama.parallel.fp8 import to_fp8
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.pipeline_split import stage_layers
from tinyllama.parallel.reductions import is_sharded, local
from tinyllama.parallel.tensor_parallel import TensorCollectives

ROWS, COLUMNS, WHOLE = 0, 1, None  # the dimension of a matrix (out, in) that is split over tensor ranks

SLICE_STYLE: dict[str, int | None] = {  # last words of a canonical name: how it is split over tensor ranks
    "embedding": ROWS,  # rows of the vocabulary
    "attention.q": ROWS,  # heads
    "attention.k": ROWS,
    "attention.v": ROWS,
    "attention.o": COLUMNS,  # the same heads
    "feed_forward.gate": ROWS,
    "feed_forward.up": ROWS,
    "feed_forward.down": COLUMNS,
    "head": ROWS,  # rows of the vocabulary
    # Between the matmuls each rank has its own tokens, and these unsplit:
    "attention_norm": WHOLE,
    "feed_forward_norm": WHOLE,
    "norm": WHOLE,
    "embedding_projection": WHOLE,
    "head_projection": WHOLE,
}


def slice_style(name: str) -> int | None:
    """Of a canonical parameter name, such as layers.3.attention.q.weight."""
    words = name.removesuffix(".weight").split(".")
    return SLICE_STYLE[".".join(words[2:] if words[0] == "layers" else words)]


def partition_config(config: LlamaConfig, tensor: int, layers: range) -> LlamaConfig:
    """Sizes of one of `tensor` ranks, in a stage with these layers; what cannot be split was refused before."""
    return replace(
        config,
        n_layers=len(layers),
        n_heads=config.n_heads // tensor,
        n_kv_heads=config.n_kv_heads // tensor,
        ffn_dim=config.ffn_dim // tensor,
        vocab_size=config.vocab_size // tensor,
    )


def stage_partition(
    config: LlamaConfig, layers: range, slices: Collectives, seq_len: int = 0, *, is_sharded: bool = False
) -> Partition:
    """What the stage with these layers holds."""
    is_last = layers.stop == config.n_layers
    return Partition(slices, layers.start, layers.start == 0, is_last, seq_len, keeps_masters=is_sharded)


@contextmanager
def without_initial_values() -> Iterator[None]:
    """Linear and Embedding are made undefined. On the meta device alone PyTorch's initial values would load its symbolic
    shapes, which takes two seconds."""
    kinds: list[Any] = [nn.Linear, nn.Embedding]
    kept = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda module: None
    try:
        yield
    finally:
        for kind, reset in zip(kinds, kept, strict=True):
            kind.reset_parameters = reset


def meta_llama(config: LlamaConfig) -> Llama:
    """A network on the meta device, without memory."""
    with torch.device("meta"), without_initial_values():
        return Llama(config)


def parallelize(
    config: LlamaConfig,
    mesh: RankMesh,
    dtype: torch.dtype,
    formats: tuple[torch.dtype | None, torch.dtype | None],
    *,
    seq_len: int,
    recompute: Recompute,
    is_fp8: bool,
    compiled: bool,
) -> PackedLlama:
    """This rank's partition of the network, on the meta device: `materialize` is next. So no device ever holds all of it.

    `dtype`: of the masters. `formats`: of matmuls and residual stream, None the masters'.
    """
    tensor = mesh.size("tensor")
    layers = stage_layers(config, mesh.size("pipeline"), recompute)[mesh.at("pipeline")]
    sizes = partition_config(config, tensor, layers)
    slices = Collectives()
    if tensor > 1:
        at = mesh.at("tensor")
        slices = TensorCollectives(mesh.group("tensor"), at, tensor, first_head=at * sizes.n_heads)
    partition = stage_partition(config, layers, slices, seq_len, is_sharded=mesh.size("shard") > 1)
    network = PackedLlama(meta_llama(sizes).to(dtype), *formats, recompute, partition)
    if is_fp8:
        to_fp8(network)
    if compiled:
        network.compile()
    if mesh.size("shard") > 1:
        from tinyllama.parallel.fsdp import shard  # PyTorch's takes two seconds to load

        shard(network, mesh)
    return network


def materialize(network: PackedLlama, device: torch.device) -> None:
    """Allocate memory on the device for what `parallelize` built; values are undefined."""
    dtype = network.packed[0].master.dtype

    def allocate(value: torch.Tensor) -> torch.Tensor:
        """As `to_empty`; `empty_like` of the meta device loads PyTorch's symbolic shapes, which takes a second."""
        if is_sharded(value):
            return torch.empty_like(value, device=device)
        return torch.empty(value.shape, dtype=value.dtype, device=device)

    network._apply(allocate)
    network.packed = [_with_memory(parameter, network, dtype) for parameter in network.packed]


def _with_memory(parameter: PackedParameter, network: PackedLlama, dtype: torch.dtype) -> PackedParameter:
    """The entry of a leaf that now has memory, with a master and a copy as the entry had them."""
    leaf: Any = network.get_parameter(parameter.path)
    if network.partition.keeps_masters and hasattr(leaf, "to_local"):
        return replace(parameter, master=local(leaf), leaf=leaf)
    values = leaf.detach()
    if parameter.copy is None:
        return replace(parameter, master=values, leaf=leaf)
    master = torch.empty(values.shape, dtype=dtype, device=values.device)
    if leaf is network.embedding:  # tied: the head reads a copy, the look-up reads the master
        network.tied_copy = torch.empty_like(values, dtype=network.compute_dtype)
        return replace(parameter, master=values, leaf=leaf, copy=network.tied_copy)
    return replace(parameter, master=master, leaf=leaf, copy=values)
