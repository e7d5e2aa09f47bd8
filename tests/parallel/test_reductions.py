"""The tree of lanes against its obvious form, and independent of who holds which lanes."""

import pytest
import torch
from torch import Tensor

from tinyllama.parallel.reductions import ALIGNMENT, BUCKET_BYTES, LaneTree, buckets_of, flat_views


def lanes(count: int, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    """Lists of tensors whose sums depend on their order."""
    generator = torch.Generator().manual_seed(count)
    return [
        [(torch.randn(shape, generator=generator) * 10.0 ** (number % 5)).to(dtype) for shape in ((3, 5), (7,), ())]
        for number in range(count)
    ]


def joined(parts: list[list[Tensor]]) -> list[Tensor]:
    """The obvious form: halves, each joined, then added."""
    if len(parts) == 1:
        return [tensor.float() for tensor in parts[0]]
    half = len(parts) // 2
    return [left + right for left, right in zip(joined(parts[:half]), joined(parts[half:]), strict=True)]


def by_tree(parts: list[list[Tensor]]) -> list[Tensor]:
    tree = LaneTree()
    for part in parts:
        tree.push([tensor.clone() for tensor in part])
    return tree.result()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_tree_is_the_obvious_one(count: int, dtype: torch.dtype):
    parts = lanes(count, dtype)
    for found, wanted in zip(by_tree(parts), joined(parts), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_who_holds_which_lanes_changes_no_bit(ranks: int):
    parts = lanes(8)
    portion = 8 // ranks
    branches = [by_tree(parts[rank * portion : (rank + 1) * portion]) for rank in range(ranks)]
    for found, wanted in zip(by_tree(branches), joined(parts), strict=True):
        assert torch.equal(found, wanted)


def test_another_order_has_other_bits():
    """Else the tests above could not fail."""
    parts = lanes(8)
    in_a_row = [torch.stack(column).sum(0) for column in zip(*parts, strict=True)]
    backwards = by_tree(parts[1:] + parts[:1])
    assert not all(torch.equal(*pair) for pair in zip(by_tree(parts), backwards, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(by_tree(parts), in_a_row, strict=True))


def test_at_most_so_many_lists_are_held():
    tree = LaneTree()
    for number, part in enumerate(lanes(16), 1):
        tree.push(part)
        assert part == []
        assert sum(branch is not None for branch in tree._branches) == number.bit_count()
    tree.result()
    tree.push(lanes(1)[0])  # empty again


def test_buckets_by_hand():
    million = 2**20
    assert 32 * million == BUCKET_BYTES
    sizes = [4 * million, 2 * million, 2 * million, 1, 20 * million, 1]
    assert buckets_of(sizes, 4) == [[0, 1, 2], [3], [4], [5]]


def test_room_in_one_piece():
    tensors = [torch.ones(3, 5, dtype=torch.bfloat16), torch.ones(70, dtype=torch.bfloat16)]
    flat, views = flat_views(tensors, ranks=3)
    assert flat.dtype == torch.float32
    assert len(flat) % (3 * ALIGNMENT) == 0
    assert [view.shape for view in views] == [tensor.shape for tensor in tensors]
    assert [view.storage_offset() for view in views] == [0, ALIGNMENT]
