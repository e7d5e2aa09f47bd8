"""Each kind of personal information at the edges of its form: lengths, ranges, check digits, and words around it."""

from collections.abc import Callable

import pytest

from tinyllama.cleaning import pii_patterns as patterns

# One account number of each country, as the ISO 13616 registry prints them.
REGISTRY = """
AD1200012030200359100100 AE070331234567890123456 AL47212110090000000235698741 AT611904300234573201
AZ21NABZ00000000137010001944 BA391290079401028494 BE68539007547034 BG80BNBG96611020345678 BH67BMAG00001299123456
BR1800360305000010009795493C1 BY13NBRB3600900000002Z00AB00 CH9300762011623852957 CR05015202001026284066
CY17002001280000001200527600 CZ6508000000192000145399 DE89370400440532013000 DK5000400440116243
DO28BAGR00000001212453611324 EE382200221020145685 EG380019000500000000263180002 ES9121000418450200051332
FI2112345600000785 FO6264600001631634 FR1420041010050500013M02606 GB29NWBK60161331926819 GE29NB0000000101904917
GI75NWBK000000007099453 GL8964710001000206 GR1601101250000000012300695 GT82TRAJ01020000001210029690
HR1210010051863000160 HU42117730161111101800000000 IE29AIBK93115212345678 IL620108000000099999999
IQ98NBIQ850123456789012 IS140159260076545510730339 IT60X0542811101000000123456 JO94CBJO0010000000000131000302
KW81CBKU0000000000001234560101 KZ86125KZT5004100100 LB62099900000001001901229114 LC55HEMM000100010012001200023015
LI21088100002324013AA LT121000011101001000 LU280019400644750000 LV80BANK0000435195001 LY83002048000020100120361
MC5811222000010123456789030 MD24AG000225100013104168 ME25505000012345678951 MK07250120000058984
MR1300020001010000123456753 MT84MALT011000012345MTLCAST001S MU17BOMM0101101030300200000MUR NL91ABNA0417164300
NO9386011117947 PK36SCBL0000001123456702 PL61109010140000071219812874 PS92PALS000000000400123456702
PT50000201231234567890154 QA58DOHB00001234567890ABCDEFG RO49AAAA1B31007593840000 RS35260005601001611379
SA0380000000608010167519 SC18SSCB11010000000000001497USD SE4550000000058398257466 SI56263300012039086
SK3112000000198742637541 SM86U0322509800000000270100 ST23000100010051845310146 SV62CENR00000000000000700025
TL380080012345678910157 TN5910006035183598478831 TR330006100519786457841326 UA213223130000026007233566001
VA59001123000012345678 VG96VPVG0000012345678901 XK051212012345678906
"""
IBANS = REGISTRY.split()


def found(finder: Callable[[str, int, int], patterns.Spans], text: str) -> list[str]:
    return [text[start:end] for start, end in finder(text, 0, len(text))]


def test_every_country_of_the_registry_is_there_once() -> None:
    assert len({iban[:2] for iban in IBANS}) == len(IBANS) == len(patterns._IBAN_LENGTHS)


@pytest.mark.parametrize("iban", IBANS)
def test_an_iban_has_its_countrys_length_and_check_digits(iban: str) -> None:
    spaced = " ".join(iban[place : place + 4] for place in range(0, len(iban), 4))
    hyphened = spaced[:4] + spaced[4:].replace(" ", "-").replace("-", " ", 1)
    assert found(patterns.ibans, f"to {iban}, {spaced}. {hyphened}") == [iban, spaced, hyphened]
    assert found(patterns.ibans, f"{iban} today") == [iban]
    last = iban[-1]
    wrong = iban[:-1] + (chr(ord(last) + 1) if last not in "9Z" else "0")
    assert found(patterns.ibans, f"{iban[:-1]} {wrong} {iban}7 {iban.replace(iban[2:4], '00', 1)}") == []


@pytest.mark.parametrize(
    "text",
    [
        "DE89  370400440532013000", "DE89 3704.0044 0532 0130 00", "DE89 3704 --0044 0532 0130 00",
        "DE89 37040044053201300", "DE89 3704 ", "XX89370400440532013000",
        "ADE89370400440532013000", "DE89_370400440532013000", "DE89370400440532013000é",
        # one check digit too small by one: what is left modulo 97 is 0
        "DE88370400440532013000",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_iban_stays(text: str) -> None:
    assert found(patterns.ibans, text) == []


def with_luhn(start: str, length: int) -> str:
    """`start` filled with zeros and ones to `length` digits, the last one right by Luhn's check written out once more."""
    body = (start + "01" * 10)[: length - 1]
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


@pytest.mark.parametrize(
    ("digits", "right"),
    [
        ([0], True), ([1], False), ([5], False), ([1, 8], True), ([8, 1], False), ([5, 9], True), ([9, 1], True),
        ([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3], True), ([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 0], False),
        ([9, 7, 9, 2, 7, 3, 9, 8, 7, 1, 3], False),
    ],
)  # fmt: skip
def test_luhns_check_doubles_every_second_digit_from_the_right(digits: list[int], right: bool) -> None:
    """7992739871 has the check digit 3 in ISO/IEC 7812's own example."""
    assert patterns.passes_luhn(digits) is right


ISSUERS = [
    ("3999", "4000"), ("5099", "5100"), ("2220", "2221"), ("6010", "6011"), ("6303", "6304"), ("6758", "6759"),
    ("6439", "6440"), ("3527", "3528"), ("5000", "4999"), ("5600", "5599"), ("2721", "2720"), ("6012", "6011"),
    ("6305", "6304"), ("6760", "6759"), ("6600", "6599"), ("3590", "3589"),
]  # fmt: skip


@pytest.mark.parametrize(("outside", "inside"), ISSUERS)
def test_sixteen_digits_are_a_card_at_the_edges_of_the_issuers_ranges(outside: str, inside: str) -> None:
    card, other = with_luhn(inside, 16), with_luhn(outside, 16)
    assert found(patterns.cards, f"no {card} and {other}.") == [card]
    assert found(patterns.cards, f"no {card[:-1]}{(int(card[-1]) + 1) % 10}") == []
    assert found(patterns.cards, f"my card is {other}") == [other]


def test_fifteen_digits_are_a_card_of_one_issuer_and_other_lengths_need_the_word() -> None:
    for start, is_card in (("33", 0), ("34", 1), ("35", 0), ("36", 0), ("37", 1), ("38", 0)):
        assert len(found(patterns.cards, with_luhn(start, 15))) == is_card
    assert found(patterns.cards, with_luhn("34", 16)) == found(patterns.cards, with_luhn("40", 15)) == []
    for length in range(10, 22):
        number = with_luhn("4012", length)
        assert found(patterns.cards, f"Visa: {number}") == ([number] if 12 <= length <= 19 else [])
        assert found(patterns.cards, f"Number: {number}") == ([number] if length == 16 else [])
    assert found(patterns.cards, "card 0000 0000 0000 0000, card 4444444444444444") == []


def test_the_word_card_counts_forty_characters_back_and_no_further() -> None:
    number = with_luhn("4012", 13)
    for apart, counts in ((39, True), (40, True), (41, False)):
        assert len(found(patterns.cards, f"card{'x'.center(apart)}{number}")) == counts
    assert found(patterns.cards, f"card\nno {number}") == []


def test_check_letters_of_spain() -> None:
    """Number modulo 23 chooses the letter; X, Y, Z stand for 0, 1, 2."""
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    for rest in range(23):
        number = 23 * 500_000 + rest
        assert found(patterns.national_ids, f"DNI {number:08d}{letters[rest]}") == [f"{number:08d}{letters[rest]}"]
        assert found(patterns.national_ids, f"DNI {number:08d}{letters[(rest + 1) % 23]}") == []
    ids = ["X1234567-L", "Y1234567X", "Z1234567R", "00000000T"]
    assert found(patterns.national_ids, ", ".join(ids)) == ids
    assert found(patterns.national_ids, "X1234567X, Y1234567L, Z1234567L") == []


def test_check_digits_of_brazil() -> None:
    good = ["529.982.247-25", "111.444.777-35", "123.456.789-09"]
    assert found(patterns.national_ids, " ".join(good)) == good
    for one in good[:2]:
        for place in (0, 4, 10, 12, 13):
            changed = f"{one[:place]}{(int(one[place]) + 1) % 10}{one[place + 1 :]}"
            assert found(patterns.national_ids, changed) == []
    assert found(patterns.national_ids, "111.111.111-11 000.000.000-00") == []


def test_check_digits_of_poland_where_it_is_named() -> None:
    good = ["44051401359", "02070803628", "92071314764"]
    for one in good:
        assert found(patterns.national_ids, f"PESEL: {one}") == [one]
        assert found(patterns.national_ids, f"number: {one}") == []
        for place in range(11):
            changed = f"{one[:place]}{(int(one[place]) + 1) % 10}{one[place + 1 :]}"
            assert found(patterns.national_ids, f"PESEL {changed}") == []
    for apart, counts in ((25, True), (26, False)):
        assert len(found(patterns.national_ids, f"PESEL{'x'.center(apart)}{good[0]}")) == counts


def test_check_digits_of_france() -> None:
    """97 less the number modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    good = ["255081416802538", "1 84 12 76 451 089 46", f"18412 2A 451089 {97 - 1841219451089 % 97:02d}"]
    good.append(f"184122B451089{97 - 1841218451089 % 97:02d}")
    for one in good:
        text = one.replace("18412 2A 451089 ", "1 84 12 2A 451 089 ")
        assert found(patterns.national_ids, f"NIR {text}") == [text]
        wrong = text[:-1] + str((int(text[-1]) + 1) % 10)
        assert found(patterns.national_ids, f"NIR {wrong}") == []
    assert found(patterns.national_ids, f"184122C451089{97 - 1841219451089 % 97:02d}") == []


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("460-89-9847 899-01-0001 001-01-0001", ["460-89-9847", "899-01-0001", "001-01-0001"]),
        ("900-01-0001 666-01-0001 000-01-0001 460-00-9847 460-89-0000 460-89-98471", []),
        ("SSN 460 89 9847, 460899848", ["460 89 9847"]),
        ("social security number: 460899847", ["460899847"]),
        ("SSN 000899847; SSN 460009847; SSN 460890000; SSN 900899847", []),
        ("AB123456C AB 12 34 56 A QQ 12 34 56 C", ["AB123456C", "AB 12 34 56 A"]),
        ("GB123456C BG123456C NT123456C AD123456C DA123456C AO123456C AB123456E", []),
    ],
)
def test_ids_by_their_form(text: str, ids: list[str]) -> None:
    assert found(patterns.national_ids, text) == ids


def test_the_name_of_an_id_counts_fifty_characters_back() -> None:
    for apart, counts in ((25, True), (26, False)):
        assert len(found(patterns.national_ids, f"social security{'x'.center(apart)}460899847")) == counts


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("+1 212 736 5000, +44 20 7946 0958x12", ["+1 212 736 5000", "+44 20 7946 0958x12"]),
        ("+999 212 736 5000, +1 111 736 5000", []),
        ("+43.1234567, +431234567", ["+431234567"]),
        ("(212) 736-5000 ext. 55; 212.736.5000", ["(212) 736-5000 ext. 55", "212.736.5000"]),
        ("112-736-5000, 212-136-5000, 555-555-5555", []),
        ("call 1234567, call 12345678, call 1234567890123, call 12345678901234",
         ["12345678", "1234567890123"]),
        ("call me on 12345678 or in the year 12345678", ["12345678"]),
        ("call 12345000 or 12340001; call 12340001", ["12340001"]),
        ("Tel. 1234567; 12345678 (office), 12345678 -  fax, 87654321 house", ["1234567", "12345678"]),
        ("ring 2001-02-03 1, call 2001-02-03, dial 1990 / 1999", ["2001-02-03 1"]),
        (f"reach{'x'.center(20)}12345678; reach{'x'.center(21)}87654321", ["12345678"]),
    ],
)  # fmt: skip
def test_telephone_numbers_by_their_form_and_the_words_around(text: str, phones: list[str]) -> None:
    spans = sorted(set(patterns.phones(text, 0, len(text))))
    assert [text[start:end] for start, end in spans] == phones


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("8.8.8.8 255.255.255.255 1.1.1.256 192.0.2.1 198.51.100.1", ["8.8.8.8"]),
        ("version 8.8.8.8; version:    8.8.8.8; >= 8.8.8.8; v8.8.8.8", ["8.8.8.8"]),
        ("version    8.8.8.8, release   8.8.8.8, release the 8.8.8.8", ["8.8.8.8", "8.8.8.8"]),
        ("2001:4860:4860::8888 fd00::1:1 ff0e:1:2::3 4000:1:2::3 2001:db8:1::1 1:2:3", ["2001:4860:4860::8888"]),
        ("3fff:ffff:1::2 2a00:1450:4001::1", ["2a00:1450:4001::1", "3fff:ffff:1::2"]),
    ],
)
def test_addresses_of_the_public_internet(text: str, addresses: list[str]) -> None:
    assert sorted(found(patterns.ips, text)) == addresses


def test_finders_look_only_where_they_are_told_to() -> None:
    text = "a@b.org DE89370400440532013000 c@d.org 8.8.8.8 +44 20 7946 0958 4111111111111111 529.982.247-25"
    finders = (patterns.emails, patterns.ibans, patterns.ips, patterns.phones, patterns.cards, patterns.national_ids)
    for finder in finders:
        spans = list(dict.fromkeys(finder(text, 0, len(text))))
        start, end = spans[0]
        assert list(dict.fromkeys(finder(text, start, end))) == [(start, end)]
        assert (start, end) not in list(finder(text, start + 1, len(text)))
        assert (start, end) not in list(finder(text, 0, end - 1))


def test_secrets_and_credentials_are_looked_for_between_start_and_end() -> None:
    key = "AKIAIOSFODNN7EXAMPLE"
    text = f"{key} {key} http://a:b@c.org http://d:e@f.org"
    assert list(patterns.secrets(text, 5, len(text))) == [(21, 41)]
    assert list(patterns.secrets(text, 0, 40)) == [(0, 20)]
    first, second = text.index("a:b"), text.index("d:e")
    assert list(patterns.credentials(text, 42, second)) == [(first, first + 3)]
    assert list(patterns.credentials(text, first, len(text))) == [(second, second + 3)]
