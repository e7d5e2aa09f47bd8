"""Every random choice is seeded from the recipe's seed and a purpose, so that no two purposes share random numbers."""

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: the first 8 bytes of sha256 over the seed and the purpose."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
