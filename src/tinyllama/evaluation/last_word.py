"""Last-word accuracy on held-out documents: does the network know how a sentence ends?

After LAMBADA (Paperno et al. 2016), on our own text. A passage ends before the last word of a sentence; the word has
three letters or more and occurs earlier in the passage in any case, so it can be known from the context (and copying is
rewarded: compare these figures only with each other). The answer counts when each token of the word is the likeliest
after those before it.
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

# One blank, a word of letters, the end of a sentence.
_LAST_WORD = re.compile(r"(?<=\S) ([^\W\d_]{3,})[.!?](?=\s|$)")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, order=True)
class Passage:
    """A text without its last word, and the word. Ordered by `draw`, a hash of both: a fixed random order."""

    draw: str
    context: str
    word: str


def choose_passages(split: Path, count: int) -> list[Passage]:
    """The `count` first passages, in drawn order, of all that the documents of `split` have; fewer if they have fewer.

    The choice depends on the texts alone, not on their files or order; what two documents have in common counts once.
    Memory: 2 x `count` passages and a few documents.
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
    """Share of passages whose word the network gives, greedily, with the standard error sqrt(p (1 - p) / n).

    Passages whose context and word do not tokenize apart, or whose word alone is longer than the network's context, are
    left out; a context that is too long is cut at its beginning. Returns `accuracy`, `accuracy_stderr` (None without
    passages), `n` and some `examples`: context, answer, guess.
    """
    items = [item for passage in passages if (item := _tokens(opened, passage))]
    guesses: dict[int, list[int]] = {}
    by_length = sorted(range(len(items)), key=lambda index: (len(items[index].ids), index))
    for start in range(0, len(items), batch_size):
        chosen = by_length[start : start + batch_size]
        guesses |= zip(chosen, _guesses(opened, [items[index] for index in chosen]), strict=True)
    right = sum(guesses[index] == item.answer for index, item in enumerate(items))
    n = len(items)
    share = right / n if n else None
    return {
        "accuracy": share,
        "accuracy_stderr": math.sqrt(share * (1 - share) / n) if share is not None else None,
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
    room = opened.config.seq_len + 1 - n_bos  # the last token is never an input
    if n_answer >= room:
        return None
    return _Item(passage, opened.with_bos(whole[-room:]), n_answer)


@torch.inference_mode()
def _guesses(opened: OpenedModel, items: list[_Item]) -> list[list[int]]:
    """The likeliest token at each place of each answer, all answers in one forward pass.

    Rows are filled up at their ends, which no earlier token sees. Logits are made for the answers' places alone.
    """
    length = max(len(item.ids) for item in items) - 1
    tokens = torch.zeros(len(items), length, dtype=torch.int64)
    places: list[tuple[int, int]] = []
    for row, item in enumerate(items):
        tokens[row, : len(item.ids) - 1] = torch.tensor(item.ids[:-1])
        last = len(item.ids) - 1
        places += [(row, place) for place in range(last - item.n_answer, last)]
    hidden = opened.model.hidden(tokens.to(opened.device))  # (B, T, E)
    rows, columns = torch.tensor(places).T.to(opened.device)
    likeliest: Tensor = opened.model.logits(hidden[rows, columns]).argmax(dim=-1)
    found = likeliest.tolist()
    guesses = []
    for item in items:
        guesses.append(found[: item.n_answer])
        found = found[item.n_answer :]
    return guesses
