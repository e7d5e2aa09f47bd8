"""Compiles the layers of a network when it is worth the time; falls back to eager execution if compiling fails."""

from copy import copy

import torch
from torch import Tensor, nn

from tinyllama import log
from tinyllama.model.llama import Llama

COMPILE_FROM_FLOP = 2e16  # about a minute of an uncompiled H100; compiling takes half a minute


class CompiledLayers:
    """`Llama.hidden` without cache. `wanted`: whether layers are compiled (torch.compile, one graph for any shape).

    None: on a GPU, from the batch with which 2 N FLOP per token reach COMPILE_FROM_FLOP. That is counted, not timed, so
    that the same examples always give the same numbers. If compiling fails, a warning says so.
    """

    def __init__(self, model: Llama, wanted: bool | None) -> None:
        self._model = model
        is_for_later = wanted is None and model.embedding.weight.is_cuda
        self._from_flop = 0.0 if wanted else COMPILE_FROM_FLOP if is_for_later else float("inf")
        self._flop = 0.0
        self._compiled: Llama | None = None

    @property
    def are_compiled(self) -> bool:
        """Whether the latest batch went through compiled layers."""
        return self._compiled is not None

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """As `Llama.hidden`: token ids (B, T) to (B, T, E)."""
        self._flop += 2 * self._model.config.n_parameters * tokens.numel()
        if self._flop < self._from_flop:
            return self._model.hidden(tokens, positions, mask)
        if self._compiled is None:
            self._compiled = with_compiled_layers(self._model)
        try:
            return self._compiled.hidden(tokens, positions, mask)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no C compiler, no Triton, an error of the compiler
            reason = next(iter(str(error).splitlines()), "")
            log.warn(f"evaluate: layers are not compiled ({type(error).__name__}: {reason[:200]})")
            self._compiled, self._from_flop = None, float("inf")
        return self._model.hidden(tokens, positions, mask)


def with_compiled_layers(model: Llama) -> Llama:
    """A copy of the network with the same parameters and compiled layers; `model` is not changed."""
    network = copy(model)
    network._modules = dict(model._modules)
    network.layers = nn.ModuleList(torch.compile(layer, dynamic=True) for layer in model.layers)  # type: ignore[misc]
    return network
