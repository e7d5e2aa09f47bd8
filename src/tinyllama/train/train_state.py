"""What one update changes, on one process or a rank of a layout, and its conversion to and from a checkpoint."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tinyllama import log
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.save_load import check_moments, check_weights, load_tensors, sha256_of
from tinyllama.evaluation.validation import BatchLosses
from tinyllama.model.llama import Llama, initial_values
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.full_tensors import FullTensors
from tinyllama.parallel.gradient_reduction import gradient_reduction
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.parallelize import materialize, meta_llama, parallelize
from tinyllama.parallel.pipeline_split import stage_layers
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.forward_backward import ForwardBackward
from tinyllama.train.gradients import Gradients
from tinyllama.train.optimizer import MOMENTS, AdamW, optimizer_kernel
from tinyllama.train.precision import FORMATS, LossScale, check_precision, repeat_kernels
from tinyllama.train.train_config import UpdateConfig

Named = Iterable[tuple[str, Tensor]]


class TrainState:
    """This rank's weights, moments, loss scale, and `network`, which computes with the weights.

    Canonical tensors, by the names of `Llama`, are what is saved and compared; all ranks convert between them and what
    each holds together. Weights are undefined until `init_weights` or `broadcast`. Raises RecipeError when the device
    cannot do what `train` asks for.
    """

    def __init__(
        self,
        config: LlamaConfig,
        train: UpdateConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        ranks: Ranks | None = None,
        network: PackedLlama | None = None,
    ) -> None:
        """`dtype` of the masters; float64 is for comparisons. `ranks`: default this process alone. `network`: this
        rank's, where it was built and given memory before."""
        check_precision(train.precision, device)
        if train.deterministic_reduction:
            repeat_kernels(device)
        self.config, self.ranks = config, ranks or Ranks()
        mesh = self.ranks.mesh
        self.is_compiled = is_compiled(train, device)
        if self.is_compiled:
            keep_compiled_code()
        self.network = network or build_network(config, train, dtype, mesh, compiled=self.is_compiled)
        if network is None:
            materialize(self.network, device)
        packed = self.network.packed
        self._layers = stage_layers(config, mesh.size("pipeline"), train.recompute)
        self.full_tensors = FullTensors(config, packed, mesh, self._layers)
        self.head = packed.index(self.network.output) if mesh.is_last_stage else None  # number of the head's matrix
        layout = train.layout(self.ranks.data_size)
        reduction = gradient_reduction(packed, layout, self.ranks, self.full_tensors)
        self.gradients = Gradients(packed, self.head, layout.micro_batches_per_rank, reduction)
        self.optimizer = AdamW(packed, train)
        self.loss_scale = LossScale(train.precision == "fp16", train.micro_batch_size * train.seq_len, device)
        self.passes = ForwardBackward(self.network, self.gradients, self.head, self.loss_scale, train, self.ranks)
        self._read: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None  # weights and moments, on rank 0

    @cached_property
    def model(self) -> Llama:
        """The canonical network, whose parameters are views of the masters: only where this rank holds all of it.

        Call `network.refresh` after a change of its weights.
        """
        assert not self.ranks.parallel.is_model_parallel
        model = meta_llama(self.config)
        values = (parameter.canonical(parameter.master) for parameter in self.network.packed)
        model.load_state_dict({name: value for each in values for name, value in each.items()}, assign=True)
        return model

    @contextmanager
    def full_model(self) -> Iterator[Llama | None]:
        """The canonical network on every rank; None, on all, where some rank has no memory for it."""
        if not self.ranks.parallel.is_model_parallel:
            yield self.model
            return
        with self.ranks.waiting("the whole network"):
            try:
                with torch.device(self.network.device):
                    model = Llama(self.config)
            except torch.OutOfMemoryError:
                model = None
            fails = torch.tensor(float(model is None), device=self.network.device)
            if self.ranks.sum(fails).item() > 0:
                model = None
            if model is not None:
                targets = {name: value.detach() for name, value in model.named_parameters()}
                self.full_tensors.gather_to_all(targets, self._masters())
        try:
            yield model
        finally:
            for value in model.parameters() if model is not None else ():
                value.untyped_storage().resize_(
                    0
                )  # the next step needs the memory, even while the network is still referred to

    def batch_losses(self) -> BatchLosses:
        """How validation computes the losses of a batch; call `reshard` after it."""
        return BatchLosses(self.network.device, self.passes.token_losses, self.ranks.parallel.is_model_parallel)

    def reshard(self) -> None:
        """Free gathered weights, which the next update makes stale."""
        if self.ranks.mesh.size("shard") > 1:
            from tinyllama.parallel.fsdp import reshard

            reshard(self.network)

    # -- canonical tensors ---------------------------------------------------------------------------------------------

    def _masters(self) -> list[Tensor]:
        return [parameter.master for parameter in self.network.packed]

    def init_weights(self, seed: int) -> None:
        """Random weights, the same in every layout."""
        for name, values in initial_values(self.config, self.full_tensors.shapes, seed):
            self.full_tensors.scatter(name, values, self._masters())
        self.network.refresh()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full weights by name, on rank 0; the other ranks iterate too, and get nothing."""
        with self.ranks.waiting():
            yield from self.full_tensors.gather(self._masters())

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """Full moments under `MOMENT.NAME`, on rank 0; the other ranks iterate too, and get nothing."""
        with self.ranks.waiting():
            for number, moment in enumerate(MOMENTS):
                for name, value in self.full_tensors.gather(self.optimizer.packed_moments(number)):
                    yield f"{moment}.{name}", value

    def join_save(self) -> None:
        """On the ranks that do not save: take part in the gather; only rank 0 writes."""
        for _ in (*self.weights(), *self.moments()):
            pass

    def state_shapes(self) -> tuple[Named, Named]:
        """Tensors of the shapes, formats and device of `weights` and `moments`, without memory or the other ranks."""
        weight, moment = self.network.packed[0].master, self.optimizer.packed_moments(0)[0]
        shapes = self.full_tensors.shapes.items()
        weights = [(name, weight.new_empty(()).expand(shape)) for name, shape in shapes]
        return weights, [
            (f"{kind}.{name}", moment.new_empty(()).expand(shape)) for kind in MOMENTS for name, shape in shapes
        ]

    def load(self, path: Path) -> None:
        """On rank 0: read a checkpoint's tensors, for `broadcast`. Raises InputError when one does not fit."""
        weights, moments = load_tensors(path / form.WEIGHTS), load_tensors(path / form.OPTIMIZER)
        shapes = self.full_tensors.shapes
        check_weights(shapes, weights, path / form.WEIGHTS)
        wanted = {f"{moment}.{name}": shape for moment in MOMENTS for name, shape in shapes.items()}
        check_moments(wanted, moments, path / form.OPTIMIZER)
        self._read = weights, moments

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """On rank 0: take weights that fit, for `broadcast`; the moments stay."""
        self._read = weights, {}

    def broadcast(self) -> None:
        """Give what rank 0 has read to all ranks, and its counters."""
        weights, moments = self._read or (None, None)
        self._read = None
        has_moments = bool(self.ranks.on_rank_0(lambda: bool(moments)))
        with self.ranks.waiting("rank 0's state"):
            self.full_tensors.broadcast(weights, self._masters())
            for number, moment in enumerate(MOMENTS if has_moments else ()):
                own = moments and {name: moments[f"{moment}.{name}"] for name in self.full_tensors.shapes}
                self.full_tensors.broadcast(own, self.optimizer.packed_moments(number))
        self.ranks.broadcast([self.optimizer.updates, self.loss_scale.factor, self.loss_scale.good_updates])
        self.reshard()
        self.network.refresh()

    def weights_sha256(self) -> str:
        """Of the canonical weights, on rank 0; empty on the others."""
        held = {name: value.float().cpu() for name, value in self.weights()}
        return sha256_of(held) if held else ""

    # -- in words ------------------------------------------------------------------------------------------------------

    def describe(self, train: UpdateConfig) -> str:
        """Which precision, kernels and layout are in use."""
        on_gpu = self.network.device.type == "cuda"
        kernels = "Triton" if on_gpu and optimizer_kernel is not None else "PyTorch"
        said = [
            f"precision {train.precision}",
            "layers compiled" if self.is_compiled else "not compiled",
            f"{'cuDNN or PyTorch' if on_gpu else 'PyTorch'} attention, {kernels} loss and optimizer",
            *(["deterministic"] if train.deterministic_reduction else []),
            *([f"{self.ranks.size} ranks ({self.ranks.parallel.words()})"] if not self.ranks.is_alone else []),
            *([f"recompute {train.recompute}"] if train.recompute != "none" else []),
        ]
        parallel = self.ranks.parallel
        if len(self._layers) > 1:
            said.append(f"stages of {' + '.join(str(len(layers)) for layers in self._layers)} layers")
        elif parallel.shard > 1 and not parallel.gathers_once:
            values = sum(matrix.numel() for layer in self.network.layers for matrix in layer.parameters())
            more = values * (self.network.compute_dtype.itemsize + 4 * (1 - 1 / parallel.shard)) / 1e9
            said.append(
                f"shards gathered for each layer (once per step: parallel.gather=step, faster, {more:.2g} GB more)"
            )
        return ", ".join(said)


def build_network(
    config: LlamaConfig, train: UpdateConfig, dtype: torch.dtype, mesh: RankMesh, *, compiled: bool
) -> PackedLlama:
    """This rank's part of the network, without memory: `materialize` is next."""
    return parallelize(
        config, mesh, dtype, FORMATS[train.precision], seq_len=train.seq_len, recompute=train.recompute,
        is_fp8=train.precision == "fp8", compiled=compiled,
    )  # fmt: skip


def is_compiled(train: UpdateConfig, device: torch.device) -> bool:
    """Whether layers are compiled."""
    return train.compile == "on" or (train.compile == "auto" and device.type == "cuda")


def keep_compiled_code() -> None:
    """Keep the compiler's output where the next start finds it; its own default may be gone after a reboot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyllama"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))


def log_start(state: TrainState, train: UpdateConfig) -> None:
    """Log what is used, and why the first step takes long."""
    log.info(f"pretrain: {state.describe(train)}")
    if state.is_compiled:
        log.info("pretrain: the first step compiles the layer, some 20 seconds; later starts find it on disk")
