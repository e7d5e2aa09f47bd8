"""The forward and backward passes of one update where ranks hold parts of the network."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tinyllama.model.attention import fastest_first
from tinyllama.model.dropout import sample_keys
from tinyllama.model.loss import LossSums, token_losses
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.parallelize import defer_sync_until_last
from tinyllama.parallel.pipeline_parallel import Pipeline, pass_through
from tinyllama.parallel.rank_progress import Activity
from tinyllama.parallel.ranks import Ranks
from tinyllama.parallel.tensor_parallel import TensorCollectives, vocabulary_loss, vocabulary_token_losses
from tinyllama.train.cut_gradients import CutGradients
from tinyllama.train.loss_scale import LossScale
from tinyllama.train.micro_batch import DeviceBatch, figures, with_requests
from tinyllama.train.train_config import TrainConfig


class CutStep:
    """Computes with one rank's part of the network, together with the ranks that hold the others."""

    def __init__(
        self, network: PackedLlama, gradients: CutGradients, head: int | None, loss_scale: LossScale,
        train: TrainConfig, ranks: Ranks,
    ) -> None:  # fmt: skip
        """`head`: number of the head's matrix among the packed ones, None where another stage has it."""
        assert ranks.mesh is not None
        self._network, self._gradients, self._head, self._loss_scale = network, gradients, head, loss_scale
        self._train, self._ranks, self._mesh = train, ranks, ranks.mesh
        self._slices = network.partition.collectives
        # Ranks that compute the same loss: one of them counts it.
        self._counts = self._mesh.is_last_stage and self._mesh.at("tensor") == 0
        self._micro_batches = train.layout(ranks.data_size).micro_batches_per_rank
        self._pipeline: Pipeline | None = None

    def accumulate(self, micro_batches: Iterable[DeviceBatch], step: int) -> None:
        """Let this rank's micro-batches' gradients and figures be added up."""
        with fastest_first():
            if self._mesh.size("pipeline") > 1:
                self._through_stages(list(micro_batches), step)
                return
            for number, batch in enumerate(micro_batches, 1):
                is_last = number == self._micro_batches
                defer_sync_until_last(self._network, layers_too=self._mesh.parallel.gathers_once, is_last=is_last)
                self._ranks.progress.enter(Activity.FORWARD, step + 1)
                hidden = self._network(batch.tokens, self._keys(batch, step))
                self._ranks.progress.enter(Activity.BACKWARD, step + 1)
                self._loss(hidden, batch.targets).backward()
                self._ranks.progress.enter(Activity.DATA, step + 1)

    def _through_stages(self, batches: list[DeviceBatch], step: int) -> None:
        self._ranks.progress.enter(Activity.FORWARD, step + 1)
        whole = DeviceBatch(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))
        if self._pipeline is None:
            size = len(batches[0].tokens)
            self._pipeline = Pipeline(self._network, self._mesh, len(batches), size, self._loss)
            self._network.register_forward_pre_hook(lambda *_: self._ranks.progress.stay())
        self._pipeline.run(whole.tokens, whole.targets, self._keys(whole, step))
        if not self._mesh.is_last_stage:
            self._gradients.end(self._figures(None))

    def _keys(self, batch: DeviceBatch, step: int) -> Tensor | None:
        config = self._network.config
        has_dropout = config.dropout > 0 or config.attention_dropout > 0
        return sample_keys(self._train.seed, step, batch.samples) if has_dropout else None

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """A scalar whose gradients are made already; the head's goes to the sums, or through FSDP to them."""
        weight, is_sharded = self._network.output_weight, self._network.partition.keeps_masters
        product, scale = weight.detach().to(hidden.dtype), self._loss_scale.factor if self._loss_scale.is_on else None
        assert self._head is not None
        before = None if is_sharded else self._gradients[self._head]
        given: dict[str, Any] = {"z_loss": self._train.z_loss, "scale": scale}
        if isinstance(self._slices, TensorCollectives):
            found = vocabulary_loss(hidden.detach(), product, targets, before, self._slices, **given)
        else:
            found = loss_and_gradients(hidden.detach(), product, targets, before, **given)
        sums, hidden_gradient, weight_gradient = found
        self._gradients.end(self._figures(sums))
        if is_sharded:
            return _MadeGradients.apply(sums.loss, hidden, hidden_gradient, weight, weight_gradient)
        self._gradients[self._head] = weight_gradient
        return _MadeGradients.apply(sums.loss, hidden, hidden_gradient, None, None)

    def _figures(self, sums: LossSums | None) -> Tensor:
        """A micro-batch's figures, zeros where another rank counts them, and this rank's requests."""
        if sums is not None and self._counts:
            return figures(sums, self._ranks.requests())
        dtype = torch.promote_types(self._network.compute_dtype, torch.float32)
        return with_requests(torch.zeros(3, dtype=dtype, device=self._network.device), self._ranks.requests())

    def token_losses(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """`loss.token_losses` of a batch (B, T), on the rank that counts it; None on those that work with it."""
        hidden = pass_through(self._network, self._mesh, tokens)
        if hidden is None:
            return None
        product = self._network.output_weight.detach().to(hidden.dtype)
        if isinstance(self._slices, TensorCollectives):
            found = vocabulary_token_losses(hidden, product, targets, self._slices)
        else:
            found = token_losses(hidden, product, targets)
        return found if self._counts else None


class _MadeGradients(torch.autograd.Function):
    """A loss whose gradients were made together with it."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, hidden: Tensor, d_hidden: Tensor, weight: Any, d_weight: Any) -> Tensor:
        ctx.made = d_hidden, d_weight
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        d_hidden, d_weight = ctx.made
        ctx.made = None
        return None, d_hidden, None, d_weight, None
