"""Masking: rounds, overlaps, the order of kinds, and which lines are searched at all."""

import numpy as np
import pytest

from tinyllama.cleaning import pii
from tinyllama.cleaning.pii import KINDS, Masked, _CharacterIndex, mask_personal_information, personal_spans


def lines_of(text: str, places: str) -> list[str]:
    found = _CharacterIndex(text)
    return [text[start:end] for start, end in found.lines_at(getattr(found, places)())]


@pytest.mark.parametrize(
    ("line", "searched"),
    [
        ("123456", True), ("12345", False), ("1 2 3 4 5 6", True),
        ("1  2  3  4  5  6", True), ("1   2   3   4   5   6", False),
        ("1-2.3/4(5)6", True), ("1_2_3_4_5_6", False), ("12345x6", False), ("12345 x 123456", True), ("é123456é", True),
        ("12345\n6", False), ("1234567", True), ("12345,678901", True), ("12345,67890", False), ("1:2:3:4:5:6", False),
    ],
)  # fmt: skip
def test_six_digits_close_together_make_a_number(line: str, searched: bool) -> None:
    text = f"before\n{line}\nafter"
    assert lines_of(text, "number_positions") == ([line] if searched else [])


@pytest.mark.parametrize(
    ("line", "searched"),
    [
        ("1.2.3.4", True), ("123.123.123.1", True), ("1.2.3", False), ("a.b.c.d", False), ("1.2.3.x", False),
        ("1.2.3. 4", False), ("1.234.567.8", True), ("1.2345.678.9", False), ("1.23456.78.9", False), ("a:b:c:d", True),
        ("1::2", False), ("1::2:3", True), ("1:2:34", False), ("aaaa:bbbb:cccc:d", True), ("aaaa:bbbbb:ccccc:d", False),
        (".1.2.3", False), ("1.2.3.", False), ("1...", False), (":::", True),
    ],
)  # fmt: skip
def test_dots_between_digits_and_colons_close_together_make_an_address(line: str, searched: bool) -> None:
    for text in (f"before\n{line}\nafter", line):
        assert lines_of(text, "ip_positions") == ([line] if searched else [])


def test_lines_are_found_once_in_order() -> None:
    text = "123456 123456\n\nnone\n123456\nnone\n1234567"
    assert lines_of(text, "number_positions") == ["123456 123456", "123456", "1234567"]
    lines = _CharacterIndex("ab\ncd")
    assert [lines.lines_at(np.array([place])) for place in range(5)] == [[(0, 2)]] * 3 + [[(3, 5)]] * 2
    assert lines.lines_at(np.array([], np.int64)) == []
    assert lines.lines_at(np.array([4, 0])) == [(0, 2), (3, 5)]


def test_near_places() -> None:
    places = np.array([0, 4, 8, 9, 30])
    assert pii._close(places, 3, 9).tolist() == [0, 4]
    assert pii._close(places, 3, 8).tolist() == [4]
    assert pii._close(places, 2, 5).tolist() == [0, 4, 8]
    assert pii._close(places[:2], 3, 99).tolist() == []
    assert pii._close(places[:3], 3, 9).tolist() == [0]


def test_counts_are_of_all_rounds_and_each_placeholder_names_its_kind() -> None:
    text = "a@b.org, c@d.org and 8.8.8.8 e@f.org, (212) 736-5000 DE89370400440532013000 4111111111111111 529.982.247-25"
    found = mask_personal_information(text)
    assert found == Masked(
        "[email], [email] and [ip] [email], [phone] [iban] [card] [national id]",
        {"email": 3, "ip": 1, "phone": 1, "iban": 1, "card": 1, "national_id": 1},
    )
    secret = "x AKIAIOSFODNN7EXAMPLE ftp://me:pw@a.org"
    assert mask_personal_information(secret) == Masked(
        "x [secret] ftp://[credentials]@a.org", {"secret": 1, "credentials": 1}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_looked_for_alone(kind: str) -> None:
    examples = {
        "secret": "AKIAIOSFODNN7EXAMPLE", "credentials": "me:pw", "email": "q@b.org", "ip": "8.8.8.8",
        "iban": "DE89370400440532013000", "card": "4111111111111111", "national_id": "529.982.247-25",
        "phone": "+44 20 7946 0958",
    }  # fmt: skip
    text = "\n".join(f"ftp://{value}@localhost" if name == "credentials" else value for name, value in examples.items())
    spans = personal_spans(text, (kind,))
    assert [(text[start:end], found) for start, end, found in spans] == [(examples[kind], kind)]
    others = tuple(name for name in KINDS if name != kind)
    assert {found for *_, found in personal_spans(text, others)} == set(others)
    assert personal_spans(text, ()) == []


def test_of_two_that_overlap_the_earlier_kind_counts() -> None:
    key = "-----BEGIN PRIVATE KEY-----\na@b.org\n-----END PRIVATE KEY-----"
    assert mask_personal_information(f"{key} c@d.org").counts == {"secret": 1, "email": 1}
    assert [kind for *_, kind in personal_spans("card 4111111111111111 +44 20 7946 0958")] == ["card", "phone"]
    text = "8.8.8.8 x@8.8.8.8.org"
    assert personal_spans(text) == sorted(personal_spans(text))
    assert personal_spans("a@b.org c@d.org") == [(0, 7, "email"), (8, 15, "email")]


def test_masking_ends_after_eight_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[str] = []

    def always(text: str, kinds: tuple[str, ...]) -> list[tuple[int, int, str]]:
        rounds.append(text)
        return [(0, 1, "ip"), (1, 2, "email")]

    monkeypatch.setattr(pii, "personal_spans", always)
    assert mask_personal_information("ab").counts == {"ip": 8, "email": 8}
    assert len(rounds) == 8
    assert rounds[1] == "[ip][email]"
