"""The state of one rank: of the whole network, or of its part."""

import torch

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.ranks import Ranks
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState


def state_of(
    config: LlamaConfig, train: TrainConfig, device: torch.device, ranks: Ranks, dtype: torch.dtype = torch.float32
) -> TrainState:
    """A state with undefined weights. `dtype`: of the masters. Raises RecipeError when the device cannot do this."""
    if ranks.mesh is None:
        return TrainState(config, train, device, dtype, ranks)
    from tinyllama.train.cut_state import (
        CutState,  # with PyTorch's sharding and pipelining, which take a second to load
    )

    return CutState(config, train, device, dtype, ranks)
