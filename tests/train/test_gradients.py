"""Sums of gradients, by hand: over micro-batches, lanes and ranks; when a sum over ranks may begin."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.tiny_model import tiny_config
from tinyllama.model.packed_llama import PackedParameter
from tinyllama.parallel import reductions
from tinyllama.parallel.full_tensors import FullTensors
from tinyllama.parallel.gradient_reduction import LaneReduction, MeshReduction
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.ranks import Ranks
from tinyllama.parallel.reductions import BucketedSum
from tinyllama.train.gradients import Gradients


def packed(*dtypes: torch.dtype) -> list[PackedParameter]:
    """Parameters of two values each."""
    found = []
    for number, dtype in enumerate(dtypes):
        leaf = nn.Parameter(torch.ones(2, dtype=dtype))
        found.append(PackedParameter((f"p{number}",), (2,), torch.ones(2, dtype=torch.float32), leaf, None))
    return found


def back(parameters: list[PackedParameter], *factors: float) -> None:
    """A backward pass that gives each parameter one gradient."""
    terms = [(p.leaf * factor).sum().float() for p, factor in zip(parameters, factors, strict=True)]
    torch.stack(terms).sum().backward()


def end(gradients: Gradients, *totals: float) -> None:
    gradients.add_totals(torch.tensor(totals))
    gradients.end_micro_batch()


def values(gradients: Gradients) -> list[list[float]]:
    return [total.tolist() for total in gradients.all()]


FP32, BF16 = torch.float32, torch.bfloat16


def test_gradients_are_taken_away_and_added():
    parameters = packed(FP32, FP32)
    gradients = Gradients(parameters)
    for number, factors in enumerate([(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)]):
        back(parameters, *factors)
        end(gradients, 1.0, float(number))
        assert all(parameter.leaf.grad is None for parameter in parameters)
    assert gradients.join().tolist() == [3.0, 3.0]
    assert values(gradients) == [[7.0, 7.0], [70.0, 70.0]]
    assert gradients.norm().item() == pytest.approx((2 * 49 + 2 * 4900) ** 0.5)
    gradients.clear()
    assert gradients.all() == []
    back(parameters, 1.0, 1.0)
    end(gradients, 5.0)
    assert gradients.join().tolist() == [5.0]
    assert values(gradients) == [[1.0, 1.0]] * 2


def test_the_first_short_gradient_stays_short_and_sums_are_fp32():
    parameters = packed(BF16)
    gradients = Gradients(parameters)
    back(parameters, 256.0)
    assert gradients.all()[0].dtype == BF16
    for _ in range(3):  # in 16 bits 256 + 1 is 256
        back(parameters, 1.0)
    assert gradients.all()[0].dtype == FP32
    assert values(gradients) == [[259.0, 259.0]]


def test_the_norm_is_exact_over_formats():
    parameters = packed(BF16, FP32)
    gradients = Gradients(parameters)
    back(parameters, 3.0, 4.0)
    assert {total.dtype for total in gradients.all()} == {BF16, FP32}
    assert gradients.norm().item() == pytest.approx(50**0.5)
    assert gradients.norm().dtype == FP32


def test_a_sum_that_was_made_elsewhere_is_put_in_its_place():
    parameters = packed(FP32, FP32)
    gradients = Gradients(parameters, head=1)
    assert gradients[1] is None
    back(parameters, 1.0, 1.0)
    made = torch.tensor([8.0, 9.0])
    gradients[1] = made
    assert gradients[1] is made
    assert values(gradients) == [[1.0, 1.0], [8.0, 9.0]]


def test_lanes_of_two_micro_batches_join_in_pairs():
    """Sums that depend on their order: (1 + 1e8) + (-1e8 + 1) in fp32, lane by lane."""
    parameters = packed(FP32)
    gradients = Gradients(parameters, micro_batches=8, reduction=LaneReduction(2, Ranks()))
    given = [1.0, 1e8, -1e8, 1.0, 3.0, 5.0, 7.0, 9.0]
    for number, factor in enumerate(given):
        back(parameters, factor)
        end(gradients, 1.0)
        assert (gradients.all() == []) == (number % 2 == 1), "a lane that is whole goes to the tree"
    assert gradients.join().tolist() == [8.0]
    f = [torch.tensor(value) for value in given]
    wanted = ((f[0] + f[1]) + (f[2] + f[3])) + ((f[4] + f[5]) + (f[6] + f[7]))
    assert values(gradients) == [[wanted.item()] * 2]


# -- over ranks, of which all others have the same ---------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """Numbers of values and groups of the sums over ranks that were begun; there are three ranks with the same."""
    found: list[tuple[int, Any]] = []

    def all_reduce(tensor: Tensor, group: Any = None, async_op: bool = False) -> Any:
        found.append((tensor.numel(), group))
        if not async_op:
            return tensor.mul_(3)
        return SimpleNamespace(wait=lambda: tensor.mul_(3))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return found


def over_three(parameters: list[PackedParameter]) -> MeshReduction:
    """Of three replicas; each parameter is named as one that every rank holds."""
    named = [replace(parameter, names=("norm.weight",)) for parameter in parameters]
    full_tensors = FullTensors(tiny_config(), named, RankMesh(ParallelConfig(replicate=3), 1), [range(1)])
    return MeshReduction(named, full_tensors)


def test_sums_over_ranks_begin_with_the_last_micro_batch(begun: list[Any]):
    parameters = packed(FP32, FP32)
    gradients = Gradients(parameters, micro_batches=2, reduction=over_three(parameters))
    back(parameters, 1.0, 10.0)
    end(gradients, 1.0)
    assert begun == []
    back(parameters, 2.0, 20.0)
    assert begun == [(128, None)]  # both in one piece, each from a place of its own
    end(gradients, 1.0)
    assert gradients.join().tolist() == [6.0]
    assert values(gradients) == [[9.0, 9.0], [90.0, 90.0]]
    gradients.clear()
    back(parameters, 1.0, 1.0)
    back(parameters, 1.0, 1.0)
    end(gradients, 1.0)
    gradients.join()
    assert values(gradients) == [[6.0, 6.0]] * 2


def test_an_untied_head_s_sum_is_final_when_it_is_set_and_a_tied_one_s_is_not(begun: list[Any]):
    for head, is_final in ((1, True), (0, False)):
        begun.clear()
        parameters = packed(FP32, FP32)
        gradients = Gradients(parameters, head, 1, over_three(parameters))
        gradients[head] = torch.tensor([2.0, 2.0])
        (parameters[1 - head].leaf * 1.0).sum().backward()
        assert (len(begun) == 1) == is_final
        if not is_final:
            (parameters[0].leaf * 1.0).sum().backward()
            assert len(begun) == 1
        end(gradients, 1.0)
        gradients.join()
        assert sorted(values(gradients)) == ([[3.0, 3.0], [6.0, 6.0]] if is_final else [[3.0, 3.0], [9.0, 9.0]])


def test_buckets_are_begun_in_order_as_soon_as_they_are_whole(begun: list[Any], monkeypatch: pytest.MonkeyPatch):
    """Room for 128 values in fp32: the last two tensors, then one that is larger, then the first."""
    monkeypatch.setattr(reductions, "BUCKET_BYTES", 128 * 4)
    group: Any = object()
    sums = BucketedSum([64, 200, 3, 60], 4, group)
    tensors = [torch.full((size,), float(number + 1)) for number, size in enumerate((64, 200, 3, 60))]
    for number, expected in ((1, 0), (2, 0), (3, 2), (0, 3)):
        sums.ready(number, tensors[number])
        assert len(begun) == expected
    assert begun == [(128, group), (200, group), (64, group)]
    for number, total in enumerate(sums.finish()):
        assert total.tolist() == [3.0 * (number + 1)] * tensors[number].numel()
    sums.ready(3, torch.ones(60))  # the next step
    assert len(begun) == 3
    sums.ready(2, torch.ones(3))
    assert len(begun) == 4


def test_a_tensor_that_is_short_or_lies_apart_is_summed_in_a_piece_of_its_own(begun: list[Any]):
    for tensor in (torch.ones(2, dtype=BF16), torch.ones(2, 3).T, torch.ones(6)):
        sums = BucketedSum([tensor.numel()], 4)
        before = tensor.clone()
        sums.ready(0, tensor)
        (found,) = sums.finish()
        assert found.dtype == FP32
        assert torch.equal(found, 3 * before.float())
        assert torch.equal(tensor, 3 * before) == (tensor.is_contiguous() and tensor.dtype == FP32)
    assert [size for size, _ in begun] == [64, 64, 6]
