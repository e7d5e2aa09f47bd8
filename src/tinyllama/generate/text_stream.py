"""New tokens as text while they come: whole characters only, and nothing of a stop string."""

from collections.abc import Sequence

from tinyllama.tokenizer.bpe import Tokenizer


class TextStream:
    """Turns token ids into text as they come, in whole characters; the pieces together are the text of all new ids.

    Each piece is the difference of two decodings that start at the same earlier token, so that a blank inside a text is
    not taken for the one that encoding writes before it. A piece waits while the text ends in U+FFFD: the next token
    may bring the rest of the character.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids)  # from the last written piece on
        self._written = len(prompt_ids)  # of those, whose text is out
        self._known = tokenizer.decode(self._ids)
        self.text = ""

    def add(self, token_id: int) -> str:
        """The text that is ready after one more token; often one word, sometimes nothing."""
        self._ids.append(token_id)
        decoded = self._tokenizer.decode(self._ids)
        if len(decoded) <= len(self._known) or decoded.endswith("\ufffd"):
            return ""
        piece = decoded[len(self._known) :]
        self._ids = self._ids[self._written :]
        self._written = len(self._ids)
        self._known = self._tokenizer.decode(self._ids)
        self.text += piece
        return piece

    def finish(self) -> str:
        """What is left at the end, bytes that make no character as U+FFFD."""
        piece = self._tokenizer.decode(self._ids)[len(self._known) :]
        self._ids, self._written, self._known = [], 0, ""
        self.text += piece
        return piece


class StopText:
    """Lets text through up to the first stop string, in whatever portions it comes.

    The first is the one that is complete first (of those, the longest). What may become one is held back until the text
    goes on otherwise or ends.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """The text that is certainly not of a stop string; nothing once one was found."""
        if self.found:
            return ""
        text = self._held + piece
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        n_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        """The held back text, when the whole text ends: it was no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop`, not the whole, with which `text` ends."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
