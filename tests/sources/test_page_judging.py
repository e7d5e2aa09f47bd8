"""How the spider judges what came: reasons, redirects, links, order, limits, commits; without a network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy.exceptions import CloseSpider, StopDownload
from scrapy.http import Headers, Request, Response

from tinyllama.sources import page_spider
from tinyllama.sources.frontier import Frontier, QueuedPage
from tinyllama.sources.page_spider import CrawlJob, PageSpider, _links
from tinyllama.sources.sources_config import SourcesConfig

DOMAINS = frozenset({"a.org"})


class FakeWarc:
    """Notes pages and, with the frontier, the order of syncs and commits."""

    def __init__(self, log: list[Any]) -> None:
        self.pages: list[tuple[Any, ...]] = []
        self.log = log

    def write_page(self, *page: Any) -> str:
        self.pages.append(page)
        return f"digest{len(self.pages)}"

    def sync(self) -> dict[str, int]:
        self.log.append("sync")
        return {"00000.warc.gz": 100 + len(self.pages)}


class LoggedFrontier(Frontier):
    log: list[Any]

    def commit(self, warc_bytes: dict[str, int]) -> None:
        self.log.append(("commit", warc_bytes))
        super().commit(warc_bytes)


@pytest.fixture
def spider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PageSpider:
    """A spider at the beginning of a crawl of a.org, with a clock that stands still."""
    monkeypatch.setattr(PageSpider, "guard", lambda self: SimpleNamespace(refused={("a.org", 81)}))
    monkeypatch.setattr(page_spider.time, "monotonic", lambda: 1000.0)
    log: list[Any] = []
    frontier = LoggedFrontier(tmp_path)
    frontier.log = log
    config = SourcesConfig(concurrency_per_host=100, min_page_chars=20)
    job = CrawlJob(config, frontier, FakeWarc(log), DOMAINS, lambda: log.append("report"))  # pyright: ignore[reportArgumentType]
    job.earlier_requests = 5
    made = PageSpider(job)
    made.crawler = SimpleNamespace(stats=SimpleNamespace(get_value=lambda name, default: 8))  # pyright: ignore[reportAttributeAccessIssue]
    return made


def change(spider: PageSpider, **values: Any) -> None:
    spider.job.config = spider.job.config.model_copy(update=values)


def reply(request: Any, body: str = "", status: int = 200, flags: list[str] | None = None, **headers: str) -> Response:
    given = {"Content-Type": "text/html", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Response(
        request.url, status=status, headers=given, body=body.encode(), flags=flags or [], request=request,
        ip_address="9.9.9.9",  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def fates(spider: PageSpider) -> dict[str, tuple[str, str]]:
    return spider.job.frontier.outcomes()


def one(spider: PageSpider, body: str, status: int = 200, flags: list[str] | None = None, **headers: str) -> str:
    """The reason for which the page http://a.org/ was left out, or nothing."""
    spider.job.frontier.add(["http://a.org/"])
    (request,) = spider._feed()
    list(spider._on_page(reply(request, body, status, flags, **headers)))
    return fates(spider)["http://a.org/"][1]


TWENTY = "<p>exactly twenty chars</p>"


@pytest.mark.parametrize(
    ("body", "status", "flags", "headers", "reason"),
    [
        (TWENTY, 200, None, {}, ""),
        ("<p>only nineteen chars</p>", 200, None, {}, "too_short"),
        (TWENTY, 201, None, {}, "http_201"),
        (TWENTY, 404, None, {}, "http_404"),
        (TWENTY, 404, ["download_stopped"], {}, "http_404"),
        (TWENTY, 200, ["download_stopped"], {}, "not_html"),
        (TWENTY, 301, None, {"Location": "/x"}, "redirected"),
        (TWENTY, 308, None, {"Location": "/x"}, "redirected"),
        (TWENTY, 301, None, {}, "http_301"),
        (TWENTY, 304, None, {"Location": "/x"}, "http_304"),
        (TWENTY, 200, None, {"Location": "/x"}, ""),
        (TWENTY, 302, None, {"Location": "mailto:x"}, "bad_redirect"),
    ],
)
def test_why_a_page_is_left_out(
    spider: PageSpider, body: str, status: int, flags: list[str] | None, headers: dict[str, str], reason: str
) -> None:
    assert one(spider, body, status, flags, **headers) == reason
    assert (fates(spider).get("http://a.org/x") is not None) == (reason == "redirected")


@pytest.mark.parametrize(("before", "reason"), [(4, "redirected"), (5, "too_many_redirects")])
def test_five_redirects_are_followed(spider: PageSpider, before: int, reason: str) -> None:
    spider.job.frontier.add(["http://a.org/r"], redirects=before)
    (request,) = spider._feed()
    following = list(spider._on_page(reply(request, status=302, Location="http://a.org/next")))
    assert fates(spider)["http://a.org/r"] == ("left_out", reason)
    assert [one.meta["page"].redirects for one in following] == ([5] if reason == "redirected" else [])


def test_a_stored_page_is_written_as_it_came(spider: PageSpider) -> None:
    spider.job.frontier.add(["http://a.org/1", "http://a.org/2"])
    for number, request in enumerate(spider._feed()):
        list(spider._on_page(reply(request, TWENTY + "x" * number, X_Made="yes")))
    warc: Any = spider.job.warc
    assert [(page[0], page[2], page[3], page[5]) for page in warc.pages] == [
        ("http://a.org/1", "9.9.9.9", 200, TWENTY.encode()),
        ("http://a.org/2", "9.9.9.9", 200, TWENTY.encode() + b"x"),
    ]
    assert dict(warc.pages[0][4]) == {"Content-Type": "text/html", "X-Made": "yes"}
    assert warc.pages[0][1].endswith("Z")
    assert spider.job.frontier.stored_bytes() == 2 * len(TWENTY) + 1


def test_links_of_short_pages_are_followed_too_those_of_other_domains_noted(spider: PageSpider) -> None:
    body = '<a href="/b">b</a><a href="http://c.org/">c</a><a href="http://www.a.org/d">d</a><a href="/b#x">b</a>'
    assert one(spider, body) == "too_short"
    assert fates(spider) == {
        "http://a.org/": ("left_out", "too_short"), "http://a.org/b": ("queued", ""),
        "http://c.org/": ("left_out", "domain"), "http://www.a.org/d": ("queued", ""),
    }  # fmt: skip


def test_pages_are_judged_in_the_frontiers_order(spider: PageSpider) -> None:
    spider.job.frontier.add([f"http://a.org/{n}" for n in range(4)])
    requests = spider._feed()
    warc: Any = spider.job.warc
    for number, there, held in ((2, 0, 1), (1, 0, 2), (0, 3, 0), (3, 4, 0)):
        list(spider._on_page(reply(requests[number], TWENTY)))
        assert len(warc.pages) == there
        assert spider._held_bytes == held * len(TWENTY)
    assert [page[0][-1] for page in warc.pages] == list("0123")
    assert spider._in_flight.total() == 0


def test_a_crawl_ends_when_it_has_enough_pages(spider: PageSpider) -> None:
    change(spider, max_pages=2)
    spider.job.frontier.add([f"http://a.org/{n}" for n in range(4)])
    requests = spider._feed()
    list(spider._on_page(reply(requests[0], TWENTY)))
    list(spider._on_page(reply(requests[2], TWENTY)))
    with pytest.raises(CloseSpider) as ended:
        list(spider._on_page(reply(requests[1], TWENTY)))
    assert ended.value.reason == "enough"
    assert [state for state, _ in fates(spider).values()] == ["stored", "stored", "queued", "queued"]
    assert spider._feed() == []


@pytest.mark.parametrize(("pages", "commits"), [(63, 0), (64, 1), (127, 1), (128, 2)])
def test_every_sixty_four_pages_are_committed_files_first(spider: PageSpider, pages: int, commits: int) -> None:
    spider.job.frontier.add([f"http://a.org/{n}" for n in range(pages)])
    change(spider, concurrency_per_host=1)
    (request,) = spider._feed()
    for _ in range(pages):
        following = list(spider._on_page(reply(request, TWENTY)))
        request = following[0] if following else None
    frontier: Any = spider.job.frontier
    expected = [
        step
        for number in range(1, commits + 1)
        for step in ("sync", ("commit", {"00000.warc.gz": 100 + 64 * number}), "report")
    ]
    assert frontier.log == expected
    assert frontier.fact("requests") == (13 if commits else None)


@pytest.mark.parametrize(("passed", "commits"), [(1.9, 0), (2.0, 0), (2.1, 1)])
def test_pages_are_committed_after_two_seconds(
    spider: PageSpider, monkeypatch: pytest.MonkeyPatch, passed: float, commits: int
) -> None:
    monkeypatch.setattr(page_spider.time, "monotonic", lambda: 1000.0 + passed)
    one(spider, TWENTY)
    frontier: Any = spider.job.frontier
    assert frontier.log.count("sync") == commits
    assert spider._committed_at == 1000.0 + (passed if commits else 0)
    assert spider._uncommitted == 1 - commits


def test_requests_keep_to_the_limits_of_each_host_and_of_all(spider: PageSpider) -> None:
    change(spider, concurrency_per_host=3)
    spider.job.frontier.add([f"http://h{n % 40}.org/{n}" for n in range(200)])
    requests = spider._feed()
    assert len(requests) == 64
    hosts = [request.url.split("/")[2] for request in requests]
    assert max(map(hosts.count, hosts)) == 3
    assert spider._free_slots("h39.org") == 0
    spider._in_flight["h0.org"] -= 2
    assert spider._free_slots("h39.org") == 2
    assert spider._free_slots("h0.org") == 2
    spider._in_flight["h1.org"] -= 3
    assert (spider._free_slots("h0.org"), spider._free_slots("h2.org")) == (2, 0)
    assert len(spider._feed()) == 5


def test_a_window_of_256_pages_is_handed_out_and_none_while_bodies_wait(spider: PageSpider) -> None:
    change(spider, concurrency_per_host=1)
    spider.job.frontier.add([f"http://a.org/{n}" for n in range(300)])
    assert len(spider._feed()) == 1
    assert len(spider._window) == 256
    spider._window.popleft()
    spider._held_bytes = 64_000_001
    spider._feed()
    assert len(spider._window) == 255
    spider._held_bytes = 64_000_000
    spider._feed()
    assert len(spider._window) == 256
    assert spider._window[-1] == QueuedPage(257, "http://a.org/256", 0)


def test_a_request_goes_through_once_and_its_answer_is_judged_whatever_its_status(spider: PageSpider) -> None:
    spider.job.frontier.add(["http://a.org/"])
    (request,) = spider._feed()
    assert request.dont_filter is True
    assert request.meta["handle_httpstatus_all"] is request.meta["dont_redirect"] is True
    assert request.meta["page"] == QueuedPage(1, "http://a.org/", 0)
    assert (request.callback, request.errback) == (spider._on_page, spider._on_failure)


@pytest.mark.parametrize(
    ("kind", "stops"),
    [("text/html", 0), ("Text/HTML; charset=x", 0), ("application/xhtml+xml", 0), ("image/png", 1), ("", 1), (None, 1)],
)
def test_bodies_that_are_not_html_are_not_fetched(spider: PageSpider, kind: str | None, stops: int) -> None:
    headers = Headers({"Content-Type": kind} if kind is not None else {})
    page, other = Request("http://a.org/", meta={"page": 1}), Request("http://a.org/robots.txt")
    spider._on_headers(headers, other)
    if stops:
        with pytest.raises(StopDownload) as stopped:
            spider._on_headers(headers, page)
        assert stopped.value.fail is False
    else:
        spider._on_headers(headers, page)


@pytest.mark.parametrize(
    ("url", "error", "reason"),
    [
        ("http://a.org/", "ConnectionLost", "connection_error"),
        ("http://a.org:81/", "ConnectionLost", "private_address"),
        ("http://a.org:81/", "robots.txt", "robots"),
    ],
)
def test_a_request_that_failed_has_a_reason(spider: PageSpider, url: str, error: str, reason: str) -> None:
    from scrapy.exceptions import IgnoreRequest

    spider.job.frontier.add([url])
    (request,) = spider._feed()
    value = IgnoreRequest(error) if error == "robots.txt" else type(error, (Exception,), {})()
    list(spider._on_failure(SimpleNamespace(request=request, value=value)))
    assert fates(spider)[url] == ("left_out", reason)
    assert spider._in_flight["a.org"] == 0


def test_a_fault_of_ours_ends_the_crawl(spider: PageSpider) -> None:
    spider.job.frontier.add(["http://a.org/", "http://a.org/2"])
    requests = spider._feed()
    spider.job.warc = None  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(CloseSpider) as ended:
        list(spider._on_page(reply(requests[0], TWENTY)))
    assert ended.value.reason == "fault"
    assert "AttributeError" in spider.job.fault
    assert spider._feed() == []


def test_the_guard_must_be_installed() -> None:
    spider = PageSpider.__new__(PageSpider)
    with pytest.raises(RuntimeError, match="not installed"):
        spider.guard()


def test_links_are_resolved_in_order_each_once() -> None:
    html = '<base href="/sub/"><a href="x">1</a><a name="y">2</a><a href="http://b.org">3</a><a href="./x#f">4</a>'
    html += '<!-- <a href="hidden"> --><base href="/other/"><a href="tel:1">5</a><p><a href="../z">6</a></p>'
    assert _links(html, "http://a.org/page") == ["http://a.org/sub/x", "http://b.org/", "http://a.org/z"]
    assert _links('<a href="q">', "http://a.org/d/page") == ["http://a.org/d/q"]
    assert _links("", "http://a.org/") == _links(" \n", "http://a.org/") == []
    assert _links("<p>ünï \ud800</p><a href='é'>", "http://a.org/") == ["http://a.org/%C3%A9"]
