"""The order in which training reads windows: a keyed permutation that is computed, not stored.

Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): a shuffle of any
size in constant memory, so sample g of a run can be computed without the samples before it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar

import numpy as np

from tinyllama.seeds import derive_seed

Index = TypeVar("Index", int, np.ndarray)

ROUNDS = 6
MASK_64 = 2**64 - 1
TARGET_BLOCKS = 2**16
MAX_BLOCK_WINDOWS = 64  # 256 kB of uint16 ids at seq_len 2048: one worthwhile read from an object store


def feistel_permute(index: Index, size: int, key: int) -> Index:
    """Position of `index` in the permutation of range(size) given by `key`; an int, or an int64 array elementwise.

    Raises IndexError when an index is not in range(size).
    """
    half_bits, keys = _half_bits(size), _round_keys(key)
    return _walk(index, size, lambda x: _network(x, half_bits, keys))


def feistel_inverse(place: Index, size: int, key: int) -> Index:
    """The index whose position is `place`: feistel_inverse(feistel_permute(i, n, k), n, k) == i."""
    half_bits, keys = _half_bits(size), _round_keys(key)[::-1]
    # A Feistel network with its halves exchanged before and after, and its keys reversed, undoes itself.
    return _walk(place, size, lambda x: _swap(_network(_swap(x, half_bits), half_bits, keys), half_bits))


class WindowOrder:
    """Which window sample `global_index` of a run reads: a pure function of (seed, epoch, index).

    An epoch reads every window once, except for the quarantined ones. Blocks of neighbouring windows are permuted, then
    the windows in each block, so reads come in runs of `block_windows`. The default gives about 65,536 blocks, of 1 (small
    data: a full shuffle) to 64 windows. Memory: the quarantine list only.
    """

    def __init__(
        self, n_windows: int, seed: int, block_windows: int | None = None, quarantine: Iterable[int] = ()
    ) -> None:
        """Raises ValueError when no window is left, or a quarantined window does not exist."""
        self.n_windows = n_windows
        self.quarantine = tuple(sorted(set(quarantine)))
        self.windows_per_epoch = n_windows - len(self.quarantine)
        if self.windows_per_epoch < 1:
            raise ValueError(f"no window to read: {n_windows} windows, {len(self.quarantine)} of them quarantined")
        if self.quarantine and not 0 <= self.quarantine[0] <= self.quarantine[-1] < n_windows:
            raise ValueError(f"quarantined windows must be in range({n_windows})")
        self._seed = seed
        self._block_windows = block_windows or min(max(n_windows // TARGET_BLOCKS, 1), MAX_BLOCK_WINDOWS)
        self._n_blocks = -(-n_windows // self._block_windows)
        self._last_block_windows = n_windows - (self._n_blocks - 1) * self._block_windows
        self._epoch_facts = lru_cache(maxsize=2)(self._compute_epoch_facts)

    def window(self, global_index: int) -> int:
        """The window that sample `global_index` (from 0, over all epochs) reads."""
        if global_index < 0:
            raise IndexError(f"sample {global_index} before the first")
        return self._window_of(*self.place(global_index))

    def place(self, global_index: int) -> tuple[int, int]:
        """Epoch of a sample, and its position in the order of that epoch, quarantined windows counted."""
        epoch, index = divmod(global_index, self.windows_per_epoch)
        skipped = self._epoch_facts(epoch)[2]
        # With skipped positions p0 < p1 < ..., the j-th position that is left is j + the number of k with pk - k <= j.
        return epoch, index + bisect_right(range(len(skipped)), index, key=lambda k: skipped[k] - k)

    def sample_at(self, epoch: int, position: int) -> int:
        """The first sample that is read at `position` of an epoch or behind it: the inverse of `place`."""
        return epoch * self.windows_per_epoch + position - bisect_left(self._epoch_facts(epoch)[2], position)

    def sample_of(self, epoch: int, window: int) -> int | None:
        """The sample that reads `window` in an epoch; None when it is quarantined. Raises IndexError outside the data."""
        if not 0 <= window < self.n_windows:
            raise IndexError(f"window {window} outside range({self.n_windows})")
        position = self._position_of(epoch, window, *self._epoch_facts(epoch)[:2])
        skipped = self._epoch_facts(epoch)[2]
        at = bisect_left(skipped, position)
        return None if skipped[at : at + 1] == [position] else self.sample_at(epoch, position)

    def _window_of(self, epoch: int, position: int) -> int:
        """The window at `position` of an epoch that skips nothing."""
        blocks_key, last_place, _ = self._epoch_facts(epoch)
        last_start = last_place * self._block_windows
        if position < last_start + self._last_block_windows:
            place, inside = divmod(position, self._block_windows)
        else:  # behind the last block, which may be shorter: count it as full
            missing = self._block_windows - self._last_block_windows
            place, inside = divmod(position + missing, self._block_windows)
        block = feistel_permute(place, self._n_blocks, blocks_key)
        return block * self._block_windows + feistel_permute(inside, self._size(block), self._inside_key(epoch, block))

    def _position_of(self, epoch: int, window: int, blocks_key: int, last_place: int) -> int:
        """Where an epoch that skips nothing reads `window`: the inverse of `_window_of`."""
        block, inside = divmod(window, self._block_windows)
        place = feistel_inverse(block, self._n_blocks, blocks_key)
        missing = self._block_windows - self._last_block_windows if place > last_place else 0
        inside_place = feistel_inverse(inside, self._size(block), self._inside_key(epoch, block))
        return place * self._block_windows - missing + inside_place

    def _compute_epoch_facts(self, epoch: int) -> tuple[int, int, list[int]]:
        """The blocks' key, the position of the last (shorter) block, and the positions that are skipped, in order."""
        key = derive_seed(self._seed, "window order", epoch, "blocks")
        last_place = feistel_inverse(self._n_blocks - 1, self._n_blocks, key)
        return key, last_place, sorted(self._position_of(epoch, w, key, last_place) for w in self.quarantine)

    def _size(self, block: int) -> int:
        return self._last_block_windows if block == self._n_blocks - 1 else self._block_windows

    def _inside_key(self, epoch: int, block: int) -> int:
        return derive_seed(self._seed, "window order", epoch, "inside", block)


def _walk(index: Index, size: int, network) -> Index:
    """Apply `network` until the result is in range(size): a permutation of range(size), as its orbits are cycles."""
    if isinstance(index, np.ndarray):
        if index.size and (index.min() < 0 or index.max() >= size):
            raise IndexError(f"index outside range({size})")
        x = network(index.astype(np.uint64))
        while (outside := x >= size).any():
            x[outside] = network(x[outside])
        return x.astype(np.int64)
    if not 0 <= index < size:
        raise IndexError(f"index {index} outside range({size})")
    x = network(index)
    while x >= size:
        x = network(x)
    return x


def _network(x, half_bits: int, keys: tuple[int, ...]):
    """Balanced Feistel network over 2 * half_bits bits; int or uint64 array."""
    mask = 2**half_bits - 1
    left, right = x >> half_bits, x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half_bits) | right


def _swap(x, half_bits: int):
    return ((x & (2**half_bits - 1)) << half_bits) | (x >> half_bits)


def _mix(x):
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def _round_keys(key: int) -> tuple[int, ...]:
    return tuple(_mix((key + round_number * 0x9E3779B97F4A7C15) & MASK_64) for round_number in range(1, ROUNDS + 1))


def _half_bits(size: int) -> int:
    return max(1, -(-(size - 1).bit_length() // 2))
