"""A network with embedding projections as a plain Llama with the same logits, which is all that other programs know.

The projections are multiplied into the embedding and the head, which then have dim columns and are no longer tied.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tinyllama.exchange.open_model import OpenedModel
from tinyllama.model.llama_config import LlamaConfig


@torch.no_grad()
def plain_llama(opened: OpenedModel) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """The network without projections: its configuration, and its fp32 weights by canonical names."""
    weights = {name: value.detach().float().cpu().contiguous() for name, value in opened.model.named_parameters()}
    config = opened.config
    if config.has_projections:  # products in fp64, so that folding adds no error of its own
        embedding = weights["embedding.weight"].double()  # (V, E)
        head = weights.get("head.weight", weights["embedding.weight"]).double()  # (V, E)
        into = weights.pop("embedding_projection.weight").double()  # (D, E)
        out_of = weights.pop("head_projection.weight").double()  # (E, D)
        weights["embedding.weight"] = (embedding @ into.T).float()  # (V, D)
        weights["head.weight"] = (head @ out_of).float()  # (V, D)
        config = replace(config, embedding_dim=config.dim, tied_head=False)
    return config, weights
