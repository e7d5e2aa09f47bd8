"""The layers and tensor slices that one process holds, and the interface of the collectives that its layers need.

Between the matmuls of a sliced network a process has only its share of the rows: B x T rows of D values, in the order of
samples and positions, are distributed evenly over the processes that hold slices of the same layers. Letters as in
llama.py; R rows of one process.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from tinyllama.model.dropout import dropout


class Collectives:
    """Communication between the slices of one layer. This class is for whole layers, where there is nothing to do."""

    is_sliced = False
    size = 1  # processes that hold slices of the same layers
    first_head = 0  # of this process's query heads

    def embed(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Rows of the embedding for token ids (B, T): (B, T, E); sliced (R, E)."""
        return F.embedding(tokens, weight)

    def gather(self, rows: Tensor) -> Tensor:
        """All rows, (B T, D), from the rows (R, D) of each process, as input of a matmul."""
        return rows

    def scatter(self, partial: Tensor) -> Tensor:
        """Sum of the processes' partial results (B T, D), of which each gets its rows (R, D)."""
        return partial

    def dropout(self, rows: Tensor, probability: float, keys: Tensor | None, site: int, seq_len: int) -> Tensor:
        """`dropout.dropout` of rows, with the same mask as for whole layers."""
        return dropout(rows, probability, keys, site)


@dataclass(frozen=True, eq=False)
class Partition:
    """Layers from `first_layer` on, as many as the given network has; the first stage embeds, the last has the head.

    `seq_len`: T of the micro-batches, which the shape of rows does not tell.
    """

    collectives: Collectives
    first_layer: int = 0
    is_first: bool = True
    is_last: bool = True
    seq_len: int = 0
    keeps_masters: bool = False  # matmuls read the masters, converted when gathered; there are no 16-bit copies


WHOLE = Partition(Collectives())
