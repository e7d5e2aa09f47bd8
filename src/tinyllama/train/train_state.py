"""What one update changes, and the network that computes with it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tinyllama import log
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.save_load import load_moments, load_tensors, load_weights, sha256_of
from tinyllama.evaluation.validation import BatchLosses
from tinyllama.model.attention import fastest_first
from tinyllama.model.dropout import sample_keys
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.loss_gradient import loss_and_gradients
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.fp8 import to_fp8
from tinyllama.parallel.rank_progress import Activity
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.deterministic import repeat_kernels
from tinyllama.train.gradients import Gradients
from tinyllama.train.loss_scale import LossScale
from tinyllama.train.micro_batch import DeviceBatch, figures
from tinyllama.train.optimizer import AdamW, optimizer_kernel
from tinyllama.train.precision import FORMATS, check_precision
from tinyllama.train.train_config import TrainConfig


class TrainState:
    """Canonical weights, moments, loss scale; and `network`, which computes with the weights.

    `model` is the canonical network in fp32: what is saved, exported and compared. After its weights were changed from
    outside, `network.refresh()` is due. Raises RecipeError when the device cannot do what `train` asks for.
    """

    def __init__(
        self,
        config: LlamaConfig,
        train: TrainConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        ranks: Ranks | None = None,
    ) -> None:
        """`dtype` of the masters; float64 is for comparisons. `ranks`: default this process alone."""
        check_precision(train.precision, device)
        if train.deterministic_reduction:
            repeat_kernels(device)
        with torch.device(device):
            self.model = Llama(config).to(dtype)
        formats = FORMATS[train.precision]
        self.network = PackedLlama(self.model, formats.compute, formats.stream, train.recompute)
        if train.precision == "fp8":
            to_fp8(self.network)
        self.is_compiled = is_compiled(train, device)
        if self.is_compiled:
            keep_compiled_code()
            self.network.compile()
        self.ranks = ranks or Ranks()
        layout = train.layout(self.ranks.size)
        self.head = self.network.packed.index(self.network.output)  # number of the head's matrix among the packed ones
        self.gradients = Gradients(self.network.packed, self.head, layout, self.ranks)
        self.optimizer = AdamW(self.network.packed, train)
        self.loss_scale = LossScale(train.precision == "fp16", train.micro_batch_size * train.seq_len, device)

    def accumulate(self, micro_batches: Iterable[DeviceBatch], train: TrainConfig, step: int) -> Tensor:
        """Forward and backward passes of a step; gradients are left summed, the figures' sums returned."""
        network, gradients, loss_scale, ranks = self.network, self.gradients, self.loss_scale, self.ranks
        has_dropout = network.config.dropout > 0 or network.config.attention_dropout > 0
        for batch in micro_batches:
            ranks.progress.enter(Activity.FORWARD, step + 1)
            keys = sample_keys(train.seed, step, batch.samples) if has_dropout else None
            with fastest_first():  # the backward pass too: what it computes again must choose the same kernel again
                hidden = network.hidden(batch.tokens, keys)
                ranks.progress.enter(Activity.BACKWARD, step + 1)
                sums, hidden_gradient, gradients[self.head] = loss_and_gradients(
                    hidden.detach(), network.output_weight.detach(), batch.targets, gradients[self.head],
                    z_loss=train.z_loss, scale=loss_scale.factor if loss_scale.is_on else None,
                )  # fmt: skip
                hidden.backward(hidden_gradient)
            gradients.end(figures(sums, ranks.requests()))
            ranks.progress.enter(Activity.DATA, step + 1)
        ranks.progress.enter(Activity.REDUCTION, step + 1)
        return gradients.join()

    def validation_model(self) -> PackedLlama | BatchLosses:
        """What validation asks: the network, or losses that several ranks compute together."""
        return self.network

    def reshard(self) -> None:
        """After validation."""

    @contextmanager
    def full_model(self) -> Iterator[Llama | None]:
        """The canonical network in one piece on every rank; None, on all, where some rank has no memory for it."""
        yield self.model

    # -- canonical tensors ---------------------------------------------------------------------------------------------

    def init_weights(self, seed: int) -> None:
        """Random weights, the same in every layout."""
        self.model.init_weights(seed)
        self.network.refresh()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Whole canonical weights by name, for rank 0; every rank goes through them."""
        for name, value in self.model.named_parameters():
            yield name, value.detach()

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """Whole moments under `MOMENT.NAME`, for rank 0; every rank goes through them."""
        yield from self.optimizer.moments().items()

    def join_save(self) -> None:
        """Of the ranks that do not save: give rank 0 what it has not."""

    def state_shapes(self) -> tuple[Iterable[tuple[str, Tensor]], Iterable[tuple[str, Tensor]]]:
        """Tensors like those of `weights` and `moments`, for which room is made; without the other ranks."""
        return list(self.weights()), list(self.moments())

    def load(self, path: Path) -> None:
        """On rank 0: take up a checkpoint's tensors. Raises InputError when one does not fit."""
        load_weights(self.model, load_tensors(path / form.WEIGHTS), path / form.WEIGHTS)
        load_moments(path, self.optimizer.moments())

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """On rank 0: the same of weights alone, which do fit."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])

    def broadcast(self) -> None:
        """Give what rank 0 has read to all."""
        self.ranks.broadcast(self.tensors())
        self.network.refresh()

    def weights_sha256(self) -> str:
        """Of the canonical weights, on rank 0; empty on the others."""
        return sha256_of(dict(self.weights())) if self.ranks.is_first else ""

    def tensors(self) -> list[Tensor]:
        """All that a checkpoint holds of it, in one order on every rank: to give one rank's state to others."""
        return [
            *(parameter.detach() for parameter in self.model.parameters()),
            *self.optimizer.moments().values(),
            self.optimizer.updates,
            self.loss_scale.factor,
            self.loss_scale.good_updates,
        ]

    def describe(self, train: TrainConfig) -> str:
        """Which of the faster ways are in use, in words."""
        on_gpu = self.network.device.type == "cuda"
        kernels = on_gpu and optimizer_kernel is not None
        return ", ".join([
            f"{train.precision} products",
            "layers compiled" if self.is_compiled else "layers as they are",
            f"attention by {'cuDNN where it can' if on_gpu else 'PyTorch'}",
            f"loss and optimizer by {'Triton' if kernels else 'PyTorch'}",
            *(["deterministic"] if train.deterministic_reduction else []),
            *([f"{self.ranks.size} ranks ({self.ranks.parallel.words()})"] if not self.ranks.is_alone else []),
            *([f"recompute {train.recompute}"] if train.recompute != "none" else []),
        ])  # fmt: skip


def is_compiled(train: TrainConfig, device: torch.device) -> bool:
    """Whether layers are compiled."""
    return train.compile == "on" or (train.compile == "auto" and device.type == "cuda")


def keep_compiled_code() -> None:
    """Keep what the compiler makes where the next start finds it; its own default may be gone after a reboot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyllama"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))


def log_start(state: TrainState, train: TrainConfig) -> None:
    """Say what is used, and what the first step waits for."""
    log.info(f"pretrain: {state.describe(train)}")
    if state.is_compiled:
        log.info("pretrain: the first step compiles the layer, some 20 seconds; later starts find it on disk")
