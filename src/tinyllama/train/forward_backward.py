"""The forward and backward passes of one update, on one process or with the ranks that hold the rest of the network."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tinyllama.model.attention import fastest_first
from tinyllama.model.dropout import sample_keys
from tinyllama.model.loss import LossSums, token_losses
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.rank_progress import Activity
from tinyllama.parallel.ranks import Ranks
from tinyllama.parallel.tensor_parallel import TensorCollectives, vocabulary_loss, vocabulary_token_losses
from tinyllama.train.gradients import Gradients
from tinyllama.train.precision import LossScale
from tinyllama.train.train_config import UpdateConfig


class DeviceBatch(NamedTuple):
    """A micro-batch on the device: token ids and their successors, (B, T), and each row's sample index, (B,)."""

    tokens: Tensor
    targets: Tensor
    samples: Tensor


class ForwardBackward:
    """Accumulates gradients with this rank's part of the network."""

    def __init__(
        self, network: PackedLlama, gradients: Gradients, head: int | None, loss_scale: LossScale, train: UpdateConfig,
        ranks: Ranks,
    ) -> None:  # fmt: skip
        """`head`: number of the head's matrix among the packed parameters, None where another stage has it."""
        self._network, self._gradients, self._head, self._loss_scale = network, gradients, head, loss_scale
        self._seed, self._z_loss, self._ranks, self._mesh = train.seed, train.z_loss, ranks, ranks.mesh
        self._slices = network.partition.collectives
        # Ranks that compute the same loss: one of them counts it.
        self._counts = self._mesh.is_last_stage and self._mesh.at("tensor") == 0
        self._micro_batches = train.layout(ranks.data_size).micro_batches_per_rank
        self._pipeline: Any = None

    def accumulate(self, micro_batches: Iterable[DeviceBatch], step: int) -> Tensor:
        """Sum the gradients of a step's micro-batches, which are left in `gradients`; returns the sums over all ranks of
        loss, correct predictions, targets and requests, in a row."""
        with self._ranks.waiting(with_work=True):
            # The backward pass too: what it recomputes must choose the same kernel again.
            with fastest_first():
                if self._mesh.size("pipeline") > 1:
                    self._run_pipeline(list(micro_batches), step)
                else:
                    self._run_in_turn(micro_batches, step)
            self._ranks.progress.enter(Activity.REDUCTION, step + 1)
            return self._gradients.join()

    def _run_in_turn(self, micro_batches: Iterable[DeviceBatch], step: int) -> None:
        for number, batch in enumerate(micro_batches, 1):
            if self._mesh.size("shard") > 1:
                from tinyllama.parallel.fsdp import defer_sync_until_last

                is_last = number == self._micro_batches
                defer_sync_until_last(self._network, layers_too=self._mesh.parallel.gathers_once, is_last=is_last)
            self._ranks.progress.enter(Activity.FORWARD, step + 1)
            hidden = self._network(batch.tokens, self._keys(batch, step))
            self._ranks.progress.enter(Activity.BACKWARD, step + 1)
            self._loss(hidden, batch.targets).backward()
            self._gradients.end_micro_batch()
            self._ranks.progress.enter(Activity.DATA, step + 1)

    def _run_pipeline(self, batches: list[DeviceBatch], step: int) -> None:
        self._ranks.progress.enter(Activity.FORWARD, step + 1)
        whole = DeviceBatch(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))
        if self._pipeline is None:
            from tinyllama.parallel.pipeline_parallel import Pipeline

            size = len(batches[0].tokens)
            self._pipeline = Pipeline(self._network, self._mesh, len(batches), size, self._loss)
            self._network.register_forward_pre_hook(lambda *_: self._ranks.progress.stay())
        self._pipeline.run(whole.tokens, whole.targets, self._keys(whole, step))
        if not self._mesh.is_last_stage:
            self._gradients.add_totals(self._totals(None))

    def _keys(self, batch: DeviceBatch, step: int) -> Tensor | None:
        config = self._network.config
        has_dropout = config.dropout > 0 or config.attention_dropout > 0
        return sample_keys(self._seed, step, batch.samples) if has_dropout else None

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """A scalar whose gradients are made already; the head's goes to the sums, or through FSDP to them."""
        weight, is_sharded = self._network.output_weight, self._network.partition.keeps_masters
        matrix, scale = weight.detach().to(hidden.dtype), self._loss_scale.factor if self._loss_scale.is_on else None
        assert self._head is not None
        before = None if is_sharded else self._gradients[self._head]
        given: dict[str, Any] = {"z_loss": self._z_loss, "scale": scale}
        if isinstance(self._slices, TensorCollectives):
            found = vocabulary_loss(hidden.detach(), matrix, targets, before, self._slices, **given)
        else:
            found = loss_and_gradients(hidden.detach(), matrix, targets, before, **given)
        sums, hidden_gradient, weight_gradient = found
        self._gradients.add_totals(self._totals(sums))
        if is_sharded:
            return _MadeGradients.apply(sums.loss, hidden, hidden_gradient, weight, weight_gradient)
        self._gradients[self._head] = weight_gradient
        return _MadeGradients.apply(sums.loss, hidden, hidden_gradient, None, None)

    def _totals(self, sums: LossSums | None) -> Tensor:
        """Loss, correct predictions and targets of a micro-batch, zeros where another rank counts them; then this rank's
        requests."""
        if sums is not None and self._counts:
            row = torch.stack([sums.loss, sums.correct.to(sums.loss.dtype), sums.count.to(sums.loss.dtype)])
        else:
            dtype = torch.promote_types(self._network.compute_dtype, torch.float32)
            row = torch.zeros(3, dtype=dtype, device=self._network.device)
        requests = self._ranks.requests()
        if not requests:
            return row
        # A copy to a GPU would wait for it: only where some request is made.
        return torch.cat([row, row.new_tensor(requests) if any(requests) else row.new_zeros(len(requests))])

    def token_losses(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """`loss.token_losses` of a batch (B, T), without gradients, on the rank that counts it; None on those that
        compute it with that rank."""
        with self._ranks.waiting(with_work=True), torch.no_grad():
            hidden = self._hidden(tokens)
            if hidden is None:
                return None
            matrix = self._network.output_weight.detach().to(hidden.dtype)
            if isinstance(self._slices, TensorCollectives):
                found = vocabulary_token_losses(hidden, matrix, targets, self._slices)
            else:
                found = token_losses(hidden, matrix, targets)
            return found if self._counts else None

    def _hidden(self, tokens: Tensor) -> Tensor | None:
        """Hidden states of a batch; None on all stages but the last."""
        if self._mesh.size("pipeline") == 1:
            return self._network(tokens)
        from tinyllama.parallel.pipeline_parallel import pass_through

        return pass_through(self._network, self._mesh, tokens)


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
