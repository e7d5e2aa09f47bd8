"""Number formats, the loss scale that fp16 needs, and the device with its kernels.

| precision | matmuls  | residual stream | loss scale |
|-----------|----------|-----------------|------------|
| fp32      | fp32     | fp32            | no         |
| bf16      | bf16     | bf16            | no         |
| fp16      | fp16     | fp32            | yes        |
| fp8       | fp8, attention and head bf16 | bf16 | no |

Always fp32: master weights and moments (unless optimizer_state says bf16), accumulated gradients, norms, the embedding,
softmax and loss.
"""

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tinyllama.errors import RecipeError
from tinyllama.parallel.fp8 import load_float8

FIRST_SCALE, LARGEST_SCALE = 2.0**16, 2.0**24  # of a micro-batch's mean loss
GROWTH_INTERVAL = 1000  # updates in a row without overflow, after which it doubles


class PrecisionDtypes(NamedTuple):
    """Of matmuls and of the residual stream; None: the parameters' own."""

    compute: torch.dtype | None
    stream: torch.dtype | None


FORMATS = {
    "fp32": PrecisionDtypes(None, None),
    "bf16": PrecisionDtypes(torch.bfloat16, torch.bfloat16),
    "fp16": PrecisionDtypes(torch.float16, None),  # a stream of large values would leave fp16's range
    "fp8": PrecisionDtypes(torch.bfloat16, torch.bfloat16),
}


def choose_device(wanted: str, local_rank: int | None = None) -> torch.device:
    """`auto`: a CUDA device if there is one, else the CPU. Raises RecipeError when a wanted GPU is not there.

    `local_rank`: number of the machine's GPU that is this process's from now on, of a run of several ranks.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RecipeError("train.device: 'cuda', but PyTorch finds no CUDA device; 'auto' or 'cpu' would work")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and local_rank is not None:
        if local_rank >= torch.cuda.device_count():
            raise RecipeError(
                f"parallel.replicate: rank {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                "start as many processes a machine as it has GPUs"
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(wanted)


def check_precision(precision: str, device: torch.device) -> None:
    """Raises RecipeError when the device cannot multiply in this format, with one that it has."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError("train.precision: 'bf16', but this GPU has no bf16; 'fp16' would work")
    if precision != "fp8":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise RecipeError(
            "train.precision: 'fp8' needs a GPU of compute capability 8.9 (Ada, Hopper) or later; 'bf16' would work"
        )
    load_float8()


def repeat_kernels(device: torch.device) -> None:
    """Let this process use only kernels that repeat themselves, on a GPU; a CPU has no others.

    Attention's backward pass then has a fixed order of sums, which cuDNN's has not; cuBLAS keeps one workspace; the
    compiler takes no kernel by its measured time, which would differ from start to start.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    filling: Any = torch.utils.deterministic
    filling.fill_uninitialized_memory = False  # it is for finding faults, and costs time
    from torch._inductor import config as inductor

    if hasattr(inductor, "deterministic"):
        inductor.deterministic = True


def choose_threads(threads: int, device: torch.device, is_deterministic: bool) -> int:
    """Set and return the CPU threads of this process; 0: PyTorch's choice, but 1 where sums must not depend on it."""
    if threads == 0 and is_deterministic and device.type == "cpu":
        threads = 1
    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


class LossScale:
    """The factor of the summed loss, on the device (Micikevicius et al. 2018); where gradients need none it stays 1.

    The loss is a sum over the `tokens` of a micro-batch, not a mean: its gradients are larger as it is.
    """

    def __init__(self, is_on: bool, tokens: int, device: torch.device) -> None:
        self.is_on = is_on
        self._largest = LARGEST_SCALE / tokens
        self.factor = torch.tensor(FIRST_SCALE / tokens if is_on else 1.0, device=device)
        self.good_updates = torch.zeros((), dtype=torch.int32, device=device)

    @torch.no_grad()
    def update(self, is_skipped: Tensor) -> None:
        """Halve after an overflow; double after GROWTH_INTERVAL good updates."""
        if not self.is_on:
            return
        self.good_updates = (self.good_updates + 1) * (1 - is_skipped).to(torch.int32)
        grows = self.good_updates >= GROWTH_INTERVAL
        self.factor = torch.where(is_skipped > 0, self.factor / 2, torch.where(grows, self.factor * 2, self.factor))
        self.factor.clamp_(max=self._largest)
        self.good_updates *= ~grows

    def state(self) -> dict[str, float]:
        """What resume needs; waits for the device."""
        return {"factor": self.factor.item(), "good_updates": self.good_updates.item()}

    def load(self, state: dict[str, float]) -> None:
        """The inverse of `state`."""
        self.factor.fill_(state["factor"])
        self.good_updates.fill_(int(state["good_updates"]))
