"""What the spider asks for, when Scrapy takes from the answers to several pages in turns."""

from types import SimpleNamespace
from typing import Any

import pytest

from tinyllama.sources.frontier import QueuedPage
from tinyllama.sources.page_spider import PageSpider
from tinyllama.sources.sources_config import SourcesConfig


def spider_over(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> PageSpider:
    """A spider whose frontier hands out these pages once."""
    waiting = [QueuedPage(number, url, 0) for number, url in enumerate(urls)]

    def take(count: int) -> list[QueuedPage]:
        taken, waiting[:] = waiting[:count], waiting[count:]
        return taken

    job: Any = SimpleNamespace(config=SourcesConfig(concurrency_per_host=8), frontier=SimpleNamespace(take=take))
    monkeypatch.setattr(PageSpider, "guard", lambda self: None)
    return PageSpider(job)


def test_answers_taken_in_turns_ask_for_every_page_once(monkeypatch: pytest.MonkeyPatch):
    urls = [f"https://{host}.example/{number}" for host in "ab" for number in range(3)]
    spider = spider_over(urls, monkeypatch)
    first = iter(spider._feed())
    asked = [next(first).url]
    asked += [request.url for request in spider._feed()]
    asked += [request.url for request in first]
    assert sorted(asked) == sorted(urls)
    assert spider._waiting == {}


def test_a_host_gets_no_more_than_its_share_at_once(monkeypatch: pytest.MonkeyPatch):
    spider = spider_over([f"https://a.example/{number}" for number in range(20)], monkeypatch)
    assert len(spider._feed()) == 8
    assert spider._feed() == []
    spider._in_flight["a.example"] -= 3
    assert [request.url for request in spider._feed()] == [f"https://a.example/{number}" for number in (8, 9, 10)]
