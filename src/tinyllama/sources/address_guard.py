"""Keeps the crawler out of private networks: the check is in the name resolver, which every connection uses.

Pages, redirects and robots.txt are all fetched through the reactor's name resolver, IP literals included, and connect to
exactly the addresses that it returns. An address that is not globally routable (loopback, RFC 1918, link-local, IPv6 ULA,
IPv4 inside IPv6 ...) is dropped from the answer unless its HOST:PORT was named.
"""

import ipaddress
from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from tinyllama.errors import InputError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215; older Pythons call it global


def is_public(address: str) -> bool:
    """Whether an IP address is globally routable unicast; an IPv4 address inside an IPv6 one is checked itself."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and ip not in _LOCAL_NAT64


def parse_host_ports(entries: Sequence[str]) -> frozenset[tuple[str, int]]:
    """`HOST:PORT` or `[IPV6]:PORT` entries as (host, port). Raises InputError for another form."""
    found = set()
    for entry in entries:
        host, _, port = entry.rpartition(":")
        host = host.strip().lower()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"allow_private: {entry!r} is not HOST:PORT, as in 127.0.0.1:8000")
        found.add((host, int(port)))
    return frozenset(found)


class _Receiver:
    """Passes on the addresses that may be connected to."""

    def __init__(self, receiver: Any, guard: "AddressGuard", host: str, port: int) -> None:
        self._receiver, self._guard, self._host_port = receiver, guard, (host, port)

    def resolutionBegan(self, resolution: IHostResolution) -> None:  # noqa: N802 (Twisted's names)
        self._receiver.resolutionBegan(resolution)

    def addressResolved(self, address: IAddress) -> None:  # noqa: N802
        if self._host_port in self._guard.allowed or is_public(getattr(address, "host", "")):
            self._receiver.addressResolved(address)
        else:
            self._guard.refused.add(self._host_port)

    def resolutionComplete(self) -> None:  # noqa: N802
        self._receiver.resolutionComplete()


@implementer(IHostnameResolver)
class AddressGuard:
    """The reactor's name resolver without private addresses. `refused` has each (host, port) that had one."""

    def __init__(self, reactor: Any, allowed: frozenset[tuple[str, int]]) -> None:
        self._reactor = reactor
        self._inner = reactor.nameResolver
        self.allowed = allowed
        self.refused: set[tuple[str, int]] = set()

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> "AddressGuard":
        """Called by Scrapy to create its `TWISTED_DNS_RESOLVER`."""
        guard = cls(reactor, crawler.settings["ALLOWED_PRIVATE"])
        crawler.address_guard = guard
        return guard

    def install_on_reactor(self) -> None:
        """Called by Scrapy before the first connection."""
        self._reactor.installNameResolver(self)

    def resolveHostName(  # noqa: N802
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Resolve as the reactor would, but without private addresses."""
        receiver = _Receiver(resolutionReceiver, self, hostName.lower(), portNumber)
        return self._inner.resolveHostName(receiver, hostName, portNumber, addressTypes, transportSemantics)
