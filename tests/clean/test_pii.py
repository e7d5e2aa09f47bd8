"""What is masked, what stays, and that masking is safe on any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.clean.pii import Masked, mask_personal_information


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to jane.doe+x@mail.example.co.uk, please.", Masked("Write to [email], please.", emails=1)),
        ("<a_b@c.org>;d@e.de", Masked("<[email]>;[email]", emails=2)),
        ("Call +44 20 7946 0958 now", Masked("Call [phone] now", phones=1)),
        ("+49 (0)30 901820, +81-3-3224-9999.", Masked("[phone], [phone].", phones=2)),
        ("(212) 736-5000 or 212-736-5000", Masked("[phone] or [phone]", phones=2)),
        ("Tel.: 030 901820, Fax 030/901821", Masked("Tel.: [phone], Fax [phone]", phones=2)),
        ("from 8.8.8.8.", Masked("from [ip].", ips=1)),
        ("from [2606:4700:4700::1111]:53", Masked("from [[ip]]:53", ips=1)),
        ("at 2a00:1450:4001:0829:0000:0000:0000:200e", Masked("at [ip]", ips=1)),
    ],
)
def test_masked(text: str, masked: Masked) -> None:
    assert mask_personal_information(text) == masked


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
        "123-456-7890 counts up; 4111 1111 1111 1111 too",
        "1, 2, 3, +4, +5 6 7 8 9 10",
        "no telemetry 1234567 here",
    ],
)
def test_stays(text: str) -> None:
    assert mask_personal_information(text) == Masked(text)


def test_each_kind_can_be_left() -> None:
    text = "a@b.org +44 20 7946 0958 8.8.8.8"
    assert mask_personal_information(text, email=False, phone=False, ip=False) == Masked(text)
    assert mask_personal_information(text, email=False).text == "a@b.org [phone] [ip]"


PIECES = st.one_of(
    st.sampled_from(
        ["a@b.org", "+44 20 7946 0958", "8.8.8.8", "2606:4700::1111", "tel 5551234567", "212-736-5000", "tel "]
    ),
    st.sampled_from(list("@+.: -()[]\nx7é中")),
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join))


@given(TEXTS)
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = mask_personal_information(text)
    again = mask_personal_information(once.text)
    assert again == Masked(once.text)


@given(TEXTS)
def test_masked_text_stays_bounded(text: str) -> None:
    masked = mask_personal_information(text)
    replaced = masked.emails + masked.phones + masked.ips
    assert len(masked.text) <= len(text) + len("[phone]") * replaced
    assert replaced == sum(masked.text.count(p) - text.count(p) for p in ("[email]", "[phone]", "[ip]"))


@pytest.mark.parametrize(
    "unit", ["a", "1", "1.", "a.", "@", "a@", "+1 ", "1-", "(212) ", "1:", "a:", "::", "tel ", "tel 1 ", "1 ", "+"]
)
def test_time_is_linear(unit: str) -> None:
    """1 MB of any repeated beginning ends; a quadratic pattern would take an hour."""
    text = unit * (1_000_000 // len(unit))
    assert mask_personal_information(text) == Masked(text)
