"""Kernels that give the same bits every time, for `train.deterministic_reduction`."""

import os
from typing import Any

import torch


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
