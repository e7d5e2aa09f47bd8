import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_model import tiny_llama
from tinyllama.harness.token_rows import (
    ScoredTokens,
    as_tensors,
    batches_by_length,
    make_row,
    make_rows,
    tree_mask,
)


def scored(*ids: int, n: int = 1, number: int = 0) -> ScoredTokens:
    return ScoredTokens(number, list(ids), n)


def test_a_row_by_hand():
    row = make_row([scored(1, 2, 3, 4, n=2), scored(1, 2, 5, 6, 7, n=3), scored(1, 2, 9, n=1)])
    # inputs are 1 2 3 / 1 2 5 6 / 1 2: shared 1 2, then 3, then 5 6; the third has nothing of its own
    assert row.tokens == [1, 2, 3, 5, 6]
    assert row.positions == [0, 1, 2, 2, 3]
    assert row.branches == [0, 0, 1, 2, 2]
    assert row.outputs == [[1, 2], [1, 3, 4], [1]]
    assert row.is_tree
    assert not make_row([scored(1, 2, 3), scored(1, 2, 4)]).is_tree  # one-token choices: a plain row


def test_a_mask_by_hand():
    seen = tree_mask(torch.tensor([[0, 1, 2, 2, -1]]))[0, 0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 0, 0, 1]]


def test_rows_and_batches_have_limits():
    alone = make_rows([[scored(1, 2, 3, 4), scored(1, 5, 6, 7)]], max_tokens=4)
    assert [row.tokens for row in alone] == [[1, 2, 3], [1, 5, 6]]
    assert len(make_rows([[scored(1, 2, 3, 4), scored(1, 5, 6, 7)]], max_tokens=5)) == 1
    rows = [make_row([scored(*range(1, n))]) for n in (4, 9, 3, 5)]
    sizes = [[len(row.tokens) for row in batch] for batch in batches_by_length(rows, 8)]
    assert sizes == [[7], [3, 2], [1]]
    with pytest.raises(ValueError, match="needs a token before"):
        make_row([scored(1)])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_rows_give_the_logits_of_each_sequence_alone(data: st.DataObject):
    """The slow reference: every sequence in a pass of its own."""
    model = tiny_llama(dtype=torch.float64)
    token = st.integers(0, 3)  # few kinds, so that beginnings are shared
    groups = data.draw(st.lists(st.lists(st.lists(token, min_size=2, max_size=9), min_size=1, max_size=4), max_size=4))
    n_scored = [[data.draw(st.integers(1, len(ids) - 1)) for ids in group] for group in groups]
    sequences = [
        [ScoredTokens(n, ids, count) for n, (ids, count) in enumerate(zip(group, counts, strict=True))]
        for group, counts in zip(groups, n_scored, strict=True)
    ]
    for rows in batches_by_length(make_rows(sequences, 12), data.draw(st.integers(1, 40))):
        batch = as_tensors(rows, data.draw(st.sampled_from([1, 8])))
        mask = None if batch.branches is None else tree_mask(batch.branches)
        hidden = model.hidden(batch.tokens, batch.positions, mask)[batch.outputs[0], batch.outputs[1]]
        wanted, targets = [], []
        for row in rows:
            for one in row.sequences:
                wanted.append(model.hidden(torch.tensor([one.ids[:-1]]))[0, -one.n_scored :])
                targets += one.ids[-one.n_scored :]
        torch.testing.assert_close(hidden, torch.cat(wanted), rtol=1e-9, atol=1e-9)
        assert batch.targets.tolist() == targets
