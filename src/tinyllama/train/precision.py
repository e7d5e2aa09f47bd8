"""Number formats: where the computation may be short, and where it stays in fp32.

| precision | products | residual stream | loss scale |
|-----------|----------|-----------------|------------|
| fp32      | fp32     | fp32            | no         |
| bf16      | bf16     | bf16            | no         |
| fp16      | fp16     | fp32            | yes        |
| fp8       | fp8, attention and head bf16 | bf16 | no |

Always fp32: master weights and moments (unless optimizer_state says bf16), sums of gradients, norms, the embedding,
softmax and loss.
"""

from typing import NamedTuple

import torch

from tinyllama.errors import RecipeError
from tinyllama.parallel.fp8 import load_float8


class NumberFormat(NamedTuple):
    """Dtypes of a precision; None: the parameters' own."""

    compute: torch.dtype | None
    stream: torch.dtype | None


FORMATS = {
    "fp32": NumberFormat(None, None),
    "bf16": NumberFormat(torch.bfloat16, torch.bfloat16),
    "fp16": NumberFormat(torch.float16, None),  # a stream of large values would leave fp16's range
    "fp8": NumberFormat(torch.bfloat16, torch.bfloat16),
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
    """Raises RecipeError when the device has no such products, with one that it has."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError("train.precision: 'bf16', but this GPU has no bf16; 'fp16' would work")
    if precision != "fp8":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise RecipeError(
            "train.precision: 'fp8' needs a GPU of compute capability 8.9 (Ada, Hopper) or later; 'bf16' would work"
        )
    load_float8()
