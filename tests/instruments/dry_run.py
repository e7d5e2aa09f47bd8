"""One step of one rank of any layout, without devices, other ranks or memory: what it would hold, byte by byte.

Tensors have shapes only (FakeTensorMode), collectives go nowhere (a fake process group); everything else is the training
code itself: layout, forward and backward passes, sums, update. Every storage that is made or let go is counted. Layers are
counted as they are on a GPU: attention, SwiGLU, addition with norm and the loss are stand-ins that keep what the kernels
keep.

Not counted: what the allocator loses between blocks, workspaces of libraries, NCCL's own buffers.
"""

import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import Schedule1F1B, schedules
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.instruments import fake_kernels
from tinyllama.model import loss_gradient, packed_llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.parallelize import materialize
from tinyllama.parallel.ranks import Ranks
from tinyllama.parallel.reductions import is_sharded
from tinyllama.train.forward_backward import DeviceBatch
from tinyllama.train.gradients import Gradients
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState, build_network
from tinyllama.train.train_step import train_step

CPU = torch.device("cpu")
PARTS: tuple[str, ...] = ("weights", "compute_copy", "gradients", "optimizer", "activations", "buffers")


def dry_run(config: LlamaConfig, train: TrainConfig, parallel: ParallelConfig, rank: int = 0) -> dict[str, int]:
    """Bytes of `rank` at its peak in one step, by part, and their sum `peak`.

    `weights` and `optimizer`: masters and moments; `compute_copy`: 16-bit copies that are kept; `gradients`: their sums;
    `activations`: what the backward pass needs of the forward pass; `buffers`: all else, such as logits, gathered weights,
    what is sent and received. Takes seconds. Raises RuntimeError where torch.distributed is in use.
    """
    if dist.is_initialized():
        raise RuntimeError("a dry run needs a process without a process group")
    train, is_fp8 = _few_micro_batches(train, parallel), train.precision == "fp8"
    with _fake_ranks(parallel, rank) as ranks, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        network = build_network(config, train, torch.float32, ranks.mesh, compiled=False)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        tracker = stack.enter_context(MemoryTracker())
        materialize(network, CPU)
        state = TrainState(config, train, CPU, torch.float32, ranks, network)
        _book_state(tracker, state)
        stack.enter_context(fake_kernels.on_layers(packed_llama))
        if is_fp8:
            fake_kernels.use_fp8(network)
        if train.precision != "fp32":
            stack.enter_context(fake_kernels.on_loss(loss_gradient))
        network._first_norm = fake_kernels.rms_norm
        stack.enter_context(_booked_gradients(tracker, state))
        stack.enter_context(saved_tensors_hooks(tracker.book_activation, lambda value: value))
        if hasattr(Schedule1F1B, "_warmup_p2p"):  # from torch 2.13 on: stages vote, by values that are not here
            stack.enter_context(mock.patch.object(Schedule1F1B, "_warmup_p2p", _without_vote))
        tracker.begin()
        train_step(state, _batches(train, ranks), train, step=0, lr=1e-3)
        return {part: tracker.at_peak[part] for part in PARTS} | {"peak": sum(tracker.at_peak.values())}


def _few_micro_batches(train: TrainConfig, parallel: ParallelConfig) -> TrainConfig:
    """The same step with as many micro-batches as it takes to see the peak: more of them hold no more at once.

    fp8's is bf16's but for the layers' products.
    """
    if train.deterministic_reduction:
        raise ValueError("a dry run does not know deterministic_reduction")
    each = min(train.layout(parallel.data_ranks).micro_batches_per_rank, parallel.pipeline + 2)
    tokens = each * parallel.data_ranks * train.micro_batch_size * train.seq_len
    precision = "bf16" if train.precision == "fp8" else train.precision
    return train.model_copy(update={"tokens_per_step": tokens, "compile": "off", "precision": precision})


@contextmanager
def _fake_ranks(parallel: ParallelConfig, rank: int) -> Iterator[Ranks]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=parallel.world_size, store=FakeStore())
    try:
        ranks = Ranks(rank, parallel.world_size, parallel=parallel)
        ranks.mesh.connect(CPU)
        yield ranks
    finally:
        dist.destroy_process_group()


def _batches(train: TrainConfig, ranks: Ranks) -> list[DeviceBatch]:
    shape = (train.micro_batch_size, train.seq_len)
    ids = torch.zeros(shape, dtype=torch.int64)
    micro_batches = train.layout(ranks.data_size).micro_batches_per_rank
    return [DeviceBatch(ids, ids, torch.arange(shape[0])) for _ in range(micro_batches)]


def _without_vote(self: Any, stages: list[Any], *arguments: Any) -> None:
    for stage in stages:
        stage._inference_mode = getattr(schedules, "InferenceMode").STATIC  # noqa: B009 (not there before)


class MemoryTracker(TorchDispatchMode):
    """Bytes of all storages that live, by part; and the same at the moment when they were most."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, tuple[str, int]] = {}  # by the storage's place: part and bytes
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._bytes = dict.fromkeys(PARTS, 0)
        self.begin()

    def begin(self) -> None:
        """The peak counts from now on."""
        self.at_peak = dict(self._bytes)

    def __enter__(self) -> Any:
        resize = torch.UntypedStorage.resize_

        def counted(storage: Any, size: int) -> Any:  # FSDP lets go of gathered weights so
            found = resize(storage, size)
            self._see(storage)
            return found

        self._patch = mock.patch.object(torch.UntypedStorage, "resize_", counted)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *arguments: Any) -> None:
        self._patch.stop()
        super().__exit__(*arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its parts come by
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and value.device.type != "meta":
                self._see(value.untyped_storage())
        return found

    def book(self, value: Tensor, part: str) -> None:
        """What holds this tensor is of that part."""
        storage = value.untyped_storage()
        self._see(storage)
        key = storage._cdata
        if key in self._held:
            before, size = self._held[key]
            self._held[key] = part, size
            self._bytes[before] -= size
            self._bytes[part] += size

    def book_activation(self, value: Tensor) -> Tensor:
        """Of autograd: it keeps this tensor."""
        if not isinstance(value, DTensor) and value.device.type != "meta":
            part, _ = self._held.get(value.untyped_storage()._cdata, ("buffers", 0))
            if part == "buffers":
                self.book(value, "activations")
        return value

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        part, before = self._held.get(key, ("buffers", 0))
        if size == before:
            return
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _, key=key: self._gone(key))
        self._held[key] = part, size
        self._bytes[part] += size - before
        if sum(self._bytes.values()) > sum(self.at_peak.values()):
            self.at_peak = dict(self._bytes)

    def _gone(self, key: int) -> None:
        self._alive.pop(key, None)
        part, size = self._held.pop(key, ("buffers", 0))
        self._bytes[part] -= size


def _book_state(tracker: MemoryTracker, state: TrainState) -> None:
    for number, parameter in enumerate(state.network.packed):
        tracker.book(parameter.master, "weights")
        if parameter.copy is not None:
            tracker.book(parameter.copy, "compute_copy")
        for moment in range(2):
            tracker.book(state.optimizer.packed_moments(moment)[number], "optimizer")


@contextmanager
def _booked_gradients(tracker: MemoryTracker, state: TrainState) -> Iterator[None]:
    """While it lasts, sums of gradients are booked as such, when they are made and when they are joined."""
    keep, join = Gradients._keep, Gradients.join

    def booked_keep(self: Gradients, number: int, total: Tensor, **keywords: Any) -> None:
        tracker.book(total, "gradients")
        keep(self, number, total, **keywords)

    def book_sharded(*_: Any) -> None:
        for parameter in state.network.packed:
            if is_sharded(parameter.leaf) and parameter.leaf.grad is not None:
                grad: Any = parameter.leaf.grad
                tracker.book(grad._local_tensor, "gradients")
        for module in state.network.modules():
            group = module._get_fsdp_state()._fsdp_param_group if isinstance(module, FSDPModule) else None
            for held in group.fsdp_params if group is not None else ():  # sums that are not shared out yet
                if held.unsharded_accumulated_grad is not None:
                    tracker.book(held.unsharded_accumulated_grad, "gradients")

    def booked_join(self: Gradients) -> Tensor:
        totals = join(self)
        for total in self.all():
            tracker.book(total, "gradients")
        return totals

    state.network.register_forward_pre_hook(book_sharded)
    with (
        mock.patch.object(Gradients, "_keep", booked_keep),
        mock.patch.object(Gradients, "join", booked_join),
    ):
        yield
