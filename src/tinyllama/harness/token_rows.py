"""Rows of sequences with a common prefix: a row holds the prefix once, then each sequence's own tokens.

The choices of a question follow the same text. A row is a tree of two levels: the shared tokens, then branches that see
the shared tokens and themselves, each at the positions that it would have alone. So the logits are those of each sequence
alone (except for the order of sums), and the prefix is computed once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

SHARED, PADDING = 0, -1  # branch numbers of shared tokens and of padding; branches count from 1


@dataclass(frozen=True)
class ScoredTokens:
    """Token ids of which the last `n_scored` are scored, each given all before it. `number`: of the request."""

    number: int
    ids: list[int]
    n_scored: int


@dataclass(frozen=True)
class Row:
    """One row of a batch. `outputs[i]`: the positions in the row that predict the scored tokens of sequence i."""

    sequences: list[ScoredTokens]
    tokens: list[int]
    positions: list[int]
    branches: list[int]
    outputs: list[list[int]]

    @property
    def is_tree(self) -> bool:
        """Whether it has several branches, which a causal mask would not separate."""
        return self.branches[-1] > 1


def make_row(sequences: Sequence[ScoredTokens]) -> Row:
    """One row of all sequences; the last token of each is not an input. Raises ValueError if one has no input."""
    inputs = [sequence.ids[:-1] for sequence in sequences]
    if not all(inputs):
        raise ValueError("a sequence needs a token before its first scored one")
    n_shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*inputs, strict=False)))
    tokens, positions, branches = list(inputs[0][:n_shared]), list(range(n_shared)), [SHARED] * n_shared
    outputs: list[list[int]] = []
    branch = 0
    for sequence, ids in zip(sequences, inputs, strict=True):
        own = ids[n_shared:]
        offset = len(tokens) - n_shared  # of its own tokens: position in the row less position in the sequence
        outputs.append([p if p < n_shared else p + offset for p in range(len(ids) - sequence.n_scored, len(ids))])
        branch += bool(own)
        tokens += own
        positions += range(n_shared, len(ids))
        branches += [branch] * len(own)
    return Row(list(sequences), tokens, positions, branches, outputs)


def make_rows(groups: Sequence[Sequence[ScoredTokens]], max_tokens: int) -> list[Row]:
    """One row per group; one per sequence if the group's has more than `max_tokens` and more than its longest sequence."""
    rows: list[Row] = []
    for group in groups:
        row = make_row(group)
        fits = len(row.tokens) <= max(max_tokens, len(max(group, key=lambda s: len(s.ids)).ids))
        rows += [row] if fits else [make_row([sequence]) for sequence in group]
    return rows


def batches_by_length(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Batches of at most `max_tokens` including padding, the longest rows first; a longer row is a batch of its own."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        if batch and len(batch[0].tokens) * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@dataclass(frozen=True)
class RowBatch:
    """Rows as tensors: `tokens`, `positions` and `branches` (B, T); `outputs` (2, N) row and column; `targets` (N,)."""

    tokens: Tensor
    positions: Tensor
    branches: Tensor | None  # None: the causal mask is sufficient
    outputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "RowBatch":
        """The batch on another device."""
        moved = (self.tokens, self.positions, self.branches, self.outputs, self.targets)
        return RowBatch(*(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in moved))  # type: ignore[arg-type]


def as_tensors(rows: Sequence[Row], multiple: int = 1) -> RowBatch:
    """Rows padded on the right to one length, a multiple of `multiple`. Only padding sees padding."""
    length = -(-max(len(row.tokens) for row in rows) // multiple) * multiple
    padding = [length - len(row.tokens) for row in rows]
    outputs = [(n, at) for n, row in enumerate(rows) for own in row.outputs for at in own]
    targets = [token for row in rows for s in row.sequences for token in s.ids[len(s.ids) - s.n_scored :]]
    branches = None
    if any(row.is_tree for row in rows):
        branches = torch.tensor([row.branches + [PADDING] * n for row, n in zip(rows, padding, strict=True)])
    return RowBatch(
        torch.tensor([row.tokens + [0] * n for row, n in zip(rows, padding, strict=True)]),
        torch.tensor([row.positions + [0] * n for row, n in zip(rows, padding, strict=True)]),
        branches,
        torch.tensor(outputs).T,
        torch.tensor(targets),
    )


def tree_mask(branches: Tensor) -> Tensor:
    """True where a query sees a key, (B, 1, T, T): itself and earlier tokens that are shared or of its own branch."""
    T = branches.shape[1]
    earlier = torch.ones(T, T, dtype=torch.bool, device=branches.device).tril()
    related = (branches[:, None, :] == SHARED) | (branches[:, None, :] == branches[:, :, None])  # (B, T query, T key)
    return (earlier & related)[:, None]
