"""A rank's state and one step of it: what is made from the recipe, said, shared, marked, and chosen for the device."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_model import tiny_config
from tests.train.test_train_step import batch, parts
from tinyllama.errors import RecipeError
from tinyllama.model.loss import token_losses
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.gradient_reduction import LaneReduction
from tinyllama.parallel.rank_progress import Activity
from tinyllama.parallel.ranks import Ranks
from tinyllama.train import precision, train_state
from tinyllama.train.gradients import Gradients
from tinyllama.train.optimizer import MOMENTS, AdamW, Rates, clip_factor
from tinyllama.train.precision import FORMATS, check_precision, choose_device, choose_threads, repeat_kernels
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState, is_compiled
from tinyllama.train.train_step import train_step

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NETWORK = {"vocab_size": 64, "seq_len": 16, "dim": 16, "n_layers": 1, "ffn_dim": 24}


def config(**changes: Any) -> TrainConfig:
    values = {"seq_len": 16, "micro_batch_size": 4, "tokens_per_step": 128, "precision": "fp32"} | changes
    return TrainConfig.model_validate(values)


def made(network: dict[str, Any] | None = None, **changes: Any) -> TrainState:
    state = TrainState(tiny_config(**NETWORK | (network or {})), config(**changes), CPU)
    state.init_weights(3)
    return state


def copies_are_fresh(state: TrainState) -> bool:
    found = [(parameter.copy, parameter.master) for parameter in state.network.packed if parameter.copy is not None]
    return bool(found) and all(torch.equal(copy, master.to(copy.dtype)) for copy, master in found)


# -- the state ---------------------------------------------------------------------------------------------------------


def test_short_copies_follow_whatever_changes_the_weights(tmp_path: Path):
    state = made(precision="bf16")
    assert copies_are_fresh(state)
    state.load_weights({name: value * 2 for name, value in state.weights()})
    before = {name: value.clone() for name, value in state.weights()}
    state.broadcast()
    assert copies_are_fresh(state)
    assert all(torch.equal(value, 2 * before[name]) for name, value in state.weights())
    train_step(state, parts(batch(8), 2), config(precision="bf16"), step=0, lr=0.1)
    assert copies_are_fresh(state)


def test_the_recipe_reaches_network_gradients_optimizer_and_scale():
    state = made({"tied_head": False}, precision="fp16", micro_batch_size=2, weight_decay=0.3, beta1=0.5, beta2=0.6)
    assert state.network.compute_dtype == torch.float16
    assert state.network.stream_dtype == torch.float32
    assert (state.loss_scale.is_on, state.loss_scale.factor.item()) == (True, 65536 / 32)
    assert state.head is not None
    assert state.network.packed[state.head].names == ("head.weight",)
    rates = {
        parameter.names[0]: rates for parameter, rates in zip(state.network.packed, state.optimizer._rates, strict=True)
    }
    assert rates["embedding.weight"] == rates["norm.weight"] == Rates(0.0, 0.5, 0.6, 1e-8)
    assert rates["head.weight"] == rates["layers.0.attention.q.weight"] == Rates(0.3, 0.5, 0.6, 1e-8)
    assert not made().loss_scale.is_on
    assert made({"tied_head": True}).head == 0, "the embedding's"


@pytest.mark.parametrize("kept", ["fp32", "bf16"])
def test_moments_have_the_recipe_s_format_and_are_on_the_weights_device(kept: str):
    packed = PackedLlama(made().model).packed
    optimizer = AdamW(packed, config(optimizer_state=kept))
    assert {m.dtype for m in optimizer.moments().values()} == {{"fp32": torch.float32, "bf16": torch.bfloat16}[kept]}
    for number in range(2):
        moments = optimizer.packed_moments(number)
        assert [moment.shape for moment in moments] == [parameter.master.shape for parameter in packed]
    on_meta = [replace(parameter, master=parameter.master.to("meta")) for parameter in packed]
    optimizer = AdamW(on_meta, config())
    assert optimizer.updates.device.type == optimizer.packed_moments(1)[0].device.type == "meta"


def test_all_that_a_checkpoint_holds_is_shared(monkeypatch: pytest.MonkeyPatch):
    """To two ranks: each full tensor of what rank 0 has read, and the counters."""
    state, ranks = made(), Ranks(0, 2)
    weights, moments = ({name: value + 1 for name, value in held} for held in (state.weights(), state.moments()))
    shared: list[torch.Tensor] = []
    monkeypatch.setattr(ranks.mesh, "broadcast", shared.append)
    monkeypatch.setattr(ranks, "broadcast", shared.extend)
    monkeypatch.setattr(ranks, "on_rank_0", lambda work: work())
    other = TrainState(state.config, config(), CPU, ranks=ranks)
    other._read = weights, moments
    other.broadcast()
    assert len(shared) == len(weights) + len(moments) + 3
    names = list(other.full_tensors.shapes)
    read = [*(weights[name] for name in names), *(moments[f"{kind}.{name}"] for kind in MOMENTS for name in names)]
    assert all(torch.equal(given, wanted) for given, wanted in zip(shared, read, strict=False))
    assert all(torch.equal(value, weights[name]) for name, value in other.weights())
    assert all(torch.equal(value, moments[name]) for name, value in other.moments())
    scale = other.loss_scale
    assert [value.data_ptr() for value in shared[-3:]] == [
        value.data_ptr() for value in (other.optimizer.updates, scale.factor, scale.good_updates)
    ]
    rooms = [{name for name, _ in room} for room in state.state_shapes()]
    assert rooms == [weights.keys(), moments.keys()]


def test_only_rank_0_names_the_weights():
    state = TrainState(tiny_config(**NETWORK), config(), CPU, ranks=Ranks(1, 2))
    assert state.weights_sha256() == ""
    assert len(made().weights_sha256()) == 64


def test_a_rank_alone_has_the_whole_network():
    state = TrainState(tiny_config(**NETWORK), config(), CPU, torch.float64)
    state.init_weights(3)
    assert {value.dtype for _, value in state.weights()} == {torch.float64}
    masters = {parameter.master.untyped_storage().data_ptr() for parameter in state.network.packed}
    with state.full_model() as model:
        assert model is state.model
        assert model is not None
        held = {value.untyped_storage().data_ptr() for value in model.parameters()}
    assert held == masters, "views of the masters"
    device, losses_of, is_joint = state.batch_losses()
    assert (device, is_joint) == (CPU, False)
    found = losses_of(batch(2).tokens, batch(2).targets)
    assert found is not None
    wanted = token_losses(state.model.hidden(batch(2).tokens), state.model.output_weight, batch(2).targets)
    torch.testing.assert_close(found[0], wanted[0])
    assert not found[0].requires_grad


@pytest.mark.parametrize(
    ("changes", "ranks", "words"),
    [
        ({}, 1, "precision fp32, not compiled, PyTorch attention, PyTorch loss and optimizer"),
        ({"precision": "bf16", "recompute": "full"}, 1, "precision bf16, not compiled, PyTorch attention, PyTorch loss and "
         "optimizer, recompute full"),
        ({"deterministic_reduction": True, "reduction_lanes": 2}, 2, "precision fp32, not compiled, "
         "PyTorch attention, PyTorch loss and optimizer, deterministic, 2 ranks (replicate 2)"),
    ],
)  # fmt: skip
def test_the_ways_in_use_are_told(changes: dict[str, Any], ranks: int, words: str):
    state = TrainState(tiny_config(**NETWORK), config(**changes), CPU, ranks=Ranks(0, ranks))
    assert state.describe(config(**changes)) == words


def test_layers_are_compiled_on_a_gpu_or_when_asked_for():
    wanted = {("auto", "cpu"): False, ("auto", "cuda"): True, ("on", "cpu"): True, ("on", "cuda"): True,
              ("off", "cpu"): False, ("off", "cuda"): False}  # fmt: skip
    for (compiles, device), answer in wanted.items():
        assert is_compiled(config(compile=compiles), torch.device(device)) == answer


def test_a_long_start_is_told(capfd: pytest.CaptureFixture[str]):
    state = made()
    for compiled in (False, True):
        state.is_compiled = compiled
        train_state.log_start(state, config())
        said = " ".join(capfd.readouterr().err.split())
        assert "pretrain: precision fp32" in said
        assert ("the first step compiles the layer" in said) == compiled


# -- one step ----------------------------------------------------------------------------------------------------------


def test_a_step_marks_where_it_is(monkeypatch: pytest.MonkeyPatch):
    state, marks = made(), []
    monkeypatch.setattr(state.ranks.progress, "enter", lambda place, step: marks.append((place, step)))
    train_step(state, parts(batch(8), 2), config(), step=4, lr=0.1)
    each = [Activity.FORWARD, Activity.BACKWARD, Activity.DATA]
    assert marks == [(place, 5) for place in (Activity.DATA, *each, *each, Activity.REDUCTION, Activity.UPDATE)]


def test_a_step_reports_means_and_requests_and_lets_go_of_its_gradients():
    state = made()
    state.ranks.requests = lambda: [1.0, 0.0]
    result = train_step(state, parts(batch(8), 4), config(), step=0, lr=0.1)
    hidden = made().network.hidden(batch(8).tokens)
    logits = hidden @ made().network.output_weight.T
    right = (logits.argmax(-1) == batch(8).targets).double().mean()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch(8).targets.flatten())
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert result.accuracy.item() == pytest.approx(right.item())
    assert result.requests.tolist() == [4.0, 0.0], "once a micro-batch"
    assert result.is_skipped.item() == 0
    assert state.gradients.all() == []
    assert state.optimizer.updates.item() == 1


@pytest.mark.parametrize("broken", ["loss", "norm"])
def test_either_loss_or_norm_without_a_number_calls_the_update_off(broken: str, monkeypatch: pytest.MonkeyPatch):
    state = made(precision="fp16")
    before = state.weights_sha256()
    if broken == "norm":
        monkeypatch.setattr(state.gradients, "norm", lambda: torch.tensor(torch.inf))
    else:
        accumulate = state.passes.accumulate
        broken_loss = torch.tensor([torch.nan, 1.0, 1.0])
        monkeypatch.setattr(state.passes, "accumulate", lambda *words: accumulate(*words) * broken_loss)
    factor = state.loss_scale.factor.item()
    result = train_step(state, parts(batch(8), 2), config(precision="fp16"), step=0, lr=0.1)
    assert result.is_skipped.item() == 1
    assert state.weights_sha256() == before
    assert (state.optimizer.updates.item(), state.loss_scale.factor.item()) == (0, factor / 2)


def test_lanes_are_summed_apart_and_joined_in_pairs():
    packed = PackedLlama(made().model).packed
    gradients = Gradients(packed, 0, 4, LaneReduction(2, Ranks()))
    for value in (1.0, 2.0**-24, 2.0**-24, 2.0**-24):  # in fp32 the first lane loses what it adds to 1
        for parameter in packed[1:]:
            parameter.leaf.grad = None
            (parameter.leaf.sum() * value).backward()
        gradients[0] = torch.full_like(packed[0].master, value)
        gradients.add_totals(torch.tensor([value]))
        gradients.end_micro_batch()
    totals = gradients.join()
    assert totals.item() == 1 + 2.0**-23
    assert {sums.flatten()[0].item() for sums in gradients.all()[1:]} == {1 + 2.0**-23}
    gradients.clear()
    assert gradients.all() == []
    gradients.add_totals(torch.tensor([5.0]))
    gradients.end_micro_batch()
    assert gradients._totals is not None
    assert gradients._totals.item() == 5.0, "the count of micro-batches begins anew"


def test_decay_and_rates_of_two_updates_by_hand():
    """One norm and one matrix, two updates with another gradient each, in float64."""
    model = made().model.double()
    packed = [
        one for one in PackedLlama(model).packed if one.names[0] in ("norm.weight", "layers.0.attention.o.weight")
    ]
    optimizer = AdamW(packed, config(beta1=0.5, beta2=0.75, adam_eps=0.25, weight_decay=0.5))
    before = [one.master.flatten()[0].item() for one in packed]
    on, scale = torch.zeros(()), torch.tensor(0.5)
    optimizer.step([torch.full_like(one.master, 2.0) for one in packed], 0.1, scale, on)
    optimizer.step([torch.full_like(one.master, 4.0) for one in packed], 0.2, scale, on)
    # Gradients 1 and 2. First moments .5 and 1.25, corrected 1 and 5/3; second .25 and 1.1875, corrected 1 and 2.714286.
    first, second = 1 / (1 + 0.25), (5 / 3) / ((1.1875 / (1 - 0.75**2)) ** 0.5 + 0.25)
    for parameter, old in zip(packed, before, strict=True):
        decay = 0.5 if parameter.master.dim() == 2 else 0.0
        after_one = old * (1 - 0.1 * decay) - 0.1 * first
        wanted = after_one * (1 - 0.2 * decay) - 0.2 * second
        assert parameter.master.flatten()[0].item() == pytest.approx(wanted, rel=1e-6), parameter.names
    moments = [optimizer.packed_moments(number)[0].flatten()[0].item() for number in range(2)]
    assert moments == pytest.approx([1.25, 1.1875])


def test_the_clip_factor_around_its_limit():
    norm = torch.tensor([0.0, 1.9, 2.0, 2.1, 4.0], dtype=torch.float64)
    wanted = [1.0, 1.0, 2 / 2.000001, 2 / 2.100001, 2 / 4.000001]
    assert clip_factor(norm, 2.0).tolist() == pytest.approx(wanted, rel=1e-12)
    assert clip_factor(norm, 0.0).tolist() == [1.0] * 5


# -- the device --------------------------------------------------------------------------------------------------------


def test_formats_by_hand():
    short = {"bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: tuple(kind) for name, kind in FORMATS.items()} == {
        "fp32": (None, None), "bf16": (short["bf16"],) * 2, "fp16": (short["fp16"], None), "fp8": (short["bf16"],) * 2,
    }  # fmt: skip


def test_a_device_is_chosen_by_what_is_there(monkeypatch: pytest.MonkeyPatch):
    chosen: list[Any] = []
    monkeypatch.setattr(precision.torch.cuda, "set_device", lambda *words: chosen.append(words))
    monkeypatch.setattr(precision.torch.cuda, "device_count", lambda: 2)
    for there, wanted in ((False, CPU), (True, CUDA)):
        monkeypatch.setattr(precision.torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto") == wanted
        assert choose_device("cpu", 1) == choose_device("cpu") == CPU
    assert choose_device("cuda") == CUDA
    assert chosen == []
    assert choose_device("cuda", 1) == choose_device("auto", 1) == torch.device("cuda", 1)
    assert chosen == [("cuda", 1)] * 2 or chosen == [(torch.device("cuda", 1),)] * 2 or chosen == [(1,)] * 2
    with pytest.raises(RecipeError, match="rank 2 of this machine has no GPU, there are 2"):
        choose_device("cuda", 2)
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="finds no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto", 7) == CPU


def test_a_precision_needs_its_device(monkeypatch: pytest.MonkeyPatch):
    loaded: list[str] = []
    monkeypatch.setattr(precision, "load_float8", lambda: loaded.append("float8"))
    monkeypatch.setattr(
        precision.torch.cuda, "is_bf16_supported", lambda **words: words == {"including_emulation": True}
    )
    for name in ("fp32", "bf16", "fp16"):
        check_precision(name, CPU)
    check_precision("fp16", CUDA)
    with pytest.raises(RecipeError, match="this GPU has no bf16; 'fp16' would work"):
        check_precision("bf16", CUDA)
    for capability, is_able in (((8, 6), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(precision.torch.cuda, "get_device_capability", lambda _, found=capability: found)
        if is_able:
            check_precision("fp8", CUDA)
        else:
            with pytest.raises(RecipeError, match=r"compute capability 8\.9"):
                check_precision("fp8", CUDA)
    assert loaded == ["float8"] * 2


@pytest.fixture
def kept_settings() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.usefixtures("kept_settings")
def test_kernels_repeat_themselves_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    from torch._inductor import config as inductor

    if hasattr(inductor, "deterministic"):
        monkeypatch.setattr(inductor, "deterministic", False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    repeat_kernels(CPU)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    repeat_kernels(CUDA)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert getattr(inductor, "deterministic", True) is True
    assert torch.utils.deterministic.fill_uninitialized_memory is False  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize(
    ("threads", "device", "is_deterministic", "wanted"),
    [(0, CPU, True, 1), (0, CPU, False, None), (0, CUDA, True, None), (3, CPU, True, 3), (1, CUDA, False, 1)],
)
def test_threads_are_set_where_asked_for_or_where_sums_depend_on_them(
    monkeypatch: pytest.MonkeyPatch, threads: int, device: torch.device, is_deterministic: bool, wanted: int | None
):
    number = [16]
    monkeypatch.setattr(precision.torch, "set_num_threads", lambda count: number.__setitem__(0, count))
    monkeypatch.setattr(precision.torch, "get_num_threads", lambda: number[0])
    assert choose_threads(threads, device, is_deterministic) == (wanted or 16) == number[0]


def test_one_process_loads_nothing_of_other_layouts():
    """FSDP, pipelining, and PyTorch's symbolic shapes take seconds to load."""
    code = f"""
import sys, torch
from tests.tiny_model import tiny_config
from tests.train.test_train_state import NETWORK, TrainState, batch, config, parts, train_step
state = TrainState(tiny_config(**{NETWORK!r}), config(precision="bf16"), torch.device("cpu"))
state.init_weights(1)
train_step(state, parts(batch(8), 2), config(precision="bf16"), step=0, lr=0.1)
print(*sys.modules)
"""
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch.distributed.fsdp", "torch.distributed.pipelining", "torch._dynamo", "sympy"} & {*loaded}
