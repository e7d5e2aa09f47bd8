"""The Scrapy spider: takes pages from the frontier, filters them in its order and writes the kept ones to WARC.

Several pages are fetched at once, but they are processed strictly in the order in which their addresses were found. So
the frontier, and which pages a limited crawl keeps, do not depend on which server answers first, nor on kills.
"""

import time
import traceback
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

import scrapy
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from resiliparse.extract.html2text import extract_plain_text
from scrapy import signals
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import CloseSpider, IgnoreRequest, StopDownload
from scrapy.http import Request, Response

from tinyllama.sources.address_guard import AddressGuard
from tinyllama.sources.frontier import Frontier, QueuedPage
from tinyllama.sources.page_urls import host_and_port, in_domains, normal_url
from tinyllama.sources.sources_config import SourcesConfig
from tinyllama.sources.warc import HTML_TYPES, decode_html
from tinyllama.sources.warc_writer import WarcFiles

# Why a request failed, by class name: Scrapy 2.14 and later raise their own errors, earlier versions Twisted's.
_REASONS = {
    "DownloadTimeoutError": "timeout",
    "TimeoutError": "timeout",
    "TCPTimedOutError": "timeout",
    "CannotResolveHostError": "dns_error",
    "DNSLookupError": "dns_error",
    "DownloadCancelledError": "too_large",
    "CancelledError": "too_large",
    "ResponseDataLossError": "incomplete",
    "DownloadConnectionRefusedError": "connection_error",
    "ConnectionRefusedError": "connection_error",
    "ConnectError": "connection_error",
    "ConnectionLost": "connection_error",
    "ResponseFailed": "connection_error",
    "ResponseNeverReceived": "connection_error",
    "DownloadFailedError": "connection_error",
}


class DryRun(IgnoreRequest):
    """Raised for every page of a dry run, which fetches only robots.txt."""


def failure_reason(error: BaseException) -> str:
    """The reason under which a failed request is counted."""
    if isinstance(error, DryRun):
        return "dry_run"
    if isinstance(error, IgnoreRequest):
        return "robots" if "robots.txt" in str(error) else "too_large"  # or a body that decompresses to too much
    return _REASONS.get(type(error).__name__, "fetch_error")


class Robots(RobotsTxtMiddleware):
    """Scrapy's robots.txt with RFC 9309, section 2.3.1.4: a server error forbids everything."""

    async def _parse_robots(self, response: Response, netloc: str, request: Request, *more: Any) -> None:
        if response.status >= 500:
            response = response.replace(body=b"User-agent: *\nDisallow: /\n")
        await super()._parse_robots(response, netloc, request, *more)


class StopBeforePages:
    """Downloader middleware of a dry run: comes after the robots.txt check and stops every page."""

    def process_request(self, request: Request) -> None:
        """Raises DryRun for a page."""
        if "page" in request.meta:
            raise DryRun


CONCURRENT_REQUESTS = 64  # over all hosts
_WINDOW_PAGES = 256  # requested and not yet processed
_WINDOW_BYTES = 64_000_000  # of fetched bodies that wait for an earlier page
_COMMIT_PAGES = 64  # or after _COMMIT_SECONDS: the work that a kill can cost
_COMMIT_SECONDS = 2.0
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


@dataclass(frozen=True, slots=True)
class _Fetched:
    """The outcome of a request: a response, or the reason why there is none."""

    reason: str = ""
    response: Response | None = None
    date: str = ""

    def bytes_held(self) -> int:
        return len(self.response.body) if self.response is not None else 0


@dataclass
class CrawlJob:
    """What the spider works with. `report` is called after each commit."""

    config: SourcesConfig
    frontier: Frontier
    warc: WarcFiles
    domains: frozenset[str]
    report: Callable[[], None]
    dry_run: bool = False
    fault: str = ""
    earlier_requests: int = field(default=0)


class PageSpider(scrapy.Spider):
    """See the module. An unexpected exception ends the crawl; its traceback is in `job.fault`."""

    name = "pages"

    def __init__(self, job: CrawlJob, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.job = job
        self._window: deque[QueuedPage] = deque()
        self._waiting: dict[str, deque[QueuedPage]] = {}  # of the window, not yet requested, by host
        self._in_flight: Counter[str] = Counter()  # requests by host
        self._fetched: dict[int, _Fetched] = {}
        self._held_bytes = 0
        self._uncommitted = 0
        self._committed_at = time.monotonic()
        self._over = False

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> "PageSpider":
        """Called by Scrapy; connects the check of content types."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider._on_headers, signal=signals.headers_received)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        """The first requests; the others are made as pages are processed."""
        for request in self._feed():
            yield request

    def guard(self) -> AddressGuard:
        """The reactor's resolver. Raises RuntimeError unless it is an AddressGuard, before anything is fetched."""
        from twisted.internet import reactor

        resolver = reactor.nameResolver  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(resolver, AddressGuard):
            raise RuntimeError("the guard against private addresses is not installed")
        return resolver

    def _feed(self) -> list[scrapy.Request]:
        """Requests for the next pages, within the limits over all hosts and per host.

        Scrapy's own limit to a host lets a burst of requests through (2.19: a request counts only once its task runs).
        A list, not a generator: Scrapy advances the generators of several responses in turns, so each would see the
        others' unfinished changes.
        """
        if self._over:
            return []
        self.guard()
        if self._held_bytes <= _WINDOW_BYTES:
            for page in self.job.frontier.take(_WINDOW_PAGES - len(self._window)):
                self._window.append(page)
                self._waiting.setdefault(_host(page), deque()).append(page)
        requests = []
        for host, pages in self._waiting.items():
            while pages and self._free_slots(host) > 0:
                self._in_flight[host] += 1
                requests.append(self._request(pages.popleft()))
        self._waiting = {host: pages for host, pages in self._waiting.items() if pages}
        return requests

    def _free_slots(self, host: str) -> int:
        over_all = CONCURRENT_REQUESTS - self._in_flight.total()
        return min(over_all, self.job.config.concurrency_per_host - self._in_flight[host])

    def _request(self, page: QueuedPage) -> scrapy.Request:
        return scrapy.Request(
            page.url,
            callback=self._on_page,
            errback=self._on_failure,
            dont_filter=True,
            meta={"page": page, "handle_httpstatus_all": True, "dont_redirect": True},
        )

    def _on_headers(self, headers: Any, request: scrapy.Request, **more: Any) -> None:
        kind = (headers.get(b"Content-Type") or b"").split(b";")[0].strip().lower().decode("latin-1")
        if "page" in request.meta and kind not in HTML_TYPES:
            raise StopDownload(fail=False)  # skips the body; the status is still checked

    def _on_page(self, response: Response) -> Iterator[scrapy.Request]:
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._settle(response.meta["page"], _Fetched(response=response, date=date))

    def _on_failure(self, failure: Any) -> Iterator[scrapy.Request]:
        page = failure.request.meta["page"]
        reason = failure_reason(failure.value)
        if host_and_port(page.url) in self.guard().refused and reason != "robots":
            reason = "private_address"
        return self._settle(page, _Fetched(reason=reason))

    def _settle(self, page: QueuedPage, fetched: _Fetched) -> Iterator[scrapy.Request]:
        """Process every page that has no unfinished page before it, then request more."""
        self._in_flight[_host(page)] -= 1
        self._fetched[page.number] = fetched
        self._held_bytes += fetched.bytes_held()
        try:
            while self._window and self._window[0].number in self._fetched and not self._over:
                first = self._window.popleft()
                ready = self._fetched.pop(first.number)
                self._held_bytes -= ready.bytes_held()
                self._process(first, ready)
                self._uncommitted += 1
                if self._is_full():
                    self._over = True
                if self._uncommitted >= _COMMIT_PAGES or time.monotonic() > self._committed_at + _COMMIT_SECONDS:
                    self.commit()
            yield from self._feed()
        except Exception:
            self.job.fault = traceback.format_exc()
            self._over = True
            raise CloseSpider("fault") from None
        if self._over:
            raise CloseSpider("enough")

    def _is_full(self) -> bool:
        return 0 < self.job.config.max_pages <= self.job.frontier.states["stored"]

    def commit(self) -> None:
        """Sync the WARC files, then record states and lengths in one transaction."""
        job = self.job
        made = self.crawler.stats.get_value("downloader/request_count", 0) if self.crawler.stats else 0
        job.frontier.set_fact("requests", job.earlier_requests + made)
        job.frontier.commit(job.warc.sync())
        self._uncommitted = 0
        self._committed_at = time.monotonic()
        job.report()

    def _process(self, page: QueuedPage, fetched: _Fetched) -> None:
        response = fetched.response
        reason = fetched.reason
        if response is not None:
            if response.status in _REDIRECTS and response.headers.get("Location"):
                reason = self._redirected(page, response)
            elif response.status != 200:
                reason = f"http_{response.status}"
            elif "download_stopped" in response.flags:
                reason = "not_html"
            else:
                reason = self._read(page, response)
        if reason:
            self.job.frontier.mark_left_out(page.number, reason)
            return
        assert response is not None
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in response.headers.items()
            for value in values
        ]
        digest = self.job.warc.write_page(
            page.url, fetched.date, str(response.ip_address or ""), response.status, headers, response.body
        )
        self.job.frontier.mark_stored(page.number, digest, len(response.body))

    def _redirected(self, page: QueuedPage, response: Response) -> str:
        location = (response.headers.get("Location") or b"").decode("utf-8", "replace")
        target = normal_url(location, page.url)
        if target is None:
            return "bad_redirect"
        if page.redirects >= _MOST_REDIRECTS:
            return "too_many_redirects"
        self._add([target], page.redirects + 1)
        return "redirected"

    def _read(self, page: QueuedPage, response: Response) -> str:
        """Queue the page's links; returns why the page is not kept, or ""."""
        content_type = (response.headers.get("Content-Type") or b"").decode("latin-1")
        html = decode_html(response.body, content_type)
        self._add(_links(html, page.url))
        visible = extract_plain_text(html, main_content=False)
        return "too_short" if len(visible.strip()) < self.job.config.min_page_chars else ""

    def _add(self, urls: list[str], redirects: int = 0) -> None:
        for url in urls:
            reason = "" if in_domains(host_and_port(url)[0], self.job.domains) else "domain"
            self.job.frontier.add([url], redirects, reason)


def _host(page: QueuedPage) -> str:
    return host_and_port(page.url)[0]


def _links(text: str, page_url: str) -> list[str]:
    """Normalised addresses of a page's links, in order, each once."""
    # Not resiliparse's own tree: walking its nodes from Python took half of the crawl's CPU time.
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True)
    root = etree.fromstring(text.encode("utf-8", "replace"), parser) if text.strip() else None
    if root is None:
        return []
    bases = root.xpath("//base/@href")
    base = urljoin(page_url, str(bases[0])) if bases else page_url
    found: dict[str, None] = {}
    for address in root.xpath("//a/@href"):
        url = normal_url(str(address), base)
        if url is not None:
            found[url] = None
    return list(found)
