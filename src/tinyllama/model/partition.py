"""The layers and slices of the network that one process holds, and the collectives that its layers then need.

Between the products of a cut network a process has only its share of the tokens' rows: B x T rows of D values, in the
order of samples and positions, are shared out evenly among the processes that hold slices of the same layers. Letters as
in llama.py; R rows of one process.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from tinyllama.model.dropout import dropout


class Collectives:
    """How the slices of one layer work together. This is the uncut layer, where there is nothing to do."""

    is_sliced = False
    size = 1  # processes that hold slices of the same layers
    first_head = 0  # of this process's query heads

    def embed(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Rows of the embedding for token ids (B, T): (B, T, E); cut (R, E)."""
        return F.embedding(tokens, weight)

    def gather(self, rows: Tensor) -> Tensor:
        """What a product of rows cut among processes reads: all rows, (B T, D) from (R, D)."""
        return rows

    def scatter(self, partial: Tensor) -> Tensor:
        """Sum of the processes' partial products (B T, D), of which each gets its rows (R, D)."""
        return partial

    def dropout(self, rows: Tensor, probability: float, keys: Tensor | None, site: int, seq_len: int) -> Tensor:
        """`dropout.dropout` of rows; each value is dropped as it would be in one piece."""
        return dropout(rows, probability, keys, site)


@dataclass(frozen=True, eq=False)
class Partition:
    """Layers from `first_layer` on, as many as the network given has; the first part embeds, the last one has the head.

    `seq_len`: T of the micro-batches, which rows do not show.
    """

    collectives: Collectives
    first_layer: int = 0
    is_first: bool = True
    is_last: bool = True
    seq_len: int = 0
    keeps_masters: bool = False  # products read the masters and convert them when gathered: no 16-bit copies are kept


WHOLE = Partition(Collectives())
