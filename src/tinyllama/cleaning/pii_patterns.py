"""Patterns and checksums for each kind of personally identifiable information.

A finder yields (start, end) of what is to be replaced inside text[start:end], which is a run of whole lines. Every pattern
has bounded repeats, and a look-behind that lets it start only once in a run of its own characters, so the time is linear
in the text. No pattern crosses a line end, except the one for private keys, which searches the whole text.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

import phonenumbers

Spans = Iterator[tuple[int, int]]

# -- addresses of mail, machines and secrets ---------------------------------------------------------------------------

# Local part, at sign, domain with a dot. `x@y.sum(` is a matrix product in Python, not an address.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w(])")

# Four numbers with dots, neither in a longer dotted number (1.2.3.4.5) nor a version.
_IPV4 = re.compile(r"(?<![\w.+-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.\w)")
_VERSION_BEFORE = re.compile(r"(?:version|release|[Vv]er\.?|[<>=~^]=?|-)\s{0,3}$", re.IGNORECASE)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){2}[0-9A-Fa-f:]{1,33}(?![\w:.])")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

# Prefixes of well-known keys and tokens.
SECRET_BEGINNINGS = (
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "AIza", "sk-", "sk_live_",
    "rk_live_", "npm_", "hf_", "pypi-AgEI", "eyJ",
)  # fmt: skip
_SECRET = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[A-Z2-7]{16}|gh[opsur]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,200}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|AIza[A-Za-z0-9_-]{35}|sk-[A-Za-z0-9_-]{20,200}|[rs]k_live_[A-Za-z0-9]{16,200}"
    r"|npm_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30,60}|pypi-AgEI[A-Za-z0-9_-]{50,300}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"
    r")(?![A-Za-z0-9_-])"
)
PRIVATE_KEY_MARK = "PRIVATE KEY-----"
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,2}PRIVATE KEY-----[^-]{1,20000}-----END (?:[A-Z0-9]{1,20} ){0,2}PRIVATE KEY-----"
)
# A name and a password before the host of a URL.
_CREDENTIALS = re.compile(
    r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,15}://(?P<found>[^\s/?#:@\[\]]{1,100}:[^\s/?#@\[\]]{1,200})@(?=[\w\[])"
)


def emails(text: str, start: int, end: int) -> Spans:
    """E-mail addresses."""
    return _matches(_EMAIL, text, start, end)


def ips(text: str, start: int, end: int) -> Spans:
    """Public IP addresses (RFC 6890), not private, loopback and documentation ranges."""
    yield from _matches(_IPV4, text, start, end, _is_public_ipv4)
    yield from _matches(_IPV6, text, start, end, _is_public_ipv6)


def secrets(text: str, start: int, end: int) -> Spans:
    """Keys and tokens of well-known services, and JSON web tokens."""
    return _matches(_SECRET, text, start, end)


def private_keys(text: str) -> Spans:
    """Private keys in PEM, over several lines."""
    return _matches(_PRIVATE_KEY, text, 0, len(text))


def credentials(text: str, start: int, end: int) -> Spans:
    """`name:password` in a URL."""
    return (match.span("found") for match in _CREDENTIALS.finditer(text, start, end))


# -- numbers of accounts and people ------------------------------------------------------------------------------------

# Length of an IBAN by country (ISO 13616 registry).
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?= ?[A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.+/-])[0-9](?:[ -]?[0-9]){11,18}(?![\w/-]|\.[0-9])")
_CARD_NAMED = re.compile(r"\b(?:card|cc|credit|debit|visa|mastercard|maestro|amex)\b[^\n]{0,40}$", re.IGNORECASE)
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-])")
_SSN_BARE = re.compile(r"(?<![\w.-])(?!000|666|9)[0-9]{3} ?(?!00)[0-9]{2} ?(?!0000)[0-9]{4}(?![\w-])")
_NINO = re.compile(r"(?<!\w)(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D](?!\w)")
_DNI = re.compile(r"(?<![\w-])[XYZ0-9][0-9]{7}-?[A-HJ-NP-TV-Z](?!\w)")
_NIR = re.compile(r"(?<!\w)[12] ?[0-9]{2} ?[01][0-9] ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}(?!\w)")
_CPF = re.compile(r"(?<![\w.-])[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![\w-])")
_PESEL = re.compile(r"(?<![\w.-])[0-9]{11}(?![\w-])")
_SSN_NAMED = re.compile(r"\b(?:SSN|social security)\b[^\n0-9]{0,25}$", re.IGNORECASE)
_PESEL_NAMED = re.compile(r"\bPESEL\b[^\n0-9]{0,25}$", re.IGNORECASE)


def ibans(text: str, start: int, end: int) -> Spans:
    """International bank account numbers, by the country's length and the check digits (ISO 7064, 97-10)."""
    for match in _IBAN_START.finditer(text, start, end):
        length = _IBAN_LENGTHS.get(match.group()[:2].upper(), 0)
        stop, kept = match.start(), []
        while stop < end and len(kept) < length:
            if text[stop] in " -" and text[stop - 1] not in " -":
                stop += 1
                continue
            if not (text[stop].isascii() and text[stop].isalnum()):
                break
            kept.append(text[stop].upper())
            stop += 1
        if length and len(kept) == length and not (stop < end and text[stop].isalnum()):
            moved = "".join(kept[4:] + kept[:4])
            if int("".join(str(int(character, 36)) for character in moved)) % 97 == 1:
                yield match.start(), stop


def cards(text: str, start: int, end: int) -> Spans:
    """Payment cards, by Luhn's check: 15 or 16 digits of a known issuer, or 12 to 19 after a word for a card."""
    return _matches(_CARD, text, start, end, _is_card)


def national_ids(text: str, start: int, end: int) -> Spans:
    """US social security numbers, UK national insurance, Spanish DNI and NIE, French NIR, Brazilian CPF, Polish PESEL (only
    after its name), by form and check digits where they exist."""
    yield from _matches(_SSN, text, start, end)
    yield from _matches(_SSN_BARE, text, start, end, lambda match: _is_named(match, _SSN_NAMED))
    yield from _matches(_NINO, text, start, end)
    yield from _matches(_DNI, text, start, end, _is_dni)
    yield from _matches(_NIR, text, start, end, _is_nir)
    yield from _matches(_CPF, text, start, end, _is_cpf)
    yield from _matches(_PESEL, text, start, end, lambda match: _is_named(match, _PESEL_NAMED) and _is_pesel(match))


# -- telephone ---------------------------------------------------------------------------------------------------------

_SEPARATED = r"[0-9](?:[ ./()-]{0,2}[0-9]){6,14}"
_EXTENSION = r"(?: ?(?:x|ext\.?) ?[0-9]{1,5})?"
# International form: a plus sign before the country code (ITU-T E.123).
_PHONE_INTERNATIONAL = re.compile(rf"(?<![\w.+)\]])\+\(?{_SEPARATED}{_EXTENSION}(?![\w]|[.][0-9])")
# North American form with its punctuation: (212) 555-0123, 212-555-0123, 212.555.0123.
_PHONE_NORTH_AMERICAN = re.compile(
    r"(?<![\w.+/-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}-)[2-9][0-9]{2}-[0-9]{4}"
    rf"{_EXTENSION}(?![\w-]|\.[0-9])"
    rf"|(?<![\w.+/-])[2-9][0-9]{{2}}\.[2-9][0-9]{{2}}\.[0-9]{{4}}{_EXTENSION}(?![\w-]|\.[0-9])"
)
# A number that the text calls a phone number: "Tel.: 030 1234567", "call me on 030 1234567", "030 1234567 (office)".
_PHONE_CANDIDATE = re.compile(rf"(?<![\w.+/-])\+?\(?{_SEPARATED}{_EXTENSION}(?![\w]|[.][0-9])")
_PHONE_NAMED = re.compile(
    r"(?<!\w)(?:tel|telephone|phone|fax|mobile|cell|desk)\b\.?(?:\s(?:number|no\.?))?(?:\sis)?[.:]?\s{0,2}$",
    re.IGNORECASE,
)
_PHONE_HINTED = re.compile(
    r"(?<!\w)(?:call|calling|text|dial|ring|reach|phone|contact|whatsapp|sms|answering|messages|registered)\b[^\n0-9]{0,20}$",
    re.IGNORECASE,
)
_PHONE_NAMED_AFTER = re.compile(r"[ -]{0,2}\(?(?:fax|office|mobile|cell|desk)\b", re.IGNORECASE)
_DATE_OR_YEARS = re.compile(r"[0-9]{1,4}[-./ ][0-9]{1,2}[-./ ][0-9]{1,4}|[12][0-9]{3}[ /-]{1,3}[12][0-9]{3}")
_FLOAT = re.compile(r"\+?[0-9]+\.[0-9]+")


def phones(text: str, start: int, end: int) -> Spans:
    """Telephone numbers in international or North American form, or called so by the text.

    Digits alone are not enough, because of dates, versions, ISBNs and measured values.
    """
    yield from _matches(_PHONE_INTERNATIONAL, text, start, end, _is_valid_international)
    yield from _matches(_PHONE_NORTH_AMERICAN, text, start, end, lambda match: _is_valid(match.group(), "US"))
    yield from _matches(_PHONE_CANDIDATE, text, start, end, _is_called_phone)


# -- checks ------------------------------------------------------------------------------------------------------------


def _matches(
    pattern: re.Pattern[str], text: str, start: int, end: int, is_one: Callable[[re.Match[str]], bool] | None = None
) -> Spans:
    return (match.span() for match in pattern.finditer(text, start, end) if is_one is None or is_one(match))


def _is_named(match: re.Match[str], name: re.Pattern[str], max_chars: int = 50) -> bool:
    """Whether `name` matches just before the number."""
    return bool(name.search(match.string[max(0, match.start() - max_chars) : match.start()]))


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


def _digits(match: re.Match[str]) -> list[int]:
    return [int(character) for character in match.group() if character.isdigit()]


def passes_luhn(digits: list[int]) -> bool:
    """Luhn's check (ISO/IEC 7812-1, annex B)."""
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + doubled) % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match)
    if not passes_luhn(digits) or len(set(digits)) == 1:
        return False
    first = int("".join(map(str, digits[:4])))
    issued = (len(digits) == 16 and (
        first // 1000 == 4 or 5100 <= first <= 5599 or 2221 <= first <= 2720 or first in (6011, 6304, 6759)
        or 6440 <= first <= 6599 or 3528 <= first <= 3589
    )) or (len(digits) == 15 and first // 100 in (34, 37))  # fmt: skip
    return issued or _is_named(match, _CARD_NAMED, 60)


def _is_dni(match: re.Match[str]) -> bool:
    written = match.group().replace("-", "").translate(str.maketrans("XYZ", "012"))
    number, letter = written[:8], match.group()[-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == letter


def _is_nir(match: re.Match[str]) -> bool:
    written = match.group().replace(" ", "").replace("2A", "19").replace("2B", "18")
    return written.isdigit() and int(written[:13]) % 97 + int(written[13:]) == 97


def _is_cpf(match: re.Match[str]) -> bool:
    digits = _digits(match)
    for length in (9, 10):
        rest = sum(digit * (length + 1 - index) for index, digit in enumerate(digits[:length])) * 10 % 11 % 10
        if rest != digits[length]:
            return False
    return len(set(digits)) > 1


def _is_pesel(match: re.Match[str]) -> bool:
    digits = _digits(match)
    weighted = sum(digit * weight for digit, weight in zip(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True))
    return weighted % 10 == 0


def _is_valid_international(match: re.Match[str]) -> bool:
    return not _FLOAT.fullmatch(match.group()) and _is_valid(match.group(), None)


def _is_called_phone(match: re.Match[str]) -> bool:
    if _is_named(match, _PHONE_NAMED) or _PHONE_NAMED_AFTER.match(match.string, match.end(), match.end() + 12):
        return True
    if _DATE_OR_YEARS.fullmatch(match.group()) or not _is_named(match, _PHONE_HINTED):
        return False
    return 8 <= len(_digits(match)) <= 13 and not match.group().endswith("000")


def _is_valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
