"""What is masked, what stays, and that masking is safe, fast and the same as the obvious way on any text."""

import gzip
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SHARED
from tinyllama.cleaning import pii_patterns as patterns
from tinyllama.cleaning.pii import KINDS, PLACEHOLDERS, Masked, mask_personal_information, personal_spans


@pytest.mark.parametrize(
    ("text", "masked", "counts"),
    [
        ("Write to jane.doe+x@mail.example.co.uk, please.", "Write to [email], please.", {"email": 1}),
        ("<a_b@c.org>;d@e.de", "<[email]>;[email]", {"email": 2}),
        ("Call +44 20 7946 0958 now", "Call [phone] now", {"phone": 1}),
        ("+49 (0)30 901820, +81-3-3224-9999.", "[phone], [phone].", {"phone": 2}),
        ("(212) 736-5000 or 212-736-5000", "[phone] or [phone]", {"phone": 2}),
        ("212.736.5000 and 212-736-5000x22", "[phone] and [phone]", {"phone": 2}),
        ("Tel.: 030 901820, Fax 030/901821", "Tel.: [phone], Fax [phone]", {"phone": 2}),
        ("Phone:\n60-56-85-91", "Phone:\n[phone]", {"phone": 1}),
        ("call me on 0494 92 82 32; 416 60 039 office", "call me on [phone]; [phone] office", {"phone": 2}),
        ("from 8.8.8.8.", "from [ip].", {"ip": 1}),
        ("from [2606:4700:4700::1111]:53", "from [[ip]]:53", {"ip": 1}),
        ("at 2a00:1450:4001:0829:0000:0000:0000:200e", "at [ip]", {"ip": 1}),
        ("to GB29 NWBK 6016 1331 9268 19 today", "to [iban] today", {"iban": 1}),
        ("DE89370400440532013000, gb29nwbk60161331926819", "[iban], [iban]", {"iban": 2}),
        ("paid with 4111 1111 1111 1111 then", "paid with [card] then", {"card": 1}),
        ("my card 630427373398 is lost, so is 3782-822463-10005", "my card [card] is lost, so is [card]", {"card": 2}),
        ("SSN: 460-89-9847, ssn 460899847", "SSN: [national id], ssn [national id]", {"national_id": 2}),
        ("NI AB 12 34 56 C and DNI 12345678Z", "NI [national id] and DNI [national id]", {"national_id": 2}),
        ("CPF 529.982.247-25, PESEL 44051401359", "CPF [national id], PESEL [national id]", {"national_id": 2}),
        ("NIR 2 55 08 14 168 025 38", "NIR [national id]", {"national_id": 1}),
        ("key AKIAIOSFODNN7EXAMPLE.", "key [secret].", {"secret": 1}),
        ("t=ghp_" + "a1B2" * 9 + ", x", "t=[secret], x", {"secret": 1}),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY.SflKxwRJSMeKKF2QT4", "[secret]", {"secret": 1}),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAA=\n-----END RSA PRIVATE KEY-----\nend",
            "[secret]\nend",
            {"secret": 1},
        ),
        ("postgres://bob:s3cret@db.example.org/x", "postgres://[credentials]@db.example.org/x", {"credentials": 1}),
    ],
)
def test_masked(text: str, masked: str, counts: dict[str, int]) -> None:
    assert mask_personal_information(text) == Masked(masked, counts)


@pytest.mark.parametrize(
    "text",
    [
        "version 4.0.30.319, v1.2.3.4 and numpy==1.26.4.1, >= 8.8.8.8",
        "section 1.2.3.4.5 and 300.1.1.1",
        "127.0.0.1, 192.168.1.20, 10.0.0.1, 0.0.0.0 and ::1, fe80::1, 2001:db8::1",
        "ISBN 978-0-306-40615-7 and 0-306-40615-2, ISSN 2049-3630",
        "on 2024-01-31 12:30:45, 31.01.2024, 2024-01-31T12:30:45+00:00",
        "3.14159265358979, +1.5707963268, -2.12736500, 1e+10, 6.02214076e23, array([212.736, 5000.123])",
        "C = A@B.T and y = x@w.sum(axis=0), @decorator, a@b",
        "a[1::2], std::vector, a[2000::2], 12:34:56, ab::cd",
        "123-456-7890 counts up; 4111 1111 1111 1112 is no card, 4242424242424242424242 is too long",
        "1, 2, 3, +4, +5 6 7 8 9 10",
        "no telemetry 1234567 here",
        "call 1999-2005 and the phones of 1984-1986; reach 10 000 000 people",
        "GB29 NWBK 6016 1331 9268 18 has a wrong check digit, so has DE88370400440532013000",
        "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567 and 12345678A",
        "sk-learn, a sk-mask, https://user@host/, http://a:b/c@d, mailto:x",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    ],
)
def test_stays(text: str) -> None:
    assert mask_personal_information(text) == Masked(text)


def test_each_kind_can_be_left() -> None:
    text = "a@b.org +44 20 7946 0958 8.8.8.8"
    assert mask_personal_information(text, ()) == Masked(text)
    assert mask_personal_information(text, ("phone", "ip")).text == "a@b.org [phone] [ip]"


PIECES = st.one_of(
    st.sampled_from(
        [
            "a@b.org", "+44 20 7946 0958", "8.8.8.8", "2606:4700::1111", "tel 5551234567", "212-736-5000", "tel ", "card ",
            "GB29 NWBK 6016 1331 9268 19", "4111 1111 1111 1111", "460-89-9847", "AKIAIOSFODNN7EXAMPLE", "http://a:b@c.de",
            "529.982.247-25", "12345678Z", "AB123456C", "x12", " office", "é", "\n",
        ]
    ),
    st.sampled_from(list("@+.: -()[]\nx7é中")),
)  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join))


@given(TEXTS)
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = mask_personal_information(text)
    again = mask_personal_information(once.text)
    assert again == Masked(once.text)


@given(TEXTS)
def test_masked_text_stays_bounded(text: str) -> None:
    masked = mask_personal_information(text)
    replaced = sum(masked.counts.values())
    assert len(masked.text) <= len(text) + max(map(len, PLACEHOLDERS.values())) * replaced
    assert replaced == sum(masked.text.count(p) - text.count(p) for p in PLACEHOLDERS.values())


def reference_spans(text: str) -> list[tuple[int, int, str]]:
    """Every finder over the whole text, no line left out."""
    finders = {
        "secret": lambda text, start, end: [*patterns.secrets(text, start, end), *patterns.private_keys(text)],
        "credentials": patterns.credentials, "email": patterns.emails, "ip": patterns.ips, "iban": patterns.ibans,
        "card": patterns.cards, "national_id": patterns.national_ids, "phone": patterns.phones,
    }  # fmt: skip
    taken: list[tuple[int, int, str]] = []
    for kind in KINDS:
        for start, end in finders[kind](text, 0, len(text)):
            if all(end <= other[0] or start >= other[1] for other in taken):
                taken.append((start, end, kind))
    return sorted(taken)


@given(TEXTS)
@settings(max_examples=300)
def test_searching_few_lines_finds_what_searching_all_finds(text: str) -> None:
    assert personal_spans(text) == reference_spans(text)


@pytest.mark.parametrize(
    "unit",
    [
        "a", "1", "1.", "a.", "@", "a@", "+1 ", "1-", "(212) ", "1:", "a:", "::", "tel ", "tel 1 ", "1 ", "+", "GB29 ",
        "sk-", "eyJ", "eyJa.", "://", "a://b:",
        "call 1234567 ", "card 4111 ", "-----BEGIN PRIVATE KEY-----", "111.111.111-", "12x1 ",
    ],
)  # fmt: skip
def test_time_is_linear(unit: str) -> None:
    """500 kB of any repeated beginning ends in seconds; a quadratic pattern would take an hour."""
    text = unit * (500_000 // len(unit))
    assert mask_personal_information(text).text


@given(st.lists(PIECES, min_size=1, max_size=4).map("".join))
@settings(max_examples=20, deadline=None)
def test_time_is_linear_on_what_is_drawn(unit: str) -> None:
    assert mask_personal_information(unit * (200_000 // len(unit))).text


TYPES = {
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "IP_ADDRESS": "ip", "IBAN_CODE": "iban", "CREDIT_CARD": "card",
    "US_SSN": "national_id",
}  # fmt: skip


@pytest.mark.skipif(not (SHARED / "safety").is_dir(), reason="no shared data")
def test_presidio_synthetic_sentences() -> None:
    """Recall by type, and nothing found that is not there: docs/safety.md states these figures."""
    path = SHARED / "safety" / "pii_presidio_synthetic.jsonl.gz"
    hits, wanted, wrong = Counter(), Counter(), []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            found = personal_spans(row["text"])
            true = [(span["start"], span["end"], TYPES[span["type"]]) for span in row["spans"] if span["type"] in TYPES]
            for start, end, kind in true:
                wanted[kind] += 1
                hits[kind] += any(kind == k and s < end and start < e for s, e, k in found)
            wrong += [f for f in found if not any(f[2] == k and f[0] < e and s < f[1] for s, e, k in true)]
    assert not wrong
    least = {"email": 1.0, "phone": 0.97, "ip": 0.92, "iban": 1.0, "card": 1.0, "national_id": 1.0}
    assert {kind: hits[kind] / wanted[kind] >= share for kind, share in least.items()} == dict.fromkeys(least, True)
