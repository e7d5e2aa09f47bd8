import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_model import make_run
from tinyllama.evaluation import last_word
from tinyllama.evaluation.last_word import (
    Passage,
    _Item,
    _tokens,
    choose_passages,
    last_word_accuracy,
    passages_of,
)
from tinyllama.exchange.open_model import OpenedModel, open_model

WORDS = [f"w{number}" for number in range(200)]


@pytest.fixture(scope="module")
def opened(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return open_model(make_run(prepared_run, tmp_path_factory.mktemp("runs") / "run"), "cpu")


def sentence(n_words: int, last: str, known: bool = True) -> str:
    words = WORDS[:n_words]
    words[0] = "tiger" if known else words[0]
    return " ".join([*words, last])


def found(text: str) -> list[tuple[int, str]]:
    """Words of each passage's context, and its word."""
    return [(len(passage.context.split()), passage.word) for passage in passages_of(text)]


@pytest.mark.parametrize("end", [".", "!", "?", ".\n", ". Next"])
def test_a_passage_ends_before_the_last_word_of_a_sentence(end: str):
    assert found(sentence(20, "tiger" + end)) == [(20, "tiger")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (sentence(19, "tiger."), "too little context"),
        (sentence(20, "tiger"), "no end of a sentence"),
        (sentence(20, "tiger.5"), "a number goes on"),
        (sentence(20, "(tiger."), "not a bare word"),
        (sentence(20, "ox."), "two letters"),
        (sentence(20, "tiger2."), "a digit in it"),
        (sentence(20, "lion."), "not in the context"),
        (sentence(20, "tige."), "only part of a word of the context"),
        (sentence(20, "tiger.").replace(" tiger.", "\ntiger."), "on a line of its own"),
        (sentence(20, "tiger.").replace(" tiger.", "  tiger."), "two blanks before it"),
    ],
)
def test_what_is_no_passage(text: str, why: str):
    assert found(text) == [], why


def test_case_of_the_earlier_word_does_not_matter():
    assert found(sentence(20, "Tiger.")) == [(20, "Tiger")]


def test_context_is_cut_to_a_hundred_words():
    assert found(" ".join([*WORDS[:150], "tiger", *WORDS[:30], "tiger."])) == [(100, "tiger")]


def test_hostile_text_is_read_quickly():
    assert list(passages_of("a" * 5_000_000)) == []
    assert list(passages_of("a " * 2_000_000)) == []


@given(st.text(st.sampled_from("ab.! \n\té2"), max_size=400))
def test_context_and_word_stand_so_in_the_text(text: str):
    text = "bab " * 25 + text
    for passage in passages_of(text):
        assert f"{passage.context} {passage.word}" in text


def write_documents(folder: Path, texts: list[str], n_files: int) -> Path:
    folder.mkdir()
    for number in range(n_files):
        pq.write_table(pa.table({"text": texts[number::n_files]}), folder / f"{number}.parquet")
    return folder


def test_choice_depends_on_the_texts_alone(reference_texts: list[str], tmp_path: Path):
    shuffled = list(reference_texts)
    random.Random(1).shuffle(shuffled)
    first = choose_passages(write_documents(tmp_path / "a", reference_texts, 1), 40)
    second = choose_passages(write_documents(tmp_path / "b", [*shuffled, shuffled[0]], 3), 40)
    assert first == second
    assert len(set(first)) == 40
    assert choose_passages(tmp_path / "a", 15) == first[:15]


def test_fewer_than_wanted(tmp_path: Path):
    write_documents(tmp_path / "a", [sentence(20, "tiger."), "short."], 1)
    assert [passage.word for passage in choose_passages(tmp_path / "a", 500)] == ["tiger"]


def passages(reference_texts: list[str], count: int) -> list[Passage]:
    return [passage for text in reference_texts for passage in passages_of(text)][:count]


def greedy_is_right(opened: OpenedModel, passage: Passage) -> bool:
    """By generation, one token after the other, without batches."""
    context = opened.tokenizer.encode(passage.context)
    wanted = opened.tokenizer.encode(f"{passage.context} {passage.word}")[len(context) :]
    ids = opened.with_bos(context)
    for token_id in wanted:
        with torch.no_grad():
            if int(opened.model(torch.tensor([ids]))[0, -1].argmax()) != token_id:
                return False
        ids.append(token_id)
    return True


class EchoModel(torch.nn.Module):
    """Answers with the successor of the last earlier occurrence of the token at hand: right now and then."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*tokens.shape, self.vocab_size)
        for row, ids in enumerate(tokens.tolist()):
            after: dict[int, int] = {}
            for place, token_id in enumerate(ids):
                if place:
                    after[ids[place - 1]] = token_id
                out[row, place, after.get(token_id, 0)] = 1.0
        return out

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.hidden(tokens)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_accuracy_is_that_of_greedy_generation(opened: OpenedModel, reference_texts: list[str], batch_size: int):
    long_enough = replace(opened.config, seq_len=4096)
    echo = EchoModel(512)
    echo.embedding = torch.nn.Embedding(1, 1)  # says the device
    model = replace(opened, model=echo, config=long_enough)  # pyright: ignore[reportArgumentType]
    chosen = passages(reference_texts, 60)
    figures = last_word_accuracy(model, chosen, batch_size)
    right = sum(greedy_is_right(model, passage) for passage in chosen)
    assert 0 < right < 60
    p = right / 60
    assert (figures["accuracy"], figures["n"]) == (p, 60)
    assert figures["accuracy_stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 60))
    assert [example["answer"] for example in figures["examples"]] == [passage.word for passage in chosen[:8]]


def test_examples_show_what_the_network_said(opened: OpenedModel, reference_texts: list[str]):
    example = last_word_accuracy(opened, passages(reference_texts, 1), 1)["examples"][0]
    assert set(example) == {"context", "answer", "guess"}
    assert example["guess"] != example["answer"]  # the network is random


def test_a_context_that_is_too_long_is_cut_at_its_beginning(opened: OpenedModel, reference_texts: list[str]):
    figures = last_word_accuracy(opened, passages(reference_texts, 20), 4)  # a context of 48 tokens
    assert figures["n"] == 20


def test_no_passages(opened: OpenedModel):
    assert last_word_accuracy(opened, [], 4) == {"accuracy": None, "accuracy_stderr": None, "n": 0, "examples": []}


def test_the_bounds_of_passages_by_hand():
    assert found(sentence(20, "tiger.")) == [(20, "tiger")]
    assert found(sentence(19, "tiger.")) == []
    hundred = " ".join(["tiger", *WORDS[:99], "tiger."])
    assert found(hundred) == [(100, "tiger")]
    assert found(" ".join(["tiger", *WORDS[:100], "tiger."])) == []  # the word itself is the 101st before
    two = " ".join([*WORDS[:20], "tiger tiger. Then", *WORDS[:20], "then."])
    assert found(two) == [(21, "tiger"), (43, "then")]
    text = ("x" * 99_872 + " ") + sentence(20, "tiger.")  # the text ends within the document's beginning that is read
    cut = text[:100_000]
    assert found(text) == found(cut)
    assert found("x " * 49_960 + sentence(20, "tiger."))[0] == (100, "tiger")
    assert found("x " * 50_000 + sentence(20, "tiger.")) == []


def test_a_passage_is_drawn_by_the_hash_of_context_and_word():
    import hashlib

    [passage] = passages_of(sentence(20, "tiger."))
    context = sentence(20, "").rstrip()
    assert (passage.context, passage.word) == (context, "tiger")
    assert passage.digest == hashlib.sha256(f"{context}\0tiger".encode()).hexdigest()


def test_the_choice_is_the_first_of_all_in_drawn_order(reference_texts: list[str], tmp_path: Path):
    texts = reference_texts[:12]
    every = sorted({passage for text in texts for passage in passages_of(text)})
    folder = write_documents(tmp_path / "a", [*texts, *texts], 2)
    assert len(every) > 15
    for count in (1, 7, 15):
        assert choose_passages(folder, count) == every[:count]


def test_tokens_of_a_passage_fill_the_context(opened: OpenedModel):
    encode = opened.tokenizer.encode
    text, word = "The value of a name", "elephants"
    context, whole = encode(text), encode(f"{text} {word}")
    n_answer = len(whole) - len(context)
    assert whole[: len(context)] == context
    assert n_answer > 1
    passage = Passage("0", text, word)

    def item(seq_len: int, add_bos: bool = True) -> Any:
        return _tokens(replace(opened, add_bos=add_bos, config=replace(opened.config, seq_len=seq_len)), passage)

    most = len(whole)  # with BOS one token more, and the last is never an input
    assert item(most).ids == [1, *whole]
    assert item(most - 1).ids == [1, *whole[1:]]
    assert item(most - 1, add_bos=False).ids == whole
    assert item(most - 2, add_bos=False).ids == whole[1:]
    found = item(n_answer + 1)
    assert (found.ids, found.n_answer, found.answer) == ([1, *whole[-n_answer - 1 :]], n_answer, whole[-n_answer:])
    assert item(n_answer) is None
    assert item(n_answer, add_bos=False).ids == whole[-n_answer - 1 :]


@pytest.mark.parametrize(
    ("whole", "is_used"), [([1, 2, 3], True), ([1, 9, 3], False), ([1, 2], False), ([1], False), ([1, 9], False)]
)
def test_a_word_that_changes_the_tokens_before_it_is_left_out(opened: OpenedModel, whole: list[int], is_used: bool):
    tokenizer: Any = SimpleNamespace(encode=lambda text: whole if text == "a b" else [1, 2], bos_id=1)
    found = _tokens(replace(opened, tokenizer=tokenizer), Passage("0", "a", "b"))
    assert (found is not None) is is_used


def test_an_answer_is_right_when_every_token_is(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch):
    """Told guesses: of four passages one is right, one is wrong in its last token, one in its first, one is right."""
    items = [_Item(Passage(str(n), f"c{n}", f"w{n}"), [1, 9, 300 + n, 400 + n], 2) for n in range(4)]
    told = {0: [300, 400], 1: [301, 5], 2: [5, 402], 3: [303, 403]}
    monkeypatch.setattr(
        last_word, "_tokens", lambda opened, passage: items[int(passage.digest)] if passage.digest != "9" else None
    )
    batches: list[int] = []

    def guesses(opened: OpenedModel, chosen: list[Any]) -> list[list[int]]:
        batches.append(len(chosen))
        return [told[int(one.passage.digest)] for one in chosen]

    monkeypatch.setattr(last_word, "_guesses", guesses)
    given = [Passage("9", "left out", ""), *(item.passage for item in items)]
    found = last_word_accuracy(opened, given, 3)
    assert (found["accuracy"], found["n"]) == (0.5, 4)
    assert found["accuracy_stderr"] == 0.25
    assert batches == [3, 1]
    decode = opened.tokenizer.decode
    assert [row["guess"] for row in found["examples"]] == [decode(told[n]).strip() for n in range(4)]
    assert [row["context"] for row in found["examples"]] == ["c0", "c1", "c2", "c3"]
    many = [Passage(str(n % 4), "c", "w") for n in range(12)]
    assert len(last_word_accuracy(opened, many, 5)["examples"]) == 8


def test_twice_as_many_passages_as_wanted_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held: list[int] = []
    smallest = last_word.heapq.nsmallest
    monkeypatch.setattr(last_word.heapq, "nsmallest", lambda n, found: (held.append(n), smallest(n, found))[1])
    choose_passages(write_documents(tmp_path / "a", [sentence(20, "tiger.")], 1), 7)
    assert held == [14]
