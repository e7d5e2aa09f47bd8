"""Pipeline stages on several ranks, with the 1F1B schedule (Narayanan et al. 2021) of torch.distributed.pipelining.

Each stage does as many forward passes as there are stages after it, then one forward and one backward in turn: it holds
the activations of so many micro-batches at most.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.mesh import RankMesh

LossOf = Callable[[Tensor, Tensor], Tensor]


class _Stage(PipelineStage):
    """A stage with buffers for the micro-batches in flight only: the library allocates them for all of a step's."""

    def _prepare_forward_infra(self, num_microbatches: int, *arguments: Any, **keywords: Any) -> Any:
        in_flight = min(num_microbatches, self.num_stages - self.stage_index)
        found = super()._prepare_forward_infra(in_flight, *arguments, **keywords)
        _repeat(self.args_recv_info, in_flight, num_microbatches)
        return found

    def _prepare_backward_infra(self, num_microbatches: int, *arguments: Any, **keywords: Any) -> Any:
        in_flight = min(num_microbatches, 2)  # one is received while another one may still be read
        found = super()._prepare_backward_infra(in_flight, *arguments, **keywords)
        _repeat(self.grad_recv_info, in_flight, num_microbatches)
        self.chunks = num_microbatches
        return found


def _repeat(rooms: dict[int, Any], count: int, micro_batches: int) -> None:
    for number in range(count, micro_batches):
        rooms[number] = rooms[number % count]


class Pipeline:
    """One stage of a pipeline, with the ones beside it on other ranks; `micro_batches` of a step go through it."""

    def __init__(
        self, network: PackedLlama, mesh: RankMesh, micro_batches: int, batch_size: int, loss_of: LossOf
    ) -> None:
        """`loss_of` hidden states (of the last stage) and targets: a scalar to differentiate."""
        self._network, self._mesh = network, mesh
        inputs, outputs = stage_shapes(network, batch_size)
        stage = _Stage(
            network, mesh.at("pipeline"), mesh.size("pipeline"), network.device,
            input_args=inputs, output_args=outputs, group=mesh.group("pipeline"),
        )  # fmt: skip
        self._schedule = Schedule1F1B(stage, micro_batches, loss_fn=loss_of, scale_grads=False)

    def run(self, tokens: Tensor, targets: Tensor, dropout_keys: Tensor | None) -> None:
        """Forward and backward passes of a step: (M B, T) ids, (M B,) keys. Gradients are left in the parameters."""
        given: dict[str, Any] = {} if dropout_keys is None else {"dropout_keys": dropout_keys}
        if self._mesh.is_last_stage:
            given["target"] = targets
        self._schedule.step(*([tokens] if self._mesh.is_first_stage else []), **given, return_outputs=False)


def stage_shapes(network: PackedLlama, batch_size: int) -> tuple[Tensor, Tensor]:
    """A stage's input and output of one micro-batch, on the meta device."""
    partition, config = network.partition, network.config
    rows = (batch_size, partition.seq_len)
    with torch.device("meta"):
        tokens = torch.empty(rows, dtype=torch.int64)
        if partition.collectives.is_sliced:
            rows = (batch_size * partition.seq_len // partition.collectives.size,)
        stream = torch.empty(*rows, config.dim, dtype=network.stream_dtype, requires_grad=True)
        width = config.embedding_dim if network.head_projection is not None else config.dim
        hidden = torch.empty(*rows, width, dtype=network.compute_dtype, requires_grad=True)
    return tokens if partition.is_first else stream, hidden if partition.is_last else stream


@torch.no_grad()
def pass_through(network: PackedLlama, mesh: RankMesh, tokens: Tensor) -> Tensor | None:
    """One micro-batch through all stages, forward only; hidden states on the last one, None on the others."""
    at, group = mesh.at("pipeline"), mesh.group("pipeline")
    given = tokens
    if not mesh.is_first_stage:
        shape, _ = stage_shapes(network, len(tokens))
        given = torch.empty(shape.shape, dtype=shape.dtype, device=network.device)
        dist.recv(given, src=dist.get_global_rank(group, at - 1), group=group)
    out = network(given)
    if mesh.is_last_stage:
        return out
    dist.send(out.contiguous(), dst=dist.get_global_rank(group, at + 1), group=group)
    return None
