"""How well a tokenizer fits texts: bytes per token by source kind, share of byte pieces, longest pieces."""

import hashlib
import heapq
from collections import Counter
from typing import Any, NamedTuple

from tinyllama.tokenizer.bpe import Tokenizer

SAMPLE_BYTES = 2_000_000  # of text, of each kind
MAX_KINDS = 16  # a kind is any string of the input; what comes after so many goes under OTHER_KIND
OTHER_KIND = "other"
LONGEST_PIECES = 10


class KindSample:
    """Documents of one kind with the smallest hashes, of at least SAMPLE_BYTES together, or all that there are.

    A pure function of the documents: their files and their order do not change it.
    """

    def __init__(self) -> None:
        self.documents = self.text_bytes = 0  # of all documents of the kind
        self._held: list[tuple[float, str]] = []  # a heap, the largest hash on top
        self._held_bytes = 0

    def add(self, text: str, text_bytes: int, share: float) -> None:
        """Take up a document; `share`: the hash of its text, `hash_share`."""
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
        """Take up a document; see `KindSample.add`."""
        if kind not in self.kinds and len(self.kinds) >= MAX_KINDS:
            kind = OTHER_KIND
        self.kinds.setdefault(kind, KindSample()).add(text, text_bytes, share)


class TokenCounts(NamedTuple):
    """Of some texts: UTF-8 bytes, tokens, tokens that are single bytes, and those of them that are line feeds."""

    text_bytes: int
    tokens: int
    byte_tokens: int
    line_feeds: int


def hash_share(text: str) -> float:
    """A hash of the text, evenly spread over [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def fertility(tokenizer: Tokenizer, sample: FertilitySample) -> dict[str, Any]:
    """Bytes per token, share of byte pieces with and without line feeds, in all and by kind; longest pieces.

    In all means each kind weighted by the bytes of all of its documents, sampled or not. Llama's scheme has no piece
    for a line feed, so plain text always has byte pieces; the share without them tells of characters without a piece.
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
    return {**_ratios(*total), "by_kind": by_kind, "longest_pieces": longest_pieces(tokenizer)}


def count_tokens(tokenizer: Tokenizer, texts: list[str]) -> TokenCounts:
    """What `texts` become, without BOS and EOS."""
    byte_ids = {i for i in range(tokenizer.vocab_size) if is_byte_piece(tokenizer.piece(i))}
    found: Counter[int] = Counter()
    for ids in tokenizer.encode_batch(texts):
        found.update(ids.tolist())
    line_feeds = sum(count for i, count in found.items() if tokenizer.piece(i) == "<0x0A>")
    byte_tokens = sum(count for i, count in found.items() if i in byte_ids)
    return TokenCounts(sum(len(text.encode()) for text in texts), found.total(), byte_tokens, line_feeds)


def is_byte_piece(piece: str) -> bool:
    """Whether a piece is one byte, written `<0x41>`."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def longest_pieces(tokenizer: Tokenizer) -> list[str]:
    """The pieces of most characters, longest first."""
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    pieces = (tokenizer.piece(i) for i in range(tokenizer.vocab_size) if i not in special)
    return sorted((p for p in pieces if not is_byte_piece(p)), key=lambda p: (-len(p), p))[:LONGEST_PIECES]


def _ratios(text_bytes: float, tokens: float, byte_tokens: float, line_feeds: float) -> dict[str, float]:
    return {
        "bytes_per_token": round(text_bytes / max(tokens, 1), 4),
        "byte_fallback_share": round(byte_tokens / max(tokens, 1), 6),
        "byte_fallback_share_without_newlines": round((byte_tokens - line_feeds) / max(tokens - line_feeds, 1), 6),
    }
