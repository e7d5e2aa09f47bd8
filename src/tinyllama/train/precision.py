"""Number formats: where the computation may be short, and where it stays in fp32."""

from contextlib import AbstractContextManager, nullcontext

import torch

from tinyllama.errors import RecipeError


def choose_device(wanted: str) -> torch.device:
    """`auto`: a CUDA device if there is one, else the CPU. Raises RecipeError when a wanted GPU is not there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RecipeError("train.device: 'cuda', but PyTorch finds no CUDA device; 'auto' or 'cpu' would work")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def compute_format(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of forward and loss: fp32 as it is, bf16 by autocast (weights, norms' statistics, loss stay fp32)."""
    if precision == "fp32":
        return nullcontext()
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise RecipeError("train.precision: 'bf16', but this GPU has no bf16; 'fp32' would work")
    return torch.autocast(device.type, dtype=torch.bfloat16)
