"""One spelling for each page address, so that a page is fetched once (RFC 3986, section 6.2.2 and 6.2.3)."""

import re
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

LONGEST_URL = 2000
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_BLANKS = re.compile(r"[\t\n\r]")


def normal_url(url: str, base: str = "") -> str | None:
    """The normal form of an http or https address, resolved against `base`; None for anything else.

    Lower-case scheme and host, host in IDNA, no default port, no fragment, no dot segments, escapes in upper case and only
    where needed. The query keeps its order: servers may tell `a=1&b=2` from `b=2&a=1`. Addresses with a user name or a
    password, and those over 2,000 characters, are refused.
    """
    text = _BLANKS.sub("", url).strip()
    try:
        parts = urlsplit(urljoin(base, text) if base else text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not host or "@" in parts.netloc:
        return None
    host = _normal_host(host)
    if host is None:
        return None
    netloc = host if port in (None, _DEFAULT_PORTS[scheme]) else f"{host}:{port}"
    path = _without_dots(_normal_escapes(parts.path, "/:@!$&'()*+,;=")) or "/"
    result = urlunsplit((scheme, netloc, path, _normal_escapes(parts.query, "/:@!$&'()*+,;=?"), ""))
    return result if len(result) <= LONGEST_URL else None


def host_and_port(url: str) -> tuple[str, int]:
    """Host without brackets and port, the scheme's default included, of a normal URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def in_domains(host: str, domains: frozenset[str]) -> bool:
    """Whether `host` is one of `domains` or a subdomain of one."""
    labels = host.split(".")
    return host in domains or any(".".join(labels[start:]) in domains for start in range(1, len(labels)))


def _normal_host(host: str) -> str | None:
    if ":" in host:  # IPv6 literal
        return f"[{host.lower()}]" if re.fullmatch(r"[0-9a-fA-F:.]+", host) else None
    try:
        name = host.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    return name if re.fullmatch(r"[a-z0-9._-]+", name) else None


def _normal_escapes(text: str, kept: str) -> str:
    def fix(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in _UNRESERVED else f"%{match[1].upper()}"

    whole = re.sub(r"%(?![0-9a-fA-F]{2})", "%25", text)
    return quote(_ESCAPE.sub(fix, whole), safe=f"%{kept}", errors="replace")


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
            if last:
                kept.append("")
        elif segment == ".":
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return "/".join(kept)
