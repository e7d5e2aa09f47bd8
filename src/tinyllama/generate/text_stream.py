"""New tokens as text while they are generated: in whole characters, without stop strings."""

from collections.abc import Sequence

from tinyllama.tokenizer.bpe import Tokenizer


class TextStream:
    """Turns token ids into chunks of text, in whole characters; joined, the chunks are the text of all new ids.

    A chunk is the difference of two decodings that start at the same earlier token, because decoding drops the blank at
    the beginning of a text. A chunk is held back while the text ends in U+FFFD: the next token may complete the character.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids)  # those of the last chunk, then those whose text is not out yet
        self._n_written = len(prompt_ids)  # ids whose text is out
        self._known = tokenizer.decode(self._ids)
        self.text = ""

    def add(self, token_id: int) -> str:
        """The text that is ready after one more token; it may be empty."""
        self._ids.append(token_id)
        decoded = self._tokenizer.decode(self._ids)
        if len(decoded) <= len(self._known) or decoded.endswith("\ufffd"):
            return ""
        chunk = decoded[len(self._known) :]
        self._ids = self._ids[self._n_written :]
        self._n_written = len(self._ids)
        self._known = self._tokenizer.decode(self._ids)
        self.text += chunk
        return chunk

    def finish(self) -> str:
        """The rest of the text; bytes that are no character become U+FFFD."""
        chunk = self._tokenizer.decode(self._ids)[len(self._known) :]
        self._ids, self._n_written, self._known = [], 0, ""
        self.text += chunk
        return chunk


class StopText:
    """Passes on text up to the first stop string, however the text is split into chunks.

    The first stop string is the one that is complete first; of several, the longest. Text that may become a stop string
    is held back until more text or the end decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def add(self, chunk: str) -> str:
        """The text that cannot belong to a stop string; empty once one was found."""
        if self.found:
            return ""
        text = self._held + chunk
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        n_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        """The text that was held back when the text ends: it was no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
