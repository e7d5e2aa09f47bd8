"""Settings of where text comes from."""

from typing import Self

from pydantic import model_validator

from tinyllama.config import Config, setting


class SourcesConfig(Config):
    """`[sources]`: what is crawled and which pages are kept."""

    seeds: list[str] = setting([], "URLs where the crawl starts.")
    paths: list[str] = setting([], "Local files and folders that are cleaned too: WARC, parquet, JSON Lines.")
    allowed_domains: list[str] = setting([], "Hosts that may be crawled, subdomains included; empty: the seeds' hosts.")
    documentation_site: bool = setting(
        False, "Serve the documentation of the installed Python packages on 127.0.0.1 and crawl it as one more seed."
    )
    documentation_port: int = setting(8642, "Port of that site. URLs, and so document ids, contain it.", ge=1, le=65535)
    max_pages: int = setting(0, "Stop after this many stored pages; 0: no limit.", ge=0)
    min_page_chars: int = setting(200, "Pages with less visible text than this are left out.", ge=0)
    max_page_bytes: int = setting(5_000_000, "Pages larger than this are left out.", ge=1)
    allow_private: list[str] = setting(
        [], "HOST:PORT pairs of private addresses that may be fetched; all others are refused.", changes_result=False
    )
    user_agent: str = setting("tinyllama-crawler", "How the crawler names itself to servers and robots.txt.")
    delay_seconds: float = setting(1.0, "Seconds between two requests to one host.", changes_result=False, ge=0)
    concurrency_per_host: int = setting(1, "Requests in flight to one host.", changes_result=False, ge=1)
    timeout_seconds: float = setting(30.0, "Give up a page after this many seconds.", changes_result=False, gt=0)
    warc_bytes: int = setting(1_000_000_000, "Start a new WARC file after this many bytes.", changes_result=False, ge=1)

    @model_validator(mode="after")
    def _seeds_are_urls(self) -> Self:
        for seed in self.seeds:
            if not seed.startswith(("http://", "https://")):
                raise ValueError(f"seeds: {seed!r} is not an http or https URL")
        return self
