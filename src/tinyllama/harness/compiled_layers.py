"""A network whose layers are compiled when that pays, and that goes on without where it does not work."""

from copy import copy

import torch
from torch import Tensor, nn

from tinyllama import log
from tinyllama.model.llama import Llama

COMPILE_FROM_FLOP = 2e16  # about a minute of an H100, uncompiled; compiling takes half of that


class CompiledLayers:
    """`Llama.hidden` without cache. `wanted`: whether layers are compiled (torch.compile, for any shape).

    None: on a GPU, from the batch on with which 2 N FLOP a token come to COMPILE_FROM_FLOP: a count and not a clock, so
    that the same examples give the same numbers again. When compiling fails a line says so, and the layers work as they are.
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
        except Exception as error:  # no C compiler, no Triton, a fault of the compiler: without it everything works
            reason = next(iter(str(error).splitlines()), "")
            log.warn(f"evaluate: layers are not compiled ({type(error).__name__}: {reason[:200]})")
            self._compiled, self._from_flop = None, float("inf")
        return self._model.hidden(tokens, positions, mask)


def with_compiled_layers(model: Llama) -> Llama:
    """The same network with the same parameters, its layers compiled for any shape; `model` stays as it is."""
    network = copy(model)
    network._modules = dict(model._modules)
    network.layers = nn.ModuleList(torch.compile(layer, dynamic=True) for layer in model.layers)  # type: ignore[misc]
    return network
