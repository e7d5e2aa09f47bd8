"""Last-word accuracy on held-out documents: can the network predict the last word of a sentence?

After LAMBADA (Paperno et al. 2016), on the run's own text. A passage ends before the last word of a sentence. The word has
at least three letters and occurs earlier in the passage (ignoring case), so it can be known from the context. This rewards
copying: compare these accuracies only with each other. A prediction is correct if each token of the word is the most
likely one after those before it.
"""

import hashlib
import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyllama.exchange.open_model import OpenedModel
from tinyllama.files import input_files
from tinyllama.tokenizer.document_text import SUFFIXES, read_documents

MIN_CONTEXT_WORDS, MAX_CONTEXT_WORDS = 20, 100
MAX_DOCUMENT_CHARACTERS = 100_000  # of a longer document, its beginning
SHOWN_EXAMPLES = 8

# A blank, a word of letters, the end of a sentence.
_LAST_WORD = re.compile(r"(?<=\S) ([^\W\d_]{3,})[.!?](?=\s|$)")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, order=True)
class Passage:
    """A text without its last word, and the word. Ordered by `digest`, a hash of both: a fixed random order."""

    digest: str
    context: str
    word: str


def choose_passages(split: Path, count: int) -> list[Passage]:
    """The first `count` passages, in random order, of the documents of `split`; fewer if there are fewer.

    The choice depends only on the texts, not on their files or order; a passage of two documents counts once. Memory:
    2 x `count` passages and a few documents.
    """
    documents = (document.text for path in input_files([split], SUFFIXES) for document in read_documents(path))
    found = (passage for text in documents for passage in passages_of(text))
    return list(dict.fromkeys(heapq.nsmallest(2 * count, found)))[:count]


def passages_of(text: str) -> Iterator[Passage]:
    """Every passage of one document."""
    text = text[:MAX_DOCUMENT_CHARACTERS]
    words = list(_WORD.finditer(text))
    n_before = 0
    for match in _LAST_WORD.finditer(text):
        while n_before < len(words) and words[n_before].end() <= match.start():
            n_before += 1
        if n_before < MIN_CONTEXT_WORDS:
            continue
        context = text[words[max(0, n_before - MAX_CONTEXT_WORDS)].start() : match.start()]
        word = match[1]
        if re.search(rf"\b{re.escape(word)}\b", context, re.IGNORECASE):
            yield Passage(hashlib.sha256(f"{context}\0{word}".encode()).hexdigest(), context, word)


def last_word_accuracy(opened: OpenedModel, passages: list[Passage], batch_size: int) -> dict[str, Any]:
    """Share of passages whose last word the network predicts greedily, with the standard error sqrt(p (1 - p) / n).

    Passages whose context and word share a token, or whose word is longer than the network's context, are skipped; a
    context that is too long loses its beginning. Returns `accuracy`, `accuracy_stderr` (None without passages), `n` and
    some `examples`: context, answer, guess.
    """
    items = [item for passage in passages if (item := _tokens(opened, passage))]
    guesses: dict[int, list[int]] = {}
    by_length = sorted(range(len(items)), key=lambda index: (len(items[index].ids), index))
    for start in range(0, len(items), batch_size):
        chosen = by_length[start : start + batch_size]
        guesses |= zip(chosen, _guesses(opened, [items[index] for index in chosen]), strict=True)
    n_correct = sum(guesses[index] == item.answer for index, item in enumerate(items))
    n = len(items)
    accuracy = n_correct / n if n else None
    return {
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / n) if accuracy is not None else None,
        "n": n,
        "examples": [
            {
                "context": item.passage.context,
                "answer": item.passage.word,
                "guess": opened.tokenizer.decode(guesses[index]).strip(),
            }
            for index, item in enumerate(items[:SHOWN_EXAMPLES])
        ],
    }


@dataclass(frozen=True)
class _Item:
    passage: Passage
    ids: list[int]  # context and answer
    n_answer: int

    @property
    def answer(self) -> list[int]:
        return self.ids[-self.n_answer :]


def _tokens(opened: OpenedModel, passage: Passage) -> _Item | None:
    encode = opened.tokenizer.encode
    context = encode(passage.context)
    whole = encode(f"{passage.context} {passage.word}")
    n_answer = len(whole) - len(context)
    if n_answer < 1 or whole[: len(context)] != context:
        return None
    n_bos = len(opened.with_bos([]))
    max_tokens = opened.config.seq_len + 1 - n_bos  # the last token is never an input
    if n_answer >= max_tokens:
        return None
    return _Item(passage, opened.with_bos(whole[-max_tokens:]), n_answer)


@torch.inference_mode()
def _guesses(opened: OpenedModel, items: list[_Item]) -> list[list[int]]:
    """The most likely token at each position of each answer, in one forward pass.

    Rows are padded at their ends, which no earlier token sees. Logits are computed at the answers' positions only.
    """
    length = max(len(item.ids) for item in items) - 1
    tokens = torch.zeros(len(items), length, dtype=torch.int64)
    positions: list[tuple[int, int]] = []
    for row, item in enumerate(items):
        tokens[row, : len(item.ids) - 1] = torch.tensor(item.ids[:-1])
        last = len(item.ids) - 1
        positions += [(row, column) for column in range(last - item.n_answer, last)]
    hidden = opened.model.hidden(tokens.to(opened.device))  # (B, T, E)
    rows, columns = torch.tensor(positions).T.to(opened.device)
    most_likely: Tensor = opened.model.logits(hidden[rows, columns]).argmax(dim=-1)
    found = most_likely.tolist()
    guesses = []
    for item in items:
        guesses.append(found[: item.n_answer])
        found = found[item.n_answer :]
    return guesses
