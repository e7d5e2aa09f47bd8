"""Sequences that begin alike, computed once: a row holds what they share, then each one's own tokens.

The choices of a question follow the same text. A row is a tree of two levels: the shared tokens, then branches that see
the shared ones and themselves, each at the positions that it would have alone. So the logits are those of each sequence
alone (but for the order of sums), and the shared part costs once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

SHARED, PADDING = 0, -1  # numbers of the shared part and of filler; branches count from 1


@dataclass(frozen=True)
class ScoredTokens:
    """Token ids whose last `n_scored` are to be judged, each given all before it. `number`: whose they are."""

    number: int
    ids: list[int]
    n_scored: int


@dataclass(frozen=True)
class Row:
    """One row of a batch. `places[i]`: where the network's output predicts each scored token of sequence i."""

    sequences: list[ScoredTokens]
    tokens: list[int]
    positions: list[int]
    branches: list[int]
    places: list[list[int]]

    @property
    def is_tree(self) -> bool:
        """Whether a plain causal mask would let a branch see another."""
        return self.branches[-1] > 1


def make_row(sequences: Sequence[ScoredTokens]) -> Row:
    """One row of all of them; the last token of each is never an input. Raises ValueError when one has no input."""
    inputs = [sequence.ids[:-1] for sequence in sequences]
    if not all(inputs):
        raise ValueError("a sequence needs a token before its first scored one")
    n_shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*inputs, strict=False)))
    tokens, positions, branches = list(inputs[0][:n_shared]), list(range(n_shared)), [SHARED] * n_shared
    places: list[list[int]] = []
    branch = 0
    for sequence, ids in zip(sequences, inputs, strict=True):
        own = ids[n_shared:]
        moved = len(tokens) - n_shared  # how much further on its own tokens are in the row
        places.append([p if p < n_shared else p + moved for p in range(len(ids) - sequence.n_scored, len(ids))])
        branch += bool(own)
        tokens += own
        positions += range(n_shared, len(ids))
        branches += [branch] * len(own)
    return Row(list(sequences), tokens, positions, branches, places)


def make_rows(groups: Sequence[Sequence[ScoredTokens]], max_tokens: int) -> list[Row]:
    """A row a group, or several where one would have more than `max_tokens` tokens and more than its longest sequence."""
    rows: list[Row] = []
    for group in groups:
        row = make_row(group)
        fits = len(row.tokens) <= max(max_tokens, len(max(group, key=lambda s: len(s.ids)).ids))
        rows += [row] if fits else [make_row([sequence]) for sequence in group]
    return rows


def batches_by_length(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows in batches of at most `max_tokens`, filler included, the longest first; a longer row is a batch alone."""
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
    """Rows as tensors: `tokens`, `positions` and `branches` (B, T); `places` (2, N) row and column; `targets` (N,)."""

    tokens: Tensor
    positions: Tensor
    branches: Tensor | None  # None: a plain causal mask will do
    places: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "RowBatch":
        """The same on another device."""
        moved = (self.tokens, self.positions, self.branches, self.places, self.targets)
        return RowBatch(*(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in moved))  # type: ignore[arg-type]


def as_tensors(rows: Sequence[Row], multiple: int = 1) -> RowBatch:
    """Rows filled up at their ends to one length, a multiple of `multiple`. No token sees a filler but fillers."""
    length = -(-max(len(row.tokens) for row in rows) // multiple) * multiple
    fill = [length - len(row.tokens) for row in rows]
    places = [(n, place) for n, row in enumerate(rows) for own in row.places for place in own]
    targets = [token for row in rows for s in row.sequences for token in s.ids[len(s.ids) - s.n_scored :]]
    branches = None
    if any(row.is_tree for row in rows):
        branches = torch.tensor([row.branches + [PADDING] * n for row, n in zip(rows, fill, strict=True)])
    return RowBatch(
        torch.tensor([row.tokens + [0] * n for row, n in zip(rows, fill, strict=True)]),
        torch.tensor([row.positions + [0] * n for row, n in zip(rows, fill, strict=True)]),
        branches,
        torch.tensor(places).T,
        torch.tensor(targets),
    )


def tree_mask(branches: Tensor) -> Tensor:
    """True where a token sees another, (B, 1, T, T): itself and those before it that are shared or of its own branch."""
    T = branches.shape[1]
    earlier = torch.ones(T, T, dtype=torch.bool, device=branches.device).tril()
    kin = (branches[:, None, :] == SHARED) | (branches[:, None, :] == branches[:, :, None])  # (B, T query, T key)
    return (earlier & kin)[:, None]
