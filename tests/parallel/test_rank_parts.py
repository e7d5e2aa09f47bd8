"""Which values each rank of a layout holds and counts, rank after rank in one process: sums and slices by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from tests.instruments.dry_run import _fake_ranks
from tests.tiny_model import tiny_config
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.partition import Collectives
from tinyllama.parallel.full_tensors import FullTensors
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.parallelize import materialize, parallelize, partition_config, stage_partition
from tinyllama.parallel.pipeline_parallel import stage_shapes
from tinyllama.parallel.pipeline_split import stage_layers
from tinyllama.parallel.reductions import is_sharded, padded
from tinyllama.parallel.tensor_parallel import TensorCollectives

CPU = torch.device("cpu")
# 17 rows of o and down, 12 + 6 + 6 of q k v of half the heads: two shards share neither evenly
ODD: dict[str, Any] = {
    "vocab_size": 34, "dim": 17, "head_dim": 6, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 26, "n_layers": 4,
}  # fmt: skip
LAYOUTS: list[dict[str, Any]] = [
    {"shard": 3}, {"replicate": 2, "shard": 2}, {"replicate": 2, "tensor": 2}, {"tensor": 2, "pipeline": 2},
    {"shard": 2, "pipeline": 3}, {"replicate": 2, "shard": 2, "tensor": 2},
    {"replicate": 2, "shard": 2, "tensor": 2, "pipeline": 2},
]  # fmt: skip
IN_ROWS = ("q.weight", "k.weight", "v.weight", "gate.weight", "up.weight", "embedding.weight", "head.weight")
IN_COLUMNS = ("o.weight", "down.weight")
NAMES = {"q": "qkv", "o": "o", "gate": "gate_up", "down": "down"}


class Laid:
    """One rank's part, with memory."""

    def __init__(self, config: LlamaConfig, mesh: RankMesh, **values: Any) -> None:
        formats = values.pop("formats", (None, None))
        given: dict[str, Any] = {"seq_len": 8, "recompute": "none", "is_fp8": False, "compiled": False} | values
        self.mesh, self.config = mesh, config
        self.network = parallelize(config, mesh, torch.float64, formats, **given)
        materialize(self.network, CPU)
        layers = stage_layers(config, mesh.size("pipeline"))
        self.parts = FullTensors(config, self.network.packed, mesh, layers)
        self.masters = [parameter.master for parameter in self.network.packed]


def on_every_rank(sizes: dict[str, Any]):
    """(rank, mesh) of a layout, one after another."""
    parallel = ParallelConfig.model_validate(sizes)
    for rank in range(parallel.world_size):
        with _fake_ranks(parallel, rank) as ranks:
            yield rank, ranks.mesh


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
def test_each_value_is_counted_on_one_rank(sizes: dict[str, Any], tied_head: bool):
    config = tiny_config(**ODD, tied_head=tied_head, embedding_dim=0 if tied_head else 10)
    counted = 0
    for _, mesh in on_every_rank(sizes):
        laid = Laid(config, mesh)
        own = zip(laid.network.packed, laid.masters, strict=True)
        counted += sum(master.numel() for parameter, master in own if laid.parts.is_counted(parameter))
    assert counted == config.n_parameters


def own_part(name: str, value: Tensor, sizes: dict[str, int], at: dict[str, int]) -> Tensor:
    """The slice of a tensor that a tensor rank has."""
    if name.endswith(IN_ROWS):
        return value.chunk(sizes["tensor"], 0)[at["tensor"]]
    return value.chunk(sizes["tensor"], 1)[at["tensor"]] if name.endswith(IN_COLUMNS) else value


def own_shard(value: Tensor, sizes: dict[str, int], at: dict[str, int]) -> Tensor:
    """The rows of a matrix that a shard rank has: equal chunks, the last ones shorter or empty."""
    chunks = value.chunk(sizes["shard"]) if value.dim() == 2 else [value] * sizes["shard"]
    return chunks[at["shard"]] if at["shard"] < len(chunks) else value[:0]


@pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
def test_each_rank_gets_its_rows_and_columns(sizes: dict[str, Any]):
    config = tiny_config(**ODD, embedding_dim=10)
    whole = {}
    for number, (name, value) in enumerate(Llama(config).named_parameters()):
        whole[name] = 1000.0 * number + torch.arange(value.numel(), dtype=torch.float64).view(value.shape)
    for rank, mesh in on_every_rank(sizes):
        laid = Laid(config, mesh)
        for master in laid.masters:
            master.fill_(-1)
        for name, value in whole.items():
            laid.parts.scatter(name, value, laid.masters)
        held = set()
        for parameter, master in zip(laid.network.packed, laid.masters, strict=True):
            axes = mesh.parallel.sizes
            slices = [own_part(name, whole[name], axes, mesh.coordinates) for name in parameter.names]
            assert torch.equal(master, own_shard(torch.cat(slices), axes, mesh.coordinates)), (rank, parameter.names)
            held |= set(parameter.names)
        layers = stage_layers(config, mesh.size("pipeline"))[mesh.at("pipeline")]
        wanted = {name for name in whole if name.startswith(tuple(f"layers.{layer}." for layer in layers))}
        wanted |= {"embedding.weight", "embedding_projection.weight"} if mesh.is_first_stage else set()
        wanted |= {"norm.weight", "head.weight", "head_projection.weight"} if mesh.is_last_stage else set()
        assert held == wanted


# -- what is wrapped around it -----------------------------------------------------------------------------------------


def test_only_shards_are_sharded_and_norms_never():
    for sizes, is_sliced in (({"tensor": 2}, False), ({"shard": 2}, True), ({"shard": 2, "tensor": 2}, True)):
        for _, mesh in on_every_rank(sizes):
            laid = Laid(tiny_config(), mesh)
            assert laid.network.partition.keeps_masters == is_sliced
            modules = [laid.network, *laid.network.layers]
            assert [isinstance(module, FSDPModule) for module in modules] == [is_sliced] * 3
            for parameter in laid.network.packed:
                assert is_sharded(parameter.leaf) == (is_sliced and not parameter.names[0].endswith("norm.weight"))


def test_slices_know_their_place():
    heads, places = [], []
    for _, mesh in on_every_rank({"tensor": 2, "pipeline": 2}):
        laid = Laid(tiny_config(n_layers=4), mesh)
        slices, part = laid.network.partition.collectives, laid.network.partition
        assert isinstance(slices, TensorCollectives)
        heads.append((slices.at, slices.size, slices.first_head))
        places.append((part.first_layer, part.is_first, part.is_last, part.seq_len, len(laid.network.layers)))
    assert heads == [(0, 2, 0), (1, 2, 2)] * 2
    n_first = len(stage_layers(tiny_config(n_layers=4), 2)[0])
    first, last = (0, True, False, 8, n_first), (n_first, False, True, 8, 4 - n_first)
    assert places == [first, first, last, last]


def test_masters_stay_exact_and_products_read_short_copies():
    formats = (torch.bfloat16, torch.float32)
    for sizes, tied in (({"tensor": 2}, True), ({"pipeline": 2}, True), ({"shard": 2}, False), ({"tensor": 2}, False)):
        for _, mesh in on_every_rank(sizes):
            laid = Laid(tiny_config(tied_head=tied), mesh, formats=formats)
            network = laid.network
            assert (network.compute_dtype, network.stream_dtype) == formats
            for parameter in network.packed:
                is_product = not parameter.names[0].endswith("norm.weight") and parameter.leaf is not network.embedding
                is_tied = network.head is None and network.partition.is_last and parameter is network.output
                has_copy = (is_product or is_tied) and not network.partition.keeps_masters
                assert parameter.master.dtype == torch.float64
                assert (parameter.copy is not None) == has_copy, parameter.names
                parameter.master.fill_(3.0)
                if parameter.copy is not None:
                    assert parameter.copy.dtype == torch.bfloat16
                    parameter.copy.fill_(0.0)
            network.refresh()
            assert all((parameter.copy == 3).all() for parameter in network.packed if parameter.copy is not None)
            if network.partition.is_last and not network.partition.keeps_masters:
                assert network.output_weight.dtype == torch.bfloat16
                assert (network.output_weight == 3).all()


def test_compilation_and_recompute_reach_the_network(monkeypatch: pytest.MonkeyPatch):
    from tinyllama.model.packed_llama import PackedLlama

    compiled: list[Any] = []
    monkeypatch.setattr(PackedLlama, "compile", lambda self: compiled.append(self))
    for _, mesh in on_every_rank({"tensor": 2}):
        network = Laid(tiny_config(), mesh, recompute="full").network
        assert [layer.recompute for layer in network.layers] == ["full", "full"]
        assert compiled == []
        network = Laid(tiny_config(), mesh, compiled=True).network
        assert compiled == [network]
        compiled.clear()


def test_sizes_of_a_part():
    config = tiny_config(n_layers=4, embedding_dim=16)
    part = partition_config(config, 2, range(1, 4))
    assert part == replace(config, n_layers=3, n_heads=2, n_kv_heads=1, ffn_dim=24, vocab_size=256)
    places = [
        (part.first_layer, part.is_first, part.is_last)
        for part in (
            stage_partition(config, layers, Collectives()) for layers in (range(2), range(2, 3), range(3, 4), range(4))
        )
    ]
    assert places == [(0, True, False), (2, False, False), (3, False, True), (0, True, True)]


@pytest.mark.parametrize("embedding_dim", [0, 16])
def test_what_stages_take_and_give(embedding_dim: int):
    config, found = tiny_config(embedding_dim=embedding_dim), []
    for sizes in ({"pipeline": 2}, {"pipeline": 2, "tensor": 2}):
        for _, mesh in on_every_rank(sizes):
            laid = Laid(config, mesh, formats=(torch.bfloat16, torch.float32))
            for value in stage_shapes(laid.network, 3):
                found.append((tuple(value.shape), value.dtype, value.requires_grad))
    width = embedding_dim or 32
    tokens = (3, 8), torch.int64, False
    stream, cut = ((3, 8, 32), torch.float32, True), ((12, 32), torch.float32, True)
    hidden, cut_hidden = ((3, 8, width), torch.bfloat16, True), ((12, width), torch.bfloat16, True)
    assert found == [tokens, stream, stream, hidden] + [tokens, cut] * 2 + [cut, cut_hidden] * 2


# -- where a rank stands -----------------------------------------------------------------------------------------------


def test_groups_of_a_rank():
    sizes = {"replicate": 2, "tensor": 2, "pipeline": 3}
    ends, lines = [], []
    for rank, mesh in on_every_rank(sizes):
        group = mesh._ends
        ends.append(dist.get_process_group_ranks(group) if rank // 4 != 1 and group is not None else None)
        lines.append([dist.get_process_group_ranks(mesh.group(axis)) for axis in ("pipeline", "replicate", "tensor")])
        assert (mesh.is_first_stage, mesh.is_last_stage) == (rank < 4, rank >= 8)
        assert [mesh.size(axis) for axis in ("pipeline", "replicate", "shard", "tensor")] == [3, 2, 1, 2]
        assert mesh.data.size() == 2
    assert ends == [[rank % 4, rank % 4 + 8] if rank // 4 != 1 else None for rank in range(12)]
    assert lines[6] == [[2, 6, 10], [4, 6], [6, 7]]
    for _, mesh in on_every_rank({"shard": 2, "tensor": 2}):
        assert mesh._ends is None
        assert mesh.data.mesh_dim_names == ("shard",)
    for _, mesh in on_every_rank({"shard": 2, "replicate": 2}):
        assert mesh.data.mesh_dim_names == ("replicate", "shard")


def test_sums_go_over_the_axis_that_is_meant(monkeypatch: pytest.MonkeyPatch):
    over: list[list[int]] = []
    for _, mesh in on_every_rank({"replicate": 2, "pipeline": 3}):
        with monkeypatch.context() as patch:
            patch.setattr(
                dist, "all_reduce", lambda _, group: over.append(dist.get_process_group_ranks(group)), raising=True
            )
            mesh.sum(torch.zeros(1), "tensor")
            mesh.sum(torch.zeros(1), "replicate")
            mesh.sum_over_ends(torch.zeros(1))
    assert over == [[0, 1], [0, 4], [0, 1], [1, 5], [2, 3], [2, 3], [4, 5], [0, 4], [4, 5], [1, 5]]


def test_pieces_of_the_vocabulary():
    """Rank 2 of three has rows 10 to 14."""
    slices = TensorCollectives.__new__(TensorCollectives)
    slices.at = 2
    inside, local = slices.own_tokens(torch.tensor([9, 10, 12, 14, 15, -1, 0]), 5)
    assert inside.tolist() == [False, True, True, True, False, False, False]
    assert local.tolist() == [0, 0, 2, 4, 0, 0, 0]


@pytest.mark.parametrize(
    ("size", "multiple", "expected"), [(0, 64, 0), (1, 64, 64), (64, 64, 64), (65, 64, 128), (7, 3, 9)]
)
def test_padding(size: int, multiple: int, expected: int):
    assert padded(size, multiple) == expected
    assert multiple != 64 or padded(size) == expected
