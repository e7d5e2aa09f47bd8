"""What runs in the crawl's child process: Twisted's reactor runs once per process, and its memory is freed at the end."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyllama.sources.address_guard import parse_host_ports
from tinyllama.sources.frontier import Frontier
from tinyllama.sources.page_spider import CONCURRENT_REQUESTS, CrawlJob, PageSpider
from tinyllama.sources.page_urls import normal_url
from tinyllama.sources.sources_config import SourcesConfig
from tinyllama.sources.warc_writer import WarcFiles
from tinyllama.workers.worker_process import Progress

_RETRIES = 2


def scrapy_settings(config: SourcesConfig, allow_private: list[str], dry_run: bool) -> dict[str, Any]:
    """Scrapy as a polite, quiet crawler that ignores proxies and cookies."""
    from scrapy.settings import default_settings

    # Names that Scrapy has changed since 2.13.
    resolver = "TWISTED_DNS_RESOLVER" if hasattr(default_settings, "TWISTED_DNS_RESOLVER") else "DNS_RESOLVER"
    jitter = (
        "DOWNLOAD_DELAY_JITTER" if hasattr(default_settings, "DOWNLOAD_DELAY_JITTER") else "RANDOMIZE_DOWNLOAD_DELAY"
    )
    here = "tinyllama.sources"
    middlewares: dict[Any, int | None] = {
        "scrapy.downloadermiddlewares.robotstxt.RobotsTxtMiddleware": None,
        f"{here}.page_spider.Robots": 100,
        "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware": None,  # the frontier decides
        "scrapy.downloadermiddlewares.httpauth.HttpAuthMiddleware": None,
    }
    if dry_run:
        middlewares[f"{here}.page_spider.StopBeforePages"] = 101
    unused = ("httperror.HttpError", "referer.Referer", "urllength.UrlLength", "depth.Depth")
    return {
        "ROBOTSTXT_OBEY": True,
        "ROBOTSTXT_PARSER": "scrapy.robotstxt.ProtegoRobotParser",
        "USER_AGENT": config.user_agent,
        "ROBOTSTXT_USER_AGENT": config.user_agent,
        resolver: f"{here}.address_guard.AddressGuard",
        "ALLOWED_PRIVATE": parse_host_ports(allow_private),
        "HTTPPROXY_ENABLED": False,  # a proxy would resolve names behind the guard's back
        "COOKIES_ENABLED": False,
        "REDIRECT_MAX_TIMES": 5,  # for robots.txt only; pages' redirects go through the frontier
        "DOWNLOADER_MIDDLEWARES": middlewares,
        "SPIDER_MIDDLEWARES": {f"scrapy.spidermiddlewares.{name}Middleware": None for name in unused},
        "DOWNLOAD_DELAY": config.delay_seconds,
        jitter: 0,
        "CONCURRENT_REQUESTS": 2 * CONCURRENT_REQUESTS,  # the spider keeps both limits
        "CONCURRENT_REQUESTS_PER_DOMAIN": config.concurrency_per_host,
        "CONCURRENT_ITEMS": 1,  # tasks that Scrapy starts for each response
        "DOWNLOAD_TIMEOUT": config.timeout_seconds,
        "DOWNLOAD_MAXSIZE": config.max_page_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "RETRY_TIMES": _RETRIES,
        "SCHEDULER_MEMORY_QUEUE": "scrapy.squeues.FifoMemoryQueue",
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "ERROR",
        "STATS_DUMP": False,
        "EXTENSIONS": {"scrapy.extensions.logstats.LogStats": None, "scrapy.extensions.memusage.MemoryUsage": None},
    }


def crawl_task(job: dict[str, Any], progress: Progress) -> None:
    """Task: `crawl_in_this_process`, with errors logged to stderr."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger().handlers[0].setLevel(logging.ERROR)  # loggers' own levels are reset by Scrapy
    warnings.simplefilter("ignore")
    crawl_in_this_process(job, progress.say)


def crawl_in_this_process(job: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Crawl until the frontier is empty or `max_pages` are stored; says `stored` and `queued` after each commit.

    `job`: config, out, seeds, domains, allow_private, dry_run. Raises RuntimeError for an error in this program.
    """
    from scrapy.crawler import CrawlerProcess

    config = SourcesConfig.model_validate(job["config"])
    out = Path(job["out"])
    settings = scrapy_settings(config, job["allow_private"], job["dry_run"])
    frontier = Frontier(out)
    frontier.add(url for seed in job["seeds"] if (url := normal_url(seed)) is not None)
    warc = WarcFiles(out, frontier.warc_files(), config.warc_bytes, config.user_agent)
    frontier.commit(warc.sync())

    def report() -> None:
        say({"stored": frontier.states["stored"], "queued": frontier.states["queued"]})

    crawl = CrawlJob(config, frontier, warc, frozenset(job["domains"]), report, job["dry_run"])
    crawl.earlier_requests = frontier.fact("requests", 0)
    if not 0 < config.max_pages <= frontier.states["stored"]:
        process = CrawlerProcess(settings, install_root_handler=False)
        crawler = process.create_crawler(PageSpider)
        process.crawl(crawler, job=crawl)
        process.start(install_signal_handlers=False)
        if crawl.fault:
            raise RuntimeError(crawl.fault)
        assert isinstance(crawler.spider, PageSpider)
        crawler.spider.commit()
        full = 0 < config.max_pages <= frontier.states["stored"]
        if frontier.states["queued"] and not full:
            raise RuntimeError(f"the crawl ended with {frontier.states['queued']} pages queued")
    warc.close()
    frontier.close()
