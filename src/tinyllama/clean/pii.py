"""Personal information in a text, replaced with typed placeholders: e-mail, telephone, public IP addresses.

Every pattern has bounded repeats and a look-behind that lets it start only once in a run of its own characters, so the
time is linear in the text. A cheap test for a character that must occur comes before each pattern. Placeholders are
plain words in square brackets: no tokenizer has them as special tokens, and no pattern here matches them again.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

import phonenumbers

_MOST_ROUNDS = 8
EMAIL, PHONE, IP = "[email]", "[phone]", "[ip]"

# A local part, an at sign, a domain with a dot. `x@y.sum(` is Python's matrix product, not an address.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w(])")

# Four numbers with dots; neither inside a longer dotted number (1.2.3.4.5) nor called a version.
_IPV4 = re.compile(r"(?<![\w.+-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.\w)")
_VERSION_BEFORE = re.compile(r"(?:version|release|[Vv]er\.?|[<>=~^]=?|-)\s{0,3}$", re.IGNORECASE)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){2}[0-9A-Fa-f:]{1,33}(?![\w:.])")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

_SEPARATED = r"[0-9](?:[ ./()-]{0,2}[0-9]){6,14}"
# International form: a plus sign before the country code (ITU-T E.123).
_PHONE_INTERNATIONAL = re.compile(rf"(?<![\w.+)\]])\+\(?{_SEPARATED}(?![\w]|[.][0-9])")
# North American form with its punctuation: (212) 555-0123, 212-555-0123.
_PHONE_NORTH_AMERICAN = re.compile(
    r"(?<![\w.+/-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}-)[2-9][0-9]{2}-[0-9]{4}(?![\w-]|\.[0-9])"
)
# A number that the text itself calls one: "Tel.: 030 1234567".
_PHONE_NAMED = re.compile(
    rf"(?P<name>(?<!\w)(?:tel|telephone|phone|fax|mobile)\b[.:]{{0,2}} {{0,2}})(?P<number>\(?{_SEPARATED})(?![\w]|[.][0-9])",
    re.IGNORECASE,
)
_FLOAT = re.compile(r"\+?[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Masked:
    """A text without personal information, and how many of each kind were replaced."""

    text: str
    emails: int = 0
    phones: int = 0
    ips: int = 0


def mask_personal_information(text: str, *, email: bool = True, phone: bool = True, ip: bool = True) -> Masked:
    """`text` with the chosen kinds replaced.

    A placeholder may set free what its neighbour hid (`a@b.org(212) 736-5000`), so masking is repeated until nothing is
    found: masking a masked text changes nothing. After 8 rounds only a text made to provoke it can have something left.
    """
    emails = phones = ips = 0
    for _ in range(_MOST_ROUNDS):
        new_emails = new_phones = new_ips = 0
        if email:
            text, new_emails = mask_emails(text)
        if ip:
            text, new_ips = mask_ips(text)
        if phone:
            text, new_phones = mask_phones(text)
        if not new_emails + new_phones + new_ips:
            break
        emails, phones, ips = emails + new_emails, phones + new_phones, ips + new_ips
    return Masked(text, emails, phones, ips)


def mask_emails(text: str) -> tuple[str, int]:
    """Replace e-mail addresses; returns the text and how many there were."""
    return _EMAIL.subn(EMAIL, text) if "@" in text else (text, 0)


def mask_ips(text: str) -> tuple[str, int]:
    """Replace IP addresses of the public internet (RFC 6890); private, loopback and documentation ranges stay."""
    count = 0
    if text.count(".") >= 3:
        text, count = _replace(_IPV4, IP, text, _is_public_ipv4)
    if text.count(":") >= 2:
        text, found = _replace(_IPV6, IP, text, _is_public_ipv6)
        count += found
    return text, count


def mask_phones(text: str) -> tuple[str, int]:
    """Replace telephone numbers of any country that are in international form or evidently telephone numbers.

    Digits alone are no evidence: dates, versions, ISBNs and measured values stay.
    """
    count = 0
    if "+" in text:
        text, count = _replace(_PHONE_INTERNATIONAL, PHONE, text, _is_valid_international)
    if "-" in text:
        text, found = _replace(_PHONE_NORTH_AMERICAN, PHONE, text, _is_valid_north_american)
        count += found
    text, found = _PHONE_NAMED.subn(rf"\g<name>{PHONE}", text)
    return text, count + found


def _replace(
    pattern: re.Pattern[str], placeholder: str, text: str, is_one: Callable[[re.Match[str]], bool]
) -> tuple[str, int]:
    count = 0

    def mask(match: re.Match[str]) -> str:
        nonlocal count
        if not is_one(match):
            return match.group()
        count += 1
        return placeholder

    return pattern.sub(mask, text), count


def _is_public_ipv4(match: re.Match[str]) -> bool:
    if _VERSION_BEFORE.search(match.string, max(0, match.start() - 12), match.start()):
        return False
    try:
        return ipaddress.IPv4Address(match.group()).is_global
    except ValueError:
        return False


def _is_public_ipv6(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv6Address(match.group())
    except ValueError:
        return False
    return address.is_global and address in _GLOBAL_UNICAST


def _is_valid_international(match: re.Match[str]) -> bool:
    return not _FLOAT.fullmatch(match.group()) and _is_valid(match.group(), None)


def _is_valid_north_american(match: re.Match[str]) -> bool:
    return _is_valid(match.group(), "US")


def _is_valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
