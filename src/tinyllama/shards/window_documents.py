"""Maps documents to training windows and windows to documents, from the document rows of each shard file."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import numpy as np

from tinyllama.shards.shard_format import DocumentPlace, read_index, read_shard_documents


def documents_of_windows(split: Path, windows: Iterable[int], seq_len: int) -> list[str]:
    """Ids of the documents with tokens in one of these windows of seq_len + 1 tokens, in the order of the shards.

    Reads only the document rows of the files that the windows are in. Raises InputError if they cannot be read.
    """
    shards = read_index(split).shards
    starts = [0, *accumulate(shard.tokens for shard in shards)]
    ranges_of: dict[int, list[tuple[int, int]]] = {}  # by file: [start, stop) within it
    for window in sorted(set(windows)):
        start, stop = window * (seq_len + 1), min((window + 1) * (seq_len + 1), starts[-1])
        number = bisect_right(starts, start) - 1
        while start < stop:
            end = min(stop, starts[number + 1])
            ranges_of.setdefault(number, []).append((start - starts[number], end - starts[number]))
            start, number = end, number + 1
    found: dict[str, None] = {}
    for number, ranges in ranges_of.items():
        table = read_shard_documents(split, shards[number])
        offsets, ids = table["offset"].to_numpy(), table["id"]
        for start, stop in ranges:
            first, end = np.searchsorted(offsets, start, "right") - 1, np.searchsorted(offsets, stop, "left")
            found |= dict.fromkeys(ids.slice(first, end - first).to_pylist())
    return list(found)


def windows_of_places(split: Path, places: Iterable[DocumentPlace], seq_len: int) -> list[int]:
    """Numbers of the windows of seq_len + 1 tokens with a token of these places, in order.

    Tokens after the last full window are in no window.
    """
    shards = read_index(split).shards
    *firsts, n_tokens = accumulate((shard.tokens for shard in shards), initial=0)
    starts = {f"{shard.name}.bin": first for shard, first in zip(shards, firsts, strict=True)}
    n_windows = n_tokens // (seq_len + 1)
    found: set[int] = set()
    for place in places:
        start = starts[place.file.name] + place.offset
        last = (start + place.tokens - 1) // (seq_len + 1)
        found |= set(range(start // (seq_len + 1), min(last + 1, n_windows)))
    return sorted(found)
