"""`TrainState` where ranks hold parts of the network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.save_load import check_moments, check_weights, load_tensors, sha256_of
from tinyllama.evaluation.validation import BatchLosses
from tinyllama.model.llama import Llama, initial_values
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.full_tensors import FullTensors
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.parallelize import materialize, parallelize
from tinyllama.parallel.pipeline_split import stage_layers
from tinyllama.parallel.rank_progress import Activity
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.cut_gradients import CutGradients
from tinyllama.train.cut_step import CutStep
from tinyllama.train.loss_scale import LossScale
from tinyllama.train.micro_batch import DeviceBatch
from tinyllama.train.optimizer import MOMENTS, AdamW
from tinyllama.train.precision import FORMATS, check_precision
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState, is_compiled, keep_compiled_code


class CutState(TrainState):
    """This rank's part of what an update changes, and how it becomes the canonical state and comes from it.

    Whatever goes between the two is done by all ranks together.
    """

    def __init__(
        self, config: LlamaConfig, train: TrainConfig, device: torch.device, dtype: torch.dtype, ranks: Ranks,
        network: PackedLlama | None = None,
    ) -> None:  # fmt: skip
        """`network`: this rank's part, where it was laid out and given memory before."""
        assert ranks.mesh is not None
        check_precision(train.precision, device)
        self.config, self.train, self.ranks = config, train, ranks
        self.is_compiled = is_compiled(train, device)
        if self.is_compiled:
            keep_compiled_code()
        self.network = network or parallel_network(config, train, dtype, ranks.mesh, compiled=self.is_compiled)
        if network is None:
            materialize(self.network, device)
        packed = self.network.packed
        self._layers = stage_layers(config, ranks.mesh.size("pipeline"), train.recompute)
        self.full_tensors = FullTensors(config, packed, ranks.mesh, self._layers)
        head = packed.index(self.network.output) if ranks.mesh.is_last_stage else None
        layout = train.layout(ranks.data_size)
        ties_stages = config.tied_head and ranks.mesh.size("pipeline") > 1
        self.gradients = gradients = CutGradients(
            packed, head, layout, ranks, self.full_tensors, ties_stages=ties_stages
        )
        self.optimizer = AdamW(packed, train)
        self.loss_scale = LossScale(train.precision == "fp16", train.micro_batch_size * train.seq_len, device)
        self.cut_step = CutStep(self.network, gradients, head, self.loss_scale, train, ranks)
        self._read: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def accumulate(self, micro_batches: Iterable[DeviceBatch], train: TrainConfig, step: int) -> Tensor:
        with self.ranks.waiting(with_work=True):
            self.cut_step.accumulate(micro_batches, step)
            self.ranks.progress.enter(Activity.REDUCTION, step + 1)
            return self.gradients.join()

    def describe(self, train: TrainConfig) -> str:
        said, sizes = super().describe(train), " + ".join(str(len(layers)) for layers in self._layers)
        if len(self._layers) > 1:
            return f"{said}, stages of {sizes} layers"
        parallel = self.ranks.parallel
        if parallel.shard == 1 or parallel.gathers_once:
            return said
        values = sum(matrix.numel() for layer in self.network.layers for matrix in layer.parameters())
        more = values * (self.network.compute_dtype.itemsize + 4 * (1 - 1 / parallel.shard)) / 1e9
        return f"{said}, shards gathered for each layer (once a step: parallel.gather=step, faster, {more:.2g} GB more)"

    def validation_model(self) -> BatchLosses:
        return BatchLosses(self.network.device, self.token_losses)

    def token_losses(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of a batch that `data_size` ranks have each their own of; None where another rank counts it."""
        with self.ranks.waiting(with_work=True):
            return self.cut_step.token_losses(tokens, targets)

    def reshard(self) -> None:
        """After validation: let go of gathered weights, which the next update changes."""
        for module in self.network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def full_model(self) -> Iterator[Llama | None]:
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
                self.full_tensors.gather_to_all(targets, [parameter.master for parameter in self.network.packed])
        try:
            yield model
        finally:
            for value in model.parameters() if model is not None else ():
                value.untyped_storage().resize_(0)  # the next step needs it, whoever still refers to the network

    # -- canonical tensors ---------------------------------------------------------------------------------------------

    def init_weights(self, seed: int) -> None:
        masters = [parameter.master for parameter in self.network.packed]
        for name, values in initial_values(self.config, self.full_tensors.shapes, seed):
            self.full_tensors.scatter(name, values, masters)
        self.network.refresh()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        with self.ranks.waiting():
            yield from self.full_tensors.gather([parameter.master for parameter in self.network.packed])

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        with self.ranks.waiting():
            for number, moment in enumerate(MOMENTS):
                for name, value in self.full_tensors.gather(self.optimizer.packed_moments(number)):
                    yield f"{moment}.{name}", value

    def join_save(self) -> None:
        for _ in (*self.weights(), *self.moments()):
            pass

    def state_shapes(self) -> tuple[Iterable[tuple[str, Tensor]], Iterable[tuple[str, Tensor]]]:
        weight, moment = self.network.packed[0].master, self.optimizer.packed_moments(0)[0]
        shapes = self.full_tensors.shapes.items()
        weights = [(name, _without_memory(shape, weight)) for name, shape in shapes]
        return weights, [
            (f"{kind}.{name}", _without_memory(shape, moment)) for kind in MOMENTS for name, shape in shapes
        ]

    def load(self, path: Path) -> None:
        weights, moments = load_tensors(path / form.WEIGHTS), load_tensors(path / form.OPTIMIZER)
        shapes = self.full_tensors.shapes
        check_weights(shapes, weights, path / form.WEIGHTS)
        wanted = {f"{moment}.{name}": shape for moment in MOMENTS for name, shape in shapes.items()}
        check_moments(wanted, moments, path / form.OPTIMIZER)
        self._read = weights, moments

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        self._read = weights, {}

    def broadcast(self) -> None:
        """Give what rank 0 has read to all."""
        weights, moments = self._read or (None, None)
        self._read = None
        has_moments = bool(self.ranks.on_rank_0(lambda: bool(moments)))
        with self.ranks.waiting("rank 0's state"):
            self.full_tensors.broadcast(weights, [parameter.master for parameter in self.network.packed])
            for number, moment in enumerate(MOMENTS if has_moments else ()):
                own = (
                    None
                    if moments is None
                    else {name: moments[f"{moment}.{name}"] for name in self.full_tensors.shapes}
                )
                self.full_tensors.broadcast(own, self.optimizer.packed_moments(number))
        self.ranks.broadcast([self.optimizer.updates, self.loss_scale.factor, self.loss_scale.good_updates])
        self.reshard()
        self.network.refresh()

    def weights_sha256(self) -> str:
        """Of the canonical weights, on rank 0; empty on the others."""
        held = {name: value.float().cpu() for name, value in self.weights()}
        return sha256_of(held) if held else ""


def _without_memory(shape: torch.Size, like: Tensor) -> Tensor:
    """A tensor of a shape, of one value: to say what there will be, and where."""
    return like.new_empty(()).expand(shape)


def parallel_network(
    config: LlamaConfig, train: TrainConfig, dtype: torch.dtype, mesh: RankMesh, *, compiled: bool
) -> PackedLlama:
    """This rank's part of the network that `train` wants, without memory."""
    return parallelize(
        config, mesh, dtype, FORMATS[train.precision], seq_len=train.seq_len, recompute=train.recompute,
        is_fp8=train.precision == "fp8", compiled=compiled,
    )  # fmt: skip
