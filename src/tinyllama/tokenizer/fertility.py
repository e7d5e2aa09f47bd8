"""Fertility of a tokenizer: bytes per token by source kind, share of byte tokens, longest tokens."""

import hashlib
import heapq
from collections import Counter
from typing import Any, NamedTuple

from tinyllama.tokenizer.bpe import Tokenizer

SAMPLE_BYTES = 2_000_000  # of text, of each kind
MAX_KINDS = 16  # a kind is any string of the input; further ones count as OTHER_KIND
OTHER_KIND = "other"
N_LONGEST = 10


class KindSample:
    """Documents of one kind with the smallest hashes: at least SAMPLE_BYTES together, or all documents.

    A pure function of the documents: files and order do not matter.
    """

    def __init__(self) -> None:
        self.documents = self.text_bytes = 0  # of all documents of the kind
        self._held: list[tuple[float, str]] = []  # a heap, the largest hash on top
        self._held_bytes = 0

    def add(self, text: str, text_bytes: int, share: float) -> None:
        """Add a document; `share`: the hash of its text, from `hash_share`."""
        self.documents += 1
        self.text_bytes += text_bytes
        if self._held_bytes >= SAMPLE_BYTES and share >= -self._held[0][0]:
            return
        heapq.heappush(self._held, (-share, text))
        self._held_bytes += text_bytes
        while self._held_bytes - (largest := len(self._held[0][1].encode())) >= SAMPLE_BYTES:
            heapq.heappop(self._held)
            self._held_bytes -= largest

    def texts(self) -> list[str]:
        """The sampled texts, smallest hash first."""
        return [text for _, text in sorted(self._held, reverse=True)]


class FertilitySample:
    """A bounded sample of the documents of each kind."""

    def __init__(self) -> None:
        self.kinds: dict[str, KindSample] = {}

    def add(self, kind: str, text: str, text_bytes: int, share: float) -> None:
        """Add a document; see `KindSample.add`."""
        if kind not in self.kinds and len(self.kinds) >= MAX_KINDS:
            kind = OTHER_KIND
        self.kinds.setdefault(kind, KindSample()).add(text, text_bytes, share)


class TokenCounts(NamedTuple):
    """Counts over some texts: UTF-8 bytes, tokens, byte tokens, and byte tokens that are line feeds."""

    text_bytes: int
    tokens: int
    byte_tokens: int
    line_feeds: int


def hash_share(text: str) -> float:
    """A hash of the text, evenly spread over [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def fertility(tokenizer: Tokenizer, sample: FertilitySample) -> dict[str, Any]:
    """Bytes per token, share of byte tokens with and without line feeds, overall and by kind; longest tokens.

    Overall values weight each kind by the bytes of all its documents, sampled or not. Llama's scheme has no token for a
    line feed, so any text has byte tokens; the share without them is that of characters without a token.
    """
    counts = {kind: count_tokens(tokenizer, found.texts()) for kind, found in sorted(sample.kinds.items())}
    weights = {kind: sample.kinds[kind].text_bytes / max(count.text_bytes, 1) for kind, count in counts.items()}
    total = [sum(weights[kind] * count[i] for kind, count in counts.items()) for i in range(4)]
    by_kind = {
        kind: {
            "documents": sample.kinds[kind].documents,
            "text_bytes": sample.kinds[kind].text_bytes,
            "sample_bytes": count.text_bytes,
            **_ratios(*count),
        }
        for kind, count in counts.items()
    }
    return {**_ratios(*total), "by_kind": by_kind, "longest_pieces": longest_tokens(tokenizer)}


def count_tokens(tokenizer: Tokenizer, texts: list[str]) -> TokenCounts:
    """Encode `texts`, without BOS and EOS, and count."""
    byte_ids = {i for i in range(tokenizer.vocab_size) if is_byte_token(tokenizer.token(i))}
    found: Counter[int] = Counter()
    for ids in tokenizer.encode_batch(texts):
        found.update(ids.tolist())
    line_feeds = sum(count for i, count in found.items() if tokenizer.token(i) == "<0x0A>")
    byte_tokens = sum(count for i, count in found.items() if i in byte_ids)
    return TokenCounts(sum(len(text.encode()) for text in texts), found.total(), byte_tokens, line_feeds)


def is_byte_token(token: str) -> bool:
    """Whether a token is one byte, written `<0x41>`."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def longest_tokens(tokenizer: Tokenizer) -> list[str]:
    """The tokens with the most characters, longest first."""
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    tokens = (tokenizer.token(i) for i in range(tokenizer.vocab_size) if i not in special)
    return sorted((t for t in tokens if not is_byte_token(t)), key=lambda t: (-len(t), t))[:N_LONGEST]


def _ratios(text_bytes: float, tokens: float, byte_tokens: float, line_feeds: float) -> dict[str, float]:
    return {
        "bytes_per_token": round(text_bytes / max(tokens, 1), 4),
        "byte_fallback_share": round(byte_tokens / max(tokens, 1), 6),
        "byte_fallback_share_without_newlines": round((byte_tokens - line_feeds) / max(tokens - line_feeds, 1), 6),
    }
