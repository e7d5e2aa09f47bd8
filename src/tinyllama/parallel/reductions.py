"""Sums of tensors over the ranks: as fast as possible, or in one order for every number of ranks.

Floating-point sums depend on their order. The fast one leaves the order to the backend. The other one is a balanced binary
tree over lanes, numbered from 0: lane 0 + lane 1, lane 2 + lane 3, then pairs of these sums, and so on. A rank holds
neighbouring lanes, a power of two of them, so its own sum is a whole branch of the tree, and the ranks' branches join in
the same way. The result has the same bits for 1, 2, 4 ... ranks.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 32 * 2**20
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # the newer name, from torch 2.13 on
ALIGNMENT = 64  # values; each tensor begins where kernels read fastest, whatever stands before it


class LaneTree:
    """Adds lists of tensors in pairs, as they arrive: like counting in binary, every pair of equal weight is added.

    Of n lanes at most log2(n) + 1 lists are held at once.
    """

    def __init__(self) -> None:
        self._branches: list[list[Tensor] | None] = []  # number k: a sum of 2^k lanes that waits for its neighbour

    def push(self, lane: list[Tensor]) -> None:
        """Add the next lane; the list is taken over, and emptied."""
        held: list[Tensor] | None = list(lane)
        lane.clear()
        level = 0
        while held is not None:
            if level == len(self._branches):
                self._branches.append(None)
            left = self._branches[level]
            if left is None:
                self._branches[level], held = held, None
            else:
                self._branches[level] = None
                held = _join(left, held)
            level += 1

    def result(self) -> list[Tensor]:
        """The sum of all lanes, a power of two of them, in fp32 at least; the tree is empty after it."""
        *lower, top = self._branches
        assert top is not None
        assert not any(lower)
        self._branches = []
        return [fp32(tensor) for tensor in top]


def fp32(tensor: Tensor) -> Tensor:
    """The tensor in fp32 at least: itself if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _join(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """left + right, in fp32 at least, in left's memory where that is wide enough; both lists are emptied on the way."""
    joined: list[Tensor] = []
    left.reverse()
    right.reverse()
    while left:
        joined.append(fp32(left.pop()).add_(right.pop()))
    return joined


def buckets_of(sizes: list[int], bytes_each: int) -> list[list[int]]:
    """Numbers of neighbouring tensors, grouped to BUCKET_BYTES each or one larger tensor; `sizes` in values."""
    groups: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if not groups or size * bytes_each > room:
            groups.append([])
            room = BUCKET_BYTES
        groups[-1].append(number)
        room -= size * bytes_each
    return groups


def padded(size: int, multiple: int = ALIGNMENT) -> int:
    return -(-size // multiple) * multiple


def flat_views(tensors: list[Tensor], ranks: int) -> tuple[Tensor, list[Tensor]]:
    """One buffer for all tensors, in fp32 at least, of a size that `ranks` divides; and each tensor's view of it."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += padded(tensor.numel())
    flat = fp32(tensors[0].new_empty(0)).new_zeros(padded(end, ALIGNMENT * ranks))
    views = [
        flat[start : start + tensor.numel()].view(tensor.shape) for start, tensor in zip(starts, tensors, strict=True)
    ]
    return flat, views


@torch.no_grad()
def tree_sum(tensors: list[Tensor], ranks: int) -> None:
    """Sum tensors of one format over the ranks by the balanced tree, in place.

    Each rank receives every rank's chunk of a bucket, adds the chunks, and sends the result to all.
    """
    sizes = [padded(tensor.numel()) for tensor in tensors]
    for numbers in buckets_of(sizes, tensors[0].itemsize):
        chosen = [tensors[number] for number in numbers]
        flat, views = flat_views(chosen, ranks)
        torch._foreach_copy_(views, chosen)  # pyright: ignore[reportPrivateImportUsage]
        chunks = torch.empty_like(flat)
        dist.all_to_all_single(chunks, flat)
        tree = LaneTree()
        for chunk in chunks.chunk(ranks):
            tree.push([chunk])
        _all_gather(flat, tree.result()[0])
        torch._foreach_copy_(chosen, views)  # pyright: ignore[reportPrivateImportUsage]


class BucketedSum:
    """Sums tensors over the ranks, in buckets, each begun as soon as its tensors are there and all before it are begun.

    Tensors are numbered; the backward pass makes the last ones first, so that sums run while it goes on.
    """

    def __init__(self, sizes: list[int], bytes_each: int, group: dist.ProcessGroup | None = None) -> None:
        """`group`: the ranks summed over, default all."""
        last = len(sizes) - 1
        groups = buckets_of([padded(size) for size in reversed(sizes)], bytes_each)
        self._groups = [[last - number for number in group] for group in groups]
        self._count, self._group = len(sizes), group
        self._reset()

    def _reset(self) -> None:
        self._ready: dict[int, Tensor] = {}
        self._begun: list[tuple[dist.Work | None, list[Tensor]]] = []

    def ready(self, number: int, tensor: Tensor) -> None:
        """Hand over a tensor whose value is final."""
        self._ready[number] = tensor
        while len(self._begun) < len(self._groups):
            group = self._groups[len(self._begun)]
            if any(member not in self._ready for member in group):
                return
            tensors = [self._ready.pop(member) for member in group]
            self._begun.append(self._begin(tensors))

    @torch.no_grad()
    def _begin(self, tensors: list[Tensor]) -> tuple[dist.Work | None, list[Tensor]]:
        if len(tensors) == 1 and tensors[0].itemsize >= 4 and tensors[0].is_contiguous():
            return dist.all_reduce(tensors[0], group=self._group, async_op=True), tensors
        flat, views = flat_views(tensors, 1)
        torch._foreach_copy_(views, tensors)  # pyright: ignore[reportPrivateImportUsage]
        return dist.all_reduce(flat, group=self._group, async_op=True), views

    def finish(self) -> list[Tensor]:
        """All sums, in the order of their numbers; waits for them (on a GPU the device does, not the host)."""
        assert len(self._begun) == len(self._groups)
        sums: dict[int, Tensor] = {}
        for group, (work, tensors) in zip(self._groups, self._begun, strict=True):
            if work is not None:
                work.wait()
            sums.update(zip(group, tensors, strict=True))
        self._reset()
        return [sums[number] for number in range(self._count)]


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; any other tensor unchanged."""
    found: Any = tensor.detach()
    return found.to_local() if hasattr(found, "to_local") else found


def is_sharded(leaf: Tensor) -> bool:
    """Whether FSDP holds this parameter."""
    return hasattr(leaf, "to_local")
