"""Parameters that each rank of a layout holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.pipeline_split import stage_layers

ONE_DEVICE = ParallelConfig()


@dataclass(frozen=True)
class Stage:
    """One pipeline stage of the model; without a pipeline, the whole model.

    `tensor` slices the layers' matrices, the embedding and the head; each rank has all norms and projections.
    """

    model: LlamaConfig
    n_layers: int
    is_first: bool
    is_last: bool
    tensor: int
    number: int  # from 0

    @cached_property
    def layer_matrices(self) -> int:
        """Parameters of one layer's matrices on one rank."""
        counts = self.model.parameter_counts()
        return (counts["attention"] + counts["feed_forward"]) // self.model.n_layers // self.tensor

    @cached_property
    def table(self) -> int:
        """Parameters of the embedding on one rank; the head has as many."""
        return self.model.vocab_size * self.model.embedding_dim // self.tensor

    @cached_property
    def projections(self) -> int:
        """Parameters of the projections between the embeddings and the layers."""
        each = self.model.dim * self.model.embedding_dim if self.model.has_projections else 0
        return each * (self.is_first + self.is_last)

    @cached_property
    def tables(self) -> int:
        """Parameters of embedding and head. A tied head is the embedding, or a copy of it on another stage."""
        is_shared = self.model.tied_head and self.is_first
        return self.table * (self.is_first + (self.is_last and not is_shared))

    @cached_property
    def norms(self) -> int:
        """Parameters of all norms."""
        return (2 * self.n_layers + self.is_last) * self.model.dim

    @cached_property
    def parameters(self) -> int:
        """All parameters on one rank, before they are sharded."""
        return self.n_layers * self.layer_matrices + self.projections + self.tables + self.norms

    def held(self, shard: int) -> int:
        """Parameters on one of `shard` ranks: all but the norms are sharded."""
        return -(-(self.parameters - self.norms) // shard) + self.norms if shard > 1 else self.parameters

    @cached_property
    def matmul_parameters(self) -> int:
        """Parameters of matmuls, which have 16-bit copies: all but norms and the embedding."""
        return self.n_layers * self.layer_matrices + self.projections + (self.table if self.is_last else 0)


def stages(model: LlamaConfig, parallel: ParallelConfig, recompute: str = "none") -> Iterator[Stage]:
    """The pipeline stages in order."""
    last = parallel.pipeline - 1
    for number, layers in enumerate(stage_layers(model, parallel.pipeline, recompute)):
        yield Stage(model, len(layers), number == 0, number == last, parallel.tensor, number)
