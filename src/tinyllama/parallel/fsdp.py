"""Sharded weights by PyTorch's FSDP2: gathered for a layer's work, gradients summed over the shard ranks."""

from typing import Any

from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.mesh import RankMesh


def shard(network: PackedLlama, mesh: RankMesh) -> None:
    """Shard every matrix's rows (FSDP2): gathered for a layer's computation, gradients summed in fp32.

    Layers and projections are gathered in the compute dtype, embedding and head in the masters'. Norms are small and
    stay unsharded.
    """
    norms = {leaf for name, leaf in network.named_parameters() if name.endswith("norm")}
    master_dtype = network.packed[0].master.dtype
    compute_policy = MixedPrecisionPolicy(
        param_dtype=network.compute_dtype, reduce_dtype=master_dtype, cast_forward_inputs=False
    )
    master_policy = MixedPrecisionPolicy(param_dtype=master_dtype, reduce_dtype=master_dtype, cast_forward_inputs=False)
    reshards = not mesh.parallel.gathers_once
    common: Any = {"mesh": mesh.data, "ignored_params": norms}
    for projection in (network.embedding_projection, network.head_projection):
        if projection is not None:
            fully_shard(projection, mp_policy=compute_policy, reshard_after_forward=reshards, **common)
    for layer in network.layers:
        fully_shard(layer, mp_policy=compute_policy, reshard_after_forward=reshards, **common)
    fully_shard(network, mp_policy=master_policy, reshard_after_forward=False, **common)  # the loss needs the head
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)  # sums, as everywhere here: an update divides once


def defer_sync_until_last(network: PackedLlama, *, layers_too: bool, is_last: bool) -> None:
    """Until a step's last micro-batch embedding and head stay gathered, and replicas do not sum their shards.

    Gathering embedding and head, and reducing their gradients, overlaps with no computation, as that of layers does.
    `layers_too`: layers stay gathered as well.
    """
    if isinstance(network, FSDPModule):
        network.set_reshard_after_backward(is_last, recurse=layers_too)
        network.set_requires_gradient_sync(is_last, recurse=layers_too)
        network.set_requires_all_reduce(is_last)


def reshard(network: PackedLlama) -> None:
    """Free the gathered weights: what stays gathered after a validation is stale after the next update."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
