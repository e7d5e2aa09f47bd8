"""What one update changes, and the network that computes with it."""

import os
from pathlib import Path

import torch
from torch import Tensor

from tinyllama import log
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.deterministic import repeat_kernels
from tinyllama.train.gradients import Gradients
from tinyllama.train.loss_scale import LossScale
from tinyllama.train.optimizer import AdamW, optimizer_kernel
from tinyllama.train.precision import FORMATS, check_precision, to_fp8
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
        self.is_compiled = train.compile == "on" or (train.compile == "auto" and device.type == "cuda")
        if self.is_compiled:
            keep_compiled_code()
            self.network.compile()
        self.ranks = ranks or Ranks()
        layout = train.layout(self.ranks.size)
        self.head = self.network.packed.index(self.network.output)  # number of the head's matrix among the packed ones
        self.gradients = Gradients(self.network.packed, self.head, layout, self.ranks)
        self.optimizer = AdamW(self.network.packed, train)
        self.loss_scale = LossScale(train.precision == "fp16", train.micro_batch_size * train.seq_len, device)

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
            *([f"{self.ranks.size} ranks"] if not self.ranks.is_alone else []),
            *([f"recompute {train.recompute}"] if train.recompute != "none" else []),
        ])  # fmt: skip


def keep_compiled_code() -> None:
    """Keep what the compiler makes where the next start finds it; its own default may be gone after a reboot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyllama"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))


def log_start(state: TrainState, train: TrainConfig) -> None:
    """Say what is used, and what the first step waits for."""
    log.info(f"pretrain: {state.describe(train)}")
    if state.is_compiled:
        log.info("pretrain: the first step compiles the layer, some 20 seconds; later starts find it on disk")
