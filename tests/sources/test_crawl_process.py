"""What the crawler promises to other people's servers, as given to Scrapy; and how the process begins and ends."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Request, Response
from scrapy.settings import default_settings

from tinyllama.sources import crawl_process
from tinyllama.sources.crawl_process import crawl_in_this_process, scrapy_settings
from tinyllama.sources.frontier import Frontier
from tinyllama.sources.page_spider import DryRun, Robots, StopBeforePages, failure_reason
from tinyllama.sources.sources_config import SourcesConfig

CONFIG = SourcesConfig(
    user_agent="a-bot/7 (+http://a.org)", delay_seconds=3.5, concurrency_per_host=3, timeout_seconds=17.0,
    max_page_bytes=12345,
)  # fmt: skip
ROBOTS = "tinyllama.sources.page_spider.Robots"
STOP = "tinyllama.sources.page_spider.StopBeforePages"


def settings(**changes: Any) -> dict[str, Any]:
    return scrapy_settings(CONFIG.model_copy(update=changes), ["localhost:80", "10.0.0.1:8080"], dry_run=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROBOTSTXT_OBEY", True),
        ("ROBOTSTXT_PARSER", "scrapy.robotstxt.ProtegoRobotParser"),
        ("USER_AGENT", "a-bot/7 (+http://a.org)"),
        ("ROBOTSTXT_USER_AGENT", "a-bot/7 (+http://a.org)"),
        ("DOWNLOAD_DELAY", 3.5),
        ("CONCURRENT_REQUESTS_PER_DOMAIN", 3),
        ("CONCURRENT_REQUESTS", 128),
        ("CONCURRENT_ITEMS", 1),
        ("DOWNLOAD_TIMEOUT", 17.0),
        ("DOWNLOAD_MAXSIZE", 12345),
        ("DOWNLOAD_WARNSIZE", 0),
        ("RETRY_TIMES", 2),
        ("REDIRECT_MAX_TIMES", 5),
        ("HTTPPROXY_ENABLED", False),
        ("COOKIES_ENABLED", False),
        ("TELNETCONSOLE_ENABLED", False),
        ("STATS_DUMP", False),
        ("LOG_LEVEL", "ERROR"),
        ("ALLOWED_PRIVATE", {("localhost", 80), ("10.0.0.1", 8080)}),
    ],
)
def test_scrapy_is_given(name: str, value: Any) -> None:
    assert settings()[name] == value


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("user_agent", "USER_AGENT", "b"), ("user_agent", "ROBOTSTXT_USER_AGENT", "b"),
        ("delay_seconds", "DOWNLOAD_DELAY", 0.25), ("concurrency_per_host", "CONCURRENT_REQUESTS_PER_DOMAIN", 9),
        ("timeout_seconds", "DOWNLOAD_TIMEOUT", 2.0), ("max_page_bytes", "DOWNLOAD_MAXSIZE", 1),
    ],
)  # fmt: skip
def test_the_recipe_key_reaches_scrapy(key: str, name: str, value: Any) -> None:
    assert settings(**{key: value})[name] == value


def test_the_delay_is_not_spread_and_the_guard_resolves_names() -> None:
    """Under the names that this Scrapy knows."""
    found = settings()
    jitter = [name for name in ("DOWNLOAD_DELAY_JITTER", "RANDOMIZE_DOWNLOAD_DELAY") if name in found]
    resolver = [name for name in ("TWISTED_DNS_RESOLVER", "DNS_RESOLVER") if name in found]
    assert len(jitter) == len(resolver) == 1
    assert hasattr(default_settings, jitter[0])
    assert hasattr(default_settings, resolver[0])
    assert found[jitter[0]] == 0
    assert found[resolver[0]] == "tinyllama.sources.address_guard.AddressGuard"


def test_robots_txt_comes_before_the_stop_of_a_dry_run_and_offsite_is_ours() -> None:
    for dry_run in (False, True):
        middlewares = scrapy_settings(CONFIG, [], dry_run)["DOWNLOADER_MIDDLEWARES"]
        assert middlewares[ROBOTS] == 100
        assert middlewares.get(STOP) == (101 if dry_run else None)
        assert (STOP in middlewares) is dry_run
        off = {name for name, place in middlewares.items() if place is None}
        assert off == {
            f"scrapy.downloadermiddlewares.{name}Middleware"
            for name in ("robotstxt.RobotsTxt", "offsite.Offsite", "httpauth.HttpAuth")
        }
    assert set(settings()["SPIDER_MIDDLEWARES"].values()) == set(settings()["EXTENSIONS"].values()) == {None}


# -- robots.txt and failures


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"mine"), (404, b"mine"), (499, b"mine"), (500, b"User-agent: *\nDisallow: /\n"),
     (599, b"User-agent: *\nDisallow: /\n")],
)  # fmt: skip
@pytest.mark.parametrize("host", ["a.org", "localhost:8000", "127.0.0.1"])
def test_a_server_error_forbids_everything_on_every_host(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, host: str
) -> None:
    seen: list[tuple[Any, ...]] = []

    async def parse(self: Any, response: Response, netloc: str, request: Request, *more: Any) -> None:
        seen.append((response.body, response.status, netloc, request.url, more))

    monkeypatch.setattr(RobotsTxtMiddleware, "_parse_robots", parse)
    request = Request(f"http://{host}/page")
    response = Response(f"http://{host}/robots.txt", status=status, body=b"mine")
    asyncio.run(Robots._parse_robots(Robots.__new__(Robots), response, host, request, "more"))
    assert seen == [(body, status, host, f"http://{host}/page", ("more",))]


def test_a_dry_run_stops_pages_and_nothing_else() -> None:
    StopBeforePages().process_request(Request("http://a.org/robots.txt"))
    with pytest.raises(DryRun):
        StopBeforePages().process_request(Request("http://a.org/", meta={"page": 1}))


def test_reasons_of_failures() -> None:
    def named(name: str) -> Exception:
        return type(name, (Exception,), {})()

    assert failure_reason(DryRun()) == "dry_run"
    assert failure_reason(IgnoreRequest("Forbidden by robots.txt")) == "robots"
    assert failure_reason(IgnoreRequest("too much")) == "too_large"
    assert failure_reason(ValueError()) == "fetch_error"
    for name, reason in {
        "DownloadTimeoutError": "timeout", "TimeoutError": "timeout", "TCPTimedOutError": "timeout",
        "CannotResolveHostError": "dns_error", "DNSLookupError": "dns_error", "DownloadCancelledError": "too_large",
        "CancelledError": "too_large", "ResponseDataLossError": "incomplete", "ConnectionLost": "connection_error",
        "ConnectionRefusedError": "connection_error", "ConnectError": "connection_error",
    }.items():  # fmt: skip
        assert failure_reason(named(name)) == reason


# -- the crawl in this process, Scrapy left out


class FakeScrapy:
    """In place of `CrawlerProcess`: does to the frontier what the test says."""

    def __init__(self, settings: dict[str, Any], install_root_handler: bool) -> None:
        assert install_root_handler is False
        FakeScrapy.settings = settings

    settings: dict[str, Any]
    work: Any = staticmethod(lambda job: None)
    started = 0

    def create_crawler(self, spider: Any) -> Any:
        self.crawler = SimpleNamespace(spider=None, kind=spider)
        return self.crawler

    def crawl(self, crawler: Any, job: Any) -> None:
        self.job = job
        crawler.spider = crawler.kind(job)
        crawler.spider.crawler = SimpleNamespace(stats=SimpleNamespace(get_value=lambda name, default: 7))

    def start(self, install_signal_handlers: bool) -> None:
        assert install_signal_handlers is False
        FakeScrapy.started += 1
        type(self).work(self.job)


def crawl_here(
    monkeypatch: pytest.MonkeyPatch, out: Path, work: Any, config: SourcesConfig = CONFIG, *, dry_run: bool = False
) -> list[dict[str, Any]]:
    monkeypatch.setattr("scrapy.crawler.CrawlerProcess", FakeScrapy)
    monkeypatch.setattr(FakeScrapy, "work", staticmethod(work))
    monkeypatch.setattr(FakeScrapy, "started", 0)
    closed: list[str] = []
    for kind in (Frontier, crawl_process.WarcFiles):
        monkeypatch.setattr(
            kind, "close", lambda self, real=kind.close: (closed.append(type(self).__name__), real(self))
        )
    said: list[dict[str, Any]] = []
    job = {"config": config.model_dump(), "out": str(out), "seeds": ["http://A.org", "mailto:x", "http://b.org/"],
           "domains": ["a.org"], "allow_private": ["c.org:1"], "dry_run": dry_run}  # fmt: skip
    crawl_in_this_process(job, said.append)
    assert closed == ["WarcFiles", "Frontier"]
    return said


def store(count: int, left: int = 0) -> Any:
    def work(job: Any) -> None:
        assert job.warc.sync() == {}  # the first file is noted before the first page
        for page in job.frontier.take(count):
            job.frontier.mark_stored(page.number, "x", 10)
        for page in job.frontier.take(left):
            job.frontier.mark_left_out(page.number, "too_short")

    return work


def test_seeds_are_queued_in_their_normal_form_and_progress_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crawl_here(monkeypatch, tmp_path, store(1, 1)) == [{"stored": 1, "queued": 0}]
    frontier = Frontier(tmp_path)
    assert list(frontier.outcomes()) == ["http://a.org/", "http://b.org/"]
    assert frontier.warc_files().keys() == {"00000.warc.gz"}
    assert frontier.fact("requests") == 7
    frontier.close()
    assert FakeScrapy.settings["ALLOWED_PRIVATE"] == {("c.org", 1)}
    crawl_here(monkeypatch, tmp_path, store(0))
    frontier = Frontier(tmp_path)
    assert frontier.fact("requests") == 14  # those of the earlier part of the crawl count too
    frontier.close()


@pytest.mark.parametrize(("max_pages", "done", "fails"), [(0, 1, True), (2, 1, True), (1, 1, False), (0, 2, False)])
def test_a_crawl_that_ends_with_pages_queued_is_a_fault_unless_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pages: int, done: int, fails: bool
) -> None:
    config = CONFIG.model_copy(update={"max_pages": max_pages})
    if fails:
        with pytest.raises(RuntimeError, match="ended with 1 pages queued"):
            crawl_here(monkeypatch, tmp_path, store(done), config)
    else:
        crawl_here(monkeypatch, tmp_path, store(done), config)


def test_a_crawl_that_is_full_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"max_pages": 1})
    assert len(crawl_here(monkeypatch, tmp_path, store(1), config)) == FakeScrapy.started == 1
    assert len(crawl_here(monkeypatch, tmp_path, store(1), config)) == FakeScrapy.started == 0
    more = CONFIG.model_copy(update={"max_pages": 2})
    assert len(crawl_here(monkeypatch, tmp_path, store(1), more)) == FakeScrapy.started == 1


def test_a_fault_of_the_spider_ends_the_crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(job: Any) -> None:
        job.fault = "the traceback"
        assert job.dry_run is True
        assert job.domains == {"a.org"}

    with pytest.raises(RuntimeError, match="the traceback"):
        crawl_here(monkeypatch, tmp_path, work, dry_run=True)


def test_the_task_crawls_and_passes_on_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    handler = SimpleNamespace(setLevel=calls.append)
    logging = SimpleNamespace(
        basicConfig=lambda **options: calls.append(options["stream"]),
        getLogger=lambda: SimpleNamespace(handlers=[handler]),
        ERROR=40,
    )
    monkeypatch.setattr(crawl_process, "logging", logging)
    monkeypatch.setattr(crawl_process, "warnings", SimpleNamespace(simplefilter=calls.append))
    monkeypatch.setattr(crawl_process, "crawl_in_this_process", lambda job, say: say({"stored": job["a"]}))
    progress: Any = SimpleNamespace(say=calls.append)
    assert crawl_process.crawl_task({"a": 3}, progress) is None
    assert calls == [crawl_process.sys.stderr, 40, "ignore", {"stored": 3}]


# -- the recipe's keys

KEYS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "seeds": ([], [["http://a.org", "https://b.org"]], [["ftp://a.org"], ["http://a.org", "b.org"], "http://a.org"]),
    "paths": ([], [["x"]], ["x"]),
    "allowed_domains": ([], [["a.org"]], ["a.org"]),
    "documentation_site": (False, [True], [1]),
    "documentation_port": (8642, [1, 65535], [0, 65536]),
    "max_pages": (0, [0], [-1]),
    "min_page_chars": (200, [0], [-1]),
    "max_page_bytes": (5_000_000, [1], [0]),
    "allow_private": ([], [["a.org:1"]], ["a.org:1"]),
    "user_agent": ("tinyllama-crawler", ["x"], [1]),
    "delay_seconds": (1.0, [0.0], [-0.001]),
    "concurrency_per_host": (1, [1, 9], [0]),
    "timeout_seconds": (30.0, [0.001], [0.0]),
    "warc_bytes": (1_000_000_000, [1], [0]),
}


@pytest.mark.parametrize("key", KEYS)
def test_the_default_and_both_sides_of_every_bound(key: str) -> None:
    default, allowed, refused = KEYS[key]
    assert getattr(SourcesConfig(), key) == default
    for value in allowed:
        assert getattr(SourcesConfig.model_validate({key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError, match=key):
            SourcesConfig.model_validate({key: value})


def test_only_what_says_how_pages_are_reached_leaves_the_fingerprint() -> None:
    assert set(SourcesConfig.model_fields) == set(KEYS)
    assert set(KEYS) - set(SourcesConfig().result_values()) == {
        "allow_private", "delay_seconds", "concurrency_per_host", "timeout_seconds", "warc_bytes",
    }  # fmt: skip
