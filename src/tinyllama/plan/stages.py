"""Which part of the network each rank of a layout holds, counted in parameters."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig

ONE_DEVICE = ParallelConfig()


@dataclass(frozen=True)
class Stage:
    """One pipeline stage's slice of the network: the whole of it without a pipeline.

    Matrices of the layers, the embedding and the head are sliced by `tensor`; norms and projections are on each rank.
    """

    model: LlamaConfig
    n_layers: int
    is_first: bool
    is_last: bool
    tensor: int
    number: int  # from 0

    @cached_property
    def layer_matrices(self) -> int:
        """Parameters of one layer's products on one rank."""
        counts = self.model.parameter_counts()
        return (counts["attention"] + counts["feed_forward"]) // self.model.n_layers // self.tensor

    @cached_property
    def layer(self) -> int:
        """Parameters of one layer on one rank, norms included."""
        return self.layer_matrices + 2 * self.model.dim

    @cached_property
    def table(self) -> int:
        """Parameters of the embedding on one rank; the head has as many."""
        return self.model.vocab_size * self.model.embedding_dim // self.tensor

    @cached_property
    def projections(self) -> int:
        """Parameters of the projections beside the embeddings."""
        each = self.model.dim * self.model.embedding_dim if self.model.has_projections else 0
        return each * (self.is_first + self.is_last)

    @cached_property
    def outside(self) -> int:
        """Parameters outside of the layers, on one rank. A tied head is the embedding, and a copy where they are apart."""
        is_shared = self.model.tied_head and self.is_first
        tables = self.is_first + (self.is_last and not is_shared)
        return tables * self.table + self.projections + (self.model.dim if self.is_last else 0)

    @cached_property
    def parameters(self) -> int:
        """All parameters on one rank, before they are sharded."""
        return self.n_layers * self.layer + self.outside

    @cached_property
    def products(self) -> int:
        """Parameters that are matrices of products, of which 16-bit copies are kept: not norms and the embedding."""
        return self.n_layers * self.layer_matrices + self.projections + (self.table if self.is_last else 0)


def stages(model: LlamaConfig, parallel: ParallelConfig) -> Iterator[Stage]:
    """The pipeline's stages in order."""
    P = parallel.pipeline
    for number in range(P):
        yield Stage(model, model.n_layers // P, number == 0, number == P - 1, parallel.tensor, number)
