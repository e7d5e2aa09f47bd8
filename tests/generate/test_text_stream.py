from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyllama.generate.text_stream import StopText, TextStream
from tinyllama.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(prepared_run: Path) -> Tokenizer:
    return Tokenizer.load(prepared_run / "tokenizer")


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=8),
    ids=st.lists(st.integers(0, 515), max_size=25),
)
def test_streamed_pieces_are_the_whole_text(tokenizer: Tokenizer, prompt: str, ids: list[int]):
    prompt_ids = [1, *tokenizer.encode(prompt)]
    stream = TextStream(tokenizer, prompt_ids)
    pieces = [stream.add(token_id) for token_id in ids]
    pieces.append(stream.finish())
    assert "".join(pieces) == stream.text
    assert tokenizer.decode(prompt_ids) + stream.text == tokenizer.decode([*prompt_ids, *ids])


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁\ufffd"), min_size=1, max_size=12))
def test_no_character_is_ever_cut(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer, [1])
    pieces = [stream.add(token_id) for token_id in ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert stream.finish() == ""


def through(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    stop = StopText(stops)
    out = [stop.add(piece) for piece in pieces]
    return [*out, stop.finish()], stop.found


@pytest.mark.parametrize(
    ("stops", "pieces", "wanted"),
    [
        ([], ["a", "b"], ["a", "b", ""]),
        (["END"], ["one", "E", "N", "D", "two"], ["one", "", "", "", "", ""]),
        (["END"], ["oneE", "N", "x"], ["one", "", "ENx", ""]),
        (["END"], ["one E"], ["one ", "E"]),
        (["aab"], ["aa", "ab"], ["", "a", ""]),  # the match may begin inside what was held back
        (["x", "b"], ["abxc"], ["a", ""]),
        (["bcd", "c"], ["abcd"], ["ab", ""]),  # complete first, whatever begins first
        (["bc", "abc"], ["xabc"], ["x", ""]),  # complete together: the longest
        (["abc"], ["abc"], ["", ""]),
    ],
)
def test_stop_strings_by_hand(stops: list[str], pieces: list[str], wanted: list[str]):
    assert through(stops, pieces)[0] == wanted


@settings(max_examples=300)
@given(
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("abc", max_size=4), max_size=12),
)
def test_stop_strings_do_not_depend_on_the_portions(stops: list[str], pieces: list[str]):
    text = "".join(pieces)
    out, found = through(stops, pieces)
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)]
    assert found == bool(ends)
    if not ends:
        assert "".join(out) == text
    else:
        longest = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
        assert "".join(out) == text[: ends[0] - longest]
        assert not any(stop in "".join(out) for stop in stops)
