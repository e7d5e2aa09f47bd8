"""Converts between the full tensors of a checkpoint and the shards that ranks hold, one tensor at a time.

No device ever holds more than one full matrix beside its own shards. A layer's q, k and v lie in one packed matrix, whose
rows FSDP shards; tensor ranks have some heads of each. So scattering a canonical tensor means finding the rows of its slice
in the packed matrix and this rank's share of them; gathering goes over both axes.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.packed_llama import PackedLlama, PackedParameter
from tinyllama.model.partition import Collectives
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.parallelize import meta_llama, partition_config, slice_style, stage_partition
from tinyllama.parallel.reductions import is_sharded


class FullTensors:
    """Moves canonical tensors to and from this rank's `packed` parameters, or tensors of their masters' shapes."""

    def __init__(self, config: LlamaConfig, packed: list[PackedParameter], mesh: RankMesh, layers: list[range]) -> None:
        """`layers`: of each stage."""
        self.mesh, self._packed = mesh, packed
        self.ties_stages = config.tied_head and mesh.size("pipeline") > 1  # the head, on the last one, is the embedding
        self.shapes = {name: value.shape for name, value in meta_llama(config).named_parameters()}
        self._stages = [_entries(config, mesh.size("tensor"), of_stage) for of_stage in layers]

    def is_counted(self, parameter: PackedParameter) -> bool:
        """Whether this rank counts its values of a parameter, of which other ranks may hold the same ones."""
        at = self.mesh.at
        is_first_copy = at("replicate") == 0 and not self.is_second_of_tied(parameter)
        is_first_shard = at("shard") == 0 or is_sharded(parameter.leaf)
        return is_first_copy and is_first_shard and (at("tensor") == 0 or self.is_sliced(parameter))

    def is_sliced(self, parameter: PackedParameter) -> bool:
        """Whether tensor ranks hold different values of it."""
        return slice_style(parameter.names[0]) is not None

    def is_second_of_tied(self, parameter: PackedParameter) -> bool:
        """Whether it is the last stage's copy of a tied embedding, which belongs to the first stage."""
        return not self.mesh.is_first_stage and parameter.names == ("embedding.weight",)

    # -- full to sharded -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def scatter(self, name: str, value: Tensor, targets: list[Tensor]) -> None:
        """Copy this rank's share of a full canonical tensor into `targets`, one for each packed parameter."""
        for parameter, target in zip(self._packed, targets, strict=True):
            if name not in parameter.names:
                continue
            number = parameter.names.index(name)
            begin = sum(parameter.rows[:number])
            first, last = self._own_rows(parameter)
            low, high = max(begin, first), min(begin + parameter.rows[number], last)
            if low < high:
                target[low - first : high - first].copy_(self._slice(name, value)[low - begin : high - begin])

    @torch.no_grad()
    def broadcast(self, values: dict[str, Tensor] | None, targets: list[Tensor]) -> None:
        """Send rank 0's full tensors to all ranks' `targets`; the others pass None. All ranks call it together."""
        device = self._packed[0].master.device
        dtype = targets[0].dtype
        for name, shape in self.shapes.items():
            if self.mesh.world_size == 1:
                assert values is not None
                self.scatter(name, values[name], targets)
                continue
            whole = torch.empty(shape, device=device, dtype=dtype)
            if values is not None:
                whole.copy_(values[name])
            self.mesh.broadcast(whole)
            self.scatter(name, whole, targets)

    def _slice(self, name: str, value: Tensor) -> Tensor:
        dimension = slice_style(name)
        return value if dimension is None else value.chunk(self.mesh.size("tensor"), dimension)[self.mesh.at("tensor")]

    def _own_rows(self, parameter: PackedParameter) -> tuple[int, int]:
        """Rows of the packed matrix that this rank holds, as FSDP shares them: equal chunks, the last ones shorter."""
        total = sum(parameter.rows)
        if not is_sharded(parameter.leaf):
            return 0, total
        chunk = -(-total // self.mesh.size("shard"))
        first = min(total, self.mesh.at("shard") * chunk)
        return first, min(total, first + chunk)

    # -- sharded to full -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def gather(self, sources: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Full canonical tensors by name, on rank 0; the other ranks iterate too, and get nothing.

        `sources`: one for each packed parameter, of its master's shape.
        """
        for name, value in self._in_turn(sources):
            if value is not None:
                yield name, value

    @torch.no_grad()
    def gather_to_all(self, targets: dict[str, Tensor], sources: list[Tensor]) -> None:
        """Copy all full canonical tensors into `targets`, by name, on every rank. All ranks call it together."""
        for name, value in self._in_turn(sources):
            if value is not None:
                targets[name].copy_(value)
            self.mesh.broadcast(targets[name])

    def _in_turn(self, sources: list[Tensor]) -> Iterator[tuple[str, Tensor | None]]:
        """Names of canonical tensors, in the same order on every rank; their values on rank 0."""
        is_first, helps = self.mesh.is_first, self.mesh.at("replicate") == 0
        for stage, entries in enumerate(self._stages):
            is_ours = helps and stage == self.mesh.at("pipeline")
            for names in entries:
                if stage > 0 and names == ("embedding.weight",):
                    continue  # tied: the first stage's is the same
                found = self._gather_entry(names, sources) if is_ours else {}
                for name in names:
                    value = found.get(name)
                    if helps and stage > 0:
                        value = self._to_first(name, value, sources[0], stage)
                    yield name, value if is_first else None

    def _gather_entry(self, names: tuple[str, ...], sources: list[Tensor]) -> dict[str, Tensor]:
        number = next(number for number, parameter in enumerate(self._packed) if parameter.names == names)
        parameter, source = self._packed[number], sources[number]
        if is_sharded(parameter.leaf):
            source = self._gather_rows(source, sum(parameter.rows))
        return {name: self._gather_slices(name, value) for name, value in parameter.canonical(source).items()}

    def _gather_rows(self, own: Tensor, total: int) -> Tensor:
        shards = self.mesh.size("shard")
        chunk = -(-total // shards)
        padded = own.new_zeros(chunk, *own.shape[1:])
        padded[: len(own)] = own
        chunks = [torch.empty_like(padded) for _ in range(shards)]
        dist.all_gather(chunks, padded, group=self.mesh.group("shard"))
        return torch.cat(chunks)[:total]

    def _gather_slices(self, name: str, own: Tensor) -> Tensor:
        dimension = slice_style(name)
        if dimension is None or self.mesh.size("tensor") == 1:
            return own
        own = own.contiguous()
        chunks = [torch.empty_like(own) for _ in range(self.mesh.size("tensor"))]
        dist.all_gather(chunks, own, group=self.mesh.group("tensor"))
        return torch.cat(chunks, dimension)

    def _to_first(self, name: str, value: Tensor | None, like: Tensor, stage: int) -> Tensor | None:
        """A whole tensor from its stage to rank 0."""
        at = self.mesh.coordinates
        if at["shard"] > 0 or at["tensor"] > 0:
            return None
        group = self.mesh.group("pipeline")
        if at["pipeline"] == stage:
            assert value is not None
            dist.send(value.contiguous(), dst=0, group=group)
        elif at["pipeline"] == 0:
            source = dist.get_global_rank(group, stage)
            value = torch.empty(self.shapes[name], device=like.device, dtype=like.dtype)
            dist.recv(value, src=source, group=group)
        return value


def _entries(config: LlamaConfig, tensor: int, layers: range) -> list[tuple[str, ...]]:
    """Canonical names of each packed parameter of a stage with these layers."""
    llama, partition = (
        meta_llama(partition_config(config, tensor, layers)),
        stage_partition(config, layers, Collectives()),
    )
    return [parameter.names for parameter in PackedLlama(llama, partition=partition).packed]
