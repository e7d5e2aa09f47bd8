"""Counts of the frontier over several pages and several openings; addresses that may be connected to; spellings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinyllama.errors import InputError, RecipeError
from tinyllama.sources import crawl as crawl_module
from tinyllama.sources.address_guard import AddressGuard, is_public, parse_host_ports
from tinyllama.sources.crawl import _begin, _domains, _sites, crawl, dry_run
from tinyllama.sources.frontier import Frontier, QueuedPage
from tinyllama.sources.page_urls import in_domains, normal_url
from tinyllama.sources.sources_config import SourcesConfig


def filled(folder: Path) -> Frontier:
    """Seven pages: two stored, three left out for two reasons, one queued and one noted."""
    frontier = Frontier(folder)
    frontier.add([f"http://a.org/{n}" for n in range(6)], redirects=2)
    frontier.add(["http://b.org/", "http://c.org/", "http://a.org/0"], reason="domain")
    for page in frontier.take(2):
        frontier.mark_stored(page.number, f"d{page.number}", 100 * page.number)
    for page in frontier.take(3):
        frontier.mark_left_out(page.number, "robots" if page.number == 3 else "too_short")
    return frontier


def test_states_and_reasons_are_counted_and_again_after_opening(tmp_path: Path) -> None:
    frontier = filled(tmp_path)
    states = {"stored": 2, "left_out": 5, "queued": 1}
    reasons = {"domain": 2, "robots": 1, "too_short": 2}
    assert (dict(frontier.states), dict(frontier.left_out)) == (states, reasons)
    assert frontier.stored_bytes() == 300
    frontier.commit({"a": 1, "b": 2})
    frontier.commit({"b": 3})
    frontier.close()
    again = Frontier(tmp_path)
    assert (dict(again.states), dict(again.left_out)) == (states, reasons)
    assert again.warc_files() == {"a": 1, "b": 3}
    assert again.take(9) == [QueuedPage(6, "http://a.org/5", 2)]
    assert again.take(9) == []
    again.set_fact("x", [1])
    assert (again.fact("x"), again.fact("y", 7), again.fact("format_version")) == ([1], 7, 1)
    assert again.outcomes()["http://a.org/2"] == ("left_out", "robots")
    again.close()


def test_the_database_is_durable_and_held_by_one(tmp_path: Path) -> None:
    frontier = Frontier(tmp_path / "new" / "folder")
    (mode,), (synchronous,), (locking,) = (
        frontier._database.execute(f"PRAGMA {name}").fetchone()
        for name in ("journal_mode", "synchronous", "locking_mode")
    )
    assert (mode, synchronous, locking) == ("wal", 1, "exclusive")
    frontier.close()


# -- addresses


class Receiver:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def resolutionBegan(self, resolution: Any) -> None:  # noqa: N802
        self.seen.append(("began", resolution))

    def addressResolved(self, address: Any) -> None:  # noqa: N802
        self.seen.append(address.host)

    def resolutionComplete(self) -> None:  # noqa: N802
        self.seen.append("complete")


class Inner:
    """A resolver that knows one public and two private addresses of every name."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def resolveHostName(self, receiver: Any, *asked: Any) -> str:  # noqa: N802
        self.asked.append(asked)
        receiver.resolutionBegan("it")
        for host in ("127.0.0.1", "8.8.8.8", "10.0.0.1"):
            receiver.addressResolved(SimpleNamespace(host=host))
        receiver.addressResolved(SimpleNamespace())
        receiver.resolutionComplete()
        return "resolution"


def test_private_addresses_are_taken_out_unless_that_very_port_is_named() -> None:
    inner = Inner()
    installed: list[Any] = []
    reactor = SimpleNamespace(nameResolver=inner, installNameResolver=installed.append)
    crawler: Any = SimpleNamespace(settings={"ALLOWED_PRIVATE": frozenset({("a.org", 80)})})
    guard = AddressGuard.from_crawler(crawler, reactor)
    guard.install_on_reactor()
    assert installed == [crawler.address_guard] == [guard]
    for host, port, allowed in (("a.org", 81, 0), ("b.org", 80, 0), ("A.org", 80, 1)):
        receiver = Receiver()
        if allowed:
            receiver.addressResolved = lambda address, seen=receiver.seen: seen.append(getattr(address, "host", None))
            expected = ["127.0.0.1", "8.8.8.8", "10.0.0.1", None]
        else:
            expected = ["8.8.8.8"]
        assert guard.resolveHostName(receiver, host, port, None, "UDP") == "resolution"  # pyright: ignore[reportArgumentType]
        assert receiver.seen == [("began", "it"), *expected, "complete"]
        assert inner.asked[-1] == (host, port, None, "UDP")
        assert ((host.lower(), port) in guard.refused) is not bool(allowed)
    assert guard.refused == {("a.org", 81), ("b.org", 80)}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("9.255.255.255", True), ("10.0.0.0", False), ("10.255.255.255", False), ("11.0.0.0", True),
        ("172.15.255.255", True), ("172.16.0.0", False), ("172.31.255.255", False), ("172.32.0.0", True),
        ("192.167.255.255", True), ("192.168.0.0", False), ("192.169.0.0", True), ("100.63.255.255", True),
        ("100.64.0.0", False), ("100.128.0.0", True), ("169.254.0.0", False), ("223.255.255.255", True),
        ("224.0.0.0", False), ("239.1.1.1", False), ("64:ff9b::a00:1", False), ("64:ff9b::808:808", True),
        ("2002:0a00:0001::", False), ("2002:0808:0808::", True), ("2606:4700::1", True), ("2606:4700::1%eth0", True),
        ("ff0e::1", False), ("64:ff9b:1::808:808", False),
        ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", True), ("2001:0:4136:e378:8000:63bf:f5ff:fffe", False),
        ("", False), ("a.org", False),
    ],
)  # fmt: skip
def test_the_edges_of_private_networks(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("entry", "place"),
    [("a.org:1", ("a.org", 1)), (" A.org :65535", ("a.org", 65535)), ("[::1]:80", ("::1", 80)), ("a.org:0", None),
     ("a.org:65536", None), ("[::1:80", None), ("::1]:80", None), ("a.org:", None), ("a.org:8x", None), (":1", None)],
)  # fmt: skip
def test_places_are_read(entry: str, place: tuple[str, int] | None) -> None:
    if place is None:
        with pytest.raises(InputError, match="is not HOST:PORT"):
            parse_host_ports(["b.org:1", entry])
    else:
        assert parse_host_ports(["b.org:1", entry]) == {("b.org", 1), place}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b/../c", "/a/c"), ("/a/b/..", "/a/"), ("/a/b/.", "/a/b/"), ("/..", "/"), ("/../a", "/a"), ("/a/./b", "/a/b"),
        ("/a/../../b/.", "/b/"), ("/a.b/c", "/a.b/c"), ("/.a/..b", "/.a/..b"), ("/a//../b", "/a/b"), ("", "/"),
        ("/a/b/c/../../d", "/a/d"), ("/a;x=1:@!$&'()*+,=", "/a;x=1:@!$&'()*+,="), ("/%41%2f%zz", "/A%2F%25zz"),
    ],
)  # fmt: skip
def test_paths_have_one_spelling(path: str, expected: str) -> None:
    assert normal_url(f"http://a.org{path}") == f"http://a.org{expected}"


def test_the_longest_address_has_two_thousand_characters() -> None:
    start = "http://a.org/"
    assert normal_url(start + "x" * (2000 - len(start))) is not None
    assert normal_url(start + "x" * (2001 - len(start))) is None


def test_ports_hosts_and_domains() -> None:
    assert normal_url("http://a.org:443/") == "http://a.org:443/"
    assert normal_url("https://a.org:80/") == "https://a.org:80/"
    assert normal_url("http://a.org/\ud800") == "http://a.org/%3F"
    assert normal_url("http://a.org./?a?b/c#d") == "http://a.org/?a?b/c"
    assert normal_url("http://[FE80::1]/") == "http://[fe80::1]/"
    assert in_domains("x.y.a.org", frozenset({"a.org"}))
    assert in_domains("x.y.a.org", frozenset({"b.org", "y.a.org"}))
    assert not in_domains("a.org", frozenset({"y.a.org"}))


# -- the command around the process


@pytest.mark.parametrize(
    ("allowed", "seeds", "added", "domains"),
    [
        ([], ["http://b.org", "http://a.org/x", "http://b.org/y"], [], ["a.org", "b.org"]),
        (["C.org"], ["http://a.org"], [], ["c.org"]),
        (["C.org"], ["http://a.org"], ["http://127.0.0.1:8642/"], ["127.0.0.1", "c.org"]),
        ([], ["http://a.org"], ["http://127.0.0.1:8642/"], ["127.0.0.1", "a.org"]),
    ],
)
def test_the_domains_are_the_given_ones_or_the_seeds(
    allowed: list[str], seeds: list[str], added: list[str], domains: list[str]
) -> None:
    config = SourcesConfig(seeds=seeds, allowed_domains=allowed)
    assert _domains(config, [*seeds, *added]) == domains


def test_the_documentation_site_is_one_more_seed_and_keeps_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    asked: list[tuple[int, bool]] = []

    @contextmanager
    def site(port: int, *, exact_port: bool = False) -> Any:
        asked.append((port, exact_port))
        yield f"http://127.0.0.1:{port + 1}/"

    monkeypatch.setattr(crawl_module, "documentation_site", site)
    config = SourcesConfig(
        seeds=["http://a.org"], documentation_site=True, documentation_port=77, allow_private=["b.org:1"]
    )
    with _sites(config, "") as found:
        assert found == (["http://a.org", "http://127.0.0.1:78/"], ["b.org:1", "127.0.0.1:78"], "http://127.0.0.1:78/")
    with _sites(config, "http://127.0.0.1:99/"):
        pass
    assert asked == [(77, False), (99, True)]
    plain = SourcesConfig(seeds=["http://a.org"], allow_private=["b.org:1"])
    with _sites(plain, "") as found:
        assert found == (["http://a.org"], ["b.org:1"], "")
    for bad in (["http://a.org", "http://"], []):
        with pytest.raises(RecipeError, match=r"sources\.seeds"), _sites(SourcesConfig(seeds=bad), ""):
            pass


def test_a_crawl_and_a_dry_run_say_what_the_frontier_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []

    def child(
        config: SourcesConfig, out: Path, seeds: list[str], private: list[str], *, only_look: bool = False
    ) -> None:
        jobs.append((config.max_pages, seeds, private, only_look))
        frontier = filled(out)
        frontier.mark_left_out(6, "dry_run")
        frontier.set_fact("requests", 12)
        frontier.commit({})
        frontier.close()

    monkeypatch.setattr(crawl_module, "_run_child", child)
    config = SourcesConfig(seeds=["http://a.org/"], max_pages=5, delay_seconds=2.0, allow_private=["b.org:1"])
    summary = crawl(config, tmp_path)
    assert 0 <= summary.pop("seconds") < 60
    assert summary == {
        "pages_stored": 2, "left_out": {"domain": 2, "dry_run": 1, "robots": 1, "too_short": 2}, "requests": 12,
        "bytes_stored": 300,
    }  # fmt: skip
    found = dry_run(config)
    assert found.pop("seeds") == {
        **{f"http://a.org/{n}": "" for n in (0, 1)}, "http://a.org/2": "robots", "http://a.org/3": "too_short",
        "http://a.org/4": "too_short", "http://a.org/5": "allowed", "http://b.org/": "domain", "http://c.org/": "domain",
    }  # fmt: skip
    assert found == {
        "domains": ["a.org"], "max_pages": 5, "min_page_chars": 200, "max_page_bytes": 5_000_000, "delay_seconds": 2.0,
        "concurrency_per_host": 1,
    }  # fmt: skip
    assert jobs == [(5, ["http://a.org/"], ["b.org:1"], False), (0, ["http://a.org/"], ["b.org:1"], True)]


def test_a_folder_belongs_to_one_crawl(tmp_path: Path) -> None:
    config = SourcesConfig(seeds=["http://a.org/"])
    assert _begin(config, tmp_path) == ""
    crawl_module._note(tmp_path, "documentation_site", "http://127.0.0.1:5/")
    assert _begin(config, tmp_path) == "http://127.0.0.1:5/"
    assert _begin(config.model_copy(update={"delay_seconds": 9.0}), tmp_path) == "http://127.0.0.1:5/"
    with pytest.raises(InputError, match="other settings"):
        _begin(config.model_copy(update={"max_pages": 9}), tmp_path)


def test_a_crawl_that_goes_on_serves_the_documentation_at_the_same_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    asked: list[tuple[int, bool]] = []

    @contextmanager
    def site(port: int, *, exact_port: bool = False) -> Any:
        asked.append((port, exact_port))
        yield f"http://127.0.0.1:{port if exact_port else port + 3}/"

    def child(
        config: SourcesConfig, out: Path, seeds: list[str], private: list[str], *, only_look: bool = False
    ) -> None:
        frontier = filled(out)
        frontier.commit({})
        frontier.close()

    monkeypatch.setattr(crawl_module, "documentation_site", site)
    monkeypatch.setattr(crawl_module, "_run_child", child)
    config = SourcesConfig(documentation_site=True, documentation_port=50)
    crawl(config, tmp_path)
    frontier = Frontier(tmp_path)
    assert frontier.fact("documentation_site") == "http://127.0.0.1:53/"
    frontier.close()
    monkeypatch.setattr(crawl_module, "_run_child", lambda *_: None)
    crawl(config, tmp_path)
    assert asked == [(50, False), (53, True)]


def test_a_crawl_that_kept_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def child(config: SourcesConfig, out: Path, *_: Any) -> None:
        frontier = Frontier(out)
        frontier.add(["http://a.org/", "http://a.org/2"], reason="robots")
        frontier.add(["http://b.org/"] if config.max_pages else [], reason="domain")
        frontier.commit({})
        frontier.close()

    monkeypatch.setattr(crawl_module, "_run_child", child)
    config = SourcesConfig(seeds=["http://a.org/"], max_pages=1)
    with pytest.raises(InputError, match=r"http://a\.org/: no page was kept \(domain: 1, robots: 2\)"):
        crawl(config, tmp_path / "a")
    monkeypatch.setattr(crawl_module, "_run_child", lambda *_: None)
    with pytest.raises(InputError, match="no page found"):
        crawl(config, tmp_path / "b")
