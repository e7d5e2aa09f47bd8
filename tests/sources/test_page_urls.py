import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.sources.page_urls import host_and_port, in_domains, normal_url

SEGMENTS = st.text(alphabet="aZ9-._~%/:@!$&'()*+,;=ü é?#\\", max_size=30)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.COM:80", "http://example.com/"),
        ("https://example.com:443/a/../b/./c/..", "https://example.com/b/"),
        ("http://example.com/%7euser/%c3%bc?q=%2f#top", "http://example.com/~user/%C3%BC?q=%2F"),
        ("http://bücher.example/ü b", "http://xn--bcher-kva.example/%C3%BC%20b"),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("http://example.com/?b=2&a=1", "http://example.com/?b=2&a=1"),
        ("mailto:someone@example.com", None),
        ("javascript:void(0)", None),
        ("http://user:secret@example.com/", None),
        ("http://example.com:99999/", None),
        ("http:///path", None),
        ("http://exa mple.com/", None),
        (f"http://example.com/{'a' * 2000}", None),
    ],
)
def test_normal_form(url: str, expected: str | None):
    assert normal_url(url) == expected


def test_relative_addresses_resolve_against_the_page():
    assert normal_url("../b?x#y", "http://h/a/c/d") == "http://h/a/b?x"
    assert normal_url("//other/x", "https://h/") == "https://other/x"
    assert normal_url("\n /a\tb ", "http://h/") == "http://h/ab"


@given(path=SEGMENTS, query=SEGMENTS)
def test_the_normal_form_is_its_own_normal_form(path: str, query: str):
    first = normal_url(f"http://example.com/{path}?{query}")
    assert first is None or normal_url(first) == first


@given(st.text(max_size=60), st.text(max_size=30))
def test_any_text_gives_an_ascii_web_address_or_none(url: str, base: str):
    found = normal_url(url, f"http://h/{base}")
    assert found is None or (found.isascii() and found.startswith(("http://", "https://")) and " " not in found)


def test_hosts_and_domains():
    assert host_and_port("https://a.example/x") == ("a.example", 443)
    assert host_and_port("http://[::1]:81/") == ("::1", 81)
    assert in_domains("docs.example.com", frozenset({"example.com"}))
    assert not in_domains("badexample.com", frozenset({"example.com"}))
    assert not in_domains("com", frozenset({"example.com"}))
