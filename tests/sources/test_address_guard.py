import pytest

from tinyllama.errors import InputError
from tinyllama.sources.address_guard import is_public, parse_host_ports

PRIVATE = """
127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255 224.0.0.1 ::1 :: fe80::1
fe80::1%eth0 fc00::1 fd12::1 ff02::1 ::ffff:127.0.0.1 ::ffff:a00:1 2002:7f00:1:: 64:ff9b::7f00:1 nonsense
"""


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_routable_addresses_are_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE.split())
def test_all_others_are_private(address: str):
    assert not is_public(address)


def test_allowed_places():
    assert parse_host_ports(["Localhost:80", "[::1]:8080"]) == {("localhost", 80), ("::1", 8080)}


@pytest.mark.parametrize("entry", ["localhost", ":80", "::1:80", "host:", "host:0", "host:70000", "host:http"])
def test_malformed_places_are_refused(entry: str):
    with pytest.raises(InputError, match="is not HOST:PORT"):
        parse_host_ports([entry])
