"""The `crawl` phase: fetches pages from seed addresses into WARC files, obeys robots.txt, and resumes after a kill.

The crawl runs in a child process (`crawl_process.py`, `page_spider.py`); the frontier, in SQLite, records what is done.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyllama import files, log
from tinyllama.demo_site.python_docs import documentation_site
from tinyllama.errors import InputError, RecipeError
from tinyllama.sources.frontier import Frontier
from tinyllama.sources.page_urls import host_and_port, normal_url
from tinyllama.sources.sources_config import SourcesConfig
from tinyllama.workers.child_process import ChildProcess, how_it_ended

LOG_FILE = "crawl.log"


def crawl(config: SourcesConfig, out: Path) -> dict[str, Any]:
    """Crawl into `out`: 00000.warc.gz ..., frontier.sqlite, crawl.log. A killed crawl is resumed.

    Returns pages_stored, left_out (reason: count), requests (robots.txt and retries included), bytes_stored (payloads) and
    seconds. Raises RecipeError without seeds, InputError when nothing could be stored or `out` holds another crawl.
    """
    started = time.monotonic()
    with _sites(config, _begin(config, out)) as (seeds, allow_private, site):
        if site:
            _note(out, "documentation_site", site)
        _run_child(config, out, seeds, allow_private)
    frontier = Frontier(out)
    summary = {
        "pages_stored": frontier.states["stored"],
        "left_out": dict(sorted(frontier.left_out.items())),
        "requests": frontier.fact("requests", 0),
        "bytes_stored": frontier.stored_bytes(),
        "seconds": round(time.monotonic() - started, 3),
    }
    frontier.close()
    if not summary["pages_stored"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in summary["left_out"].items()) or "no page found"
        raise InputError(f"sources.seeds: {', '.join(seeds)}: no page was kept ({reasons})")
    return summary


def dry_run(config: SourcesConfig) -> dict[str, Any]:
    """What a crawl would start with; fetches robots.txt of the seeds' hosts, no page.

    Returns seeds (URL: allowed, robots, private_address or another reason), domains, max_pages, min_page_chars,
    max_page_bytes, delay_seconds, concurrency_per_host.
    """
    with tempfile.TemporaryDirectory() as folder, _sites(config, "") as (seeds, allow_private, _):
        out = Path(folder)
        _run_child(config.model_copy(update={"max_pages": 0}), out, seeds, allow_private, only_look=True)
        frontier = Frontier(out)
        outcomes = frontier.outcomes().items()
        checked = {url: "allowed" if reason == "dry_run" else reason for url, (_, reason) in outcomes}
        frontier.close()
        limits = ("max_pages", "min_page_chars", "max_page_bytes", "delay_seconds", "concurrency_per_host")
        return {
            "seeds": checked,
            "domains": _domains(config, seeds),
            **{name: getattr(config, name) for name in limits},
        }


def _begin(config: SourcesConfig, out: Path) -> str:
    """Record these settings in `out`; returns the documentation site's URL if this crawl was started before, or ""."""
    digest = files.sha256_json(config.result_values())
    frontier = Frontier(out)
    try:
        if frontier.fact("settings", digest) != digest:
            raise InputError(f"{out}: holds a crawl with other settings; choose another folder or remove it")
        frontier.set_fact("settings", digest)
        frontier.commit({})
        return frontier.fact("documentation_site", "")
    finally:
        frontier.close()


def _note(out: Path, name: str, value: Any) -> None:
    frontier = Frontier(out)
    frontier.set_fact(name, value)
    frontier.commit({})
    frontier.close()


@contextlib.contextmanager
def _sites(config: SourcesConfig, earlier_site: str) -> Iterator[tuple[list[str], list[str], str]]:
    """(seeds, allowed HOST:PORT pairs, URL of the documentation site or "") while that site, if asked for, is served."""
    for seed in config.seeds:
        if normal_url(seed) is None:
            raise RecipeError(f"sources.seeds: {seed!r} is not a web address that can be fetched")
    if not config.documentation_site:
        if not config.seeds:
            raise RecipeError("sources.seeds: empty; give at least one URL or set sources.documentation_site = true")
        yield config.seeds, config.allow_private, ""
        return
    # A resumed crawl needs the same port: addresses already in the frontier contain it.
    port = host_and_port(earlier_site)[1] if earlier_site else config.documentation_port
    log.info("crawl: gathering the documentation of the installed packages")
    with documentation_site(port, exact_port=bool(earlier_site)) as url:
        host, port = host_and_port(url)
        yield [*config.seeds, url], [*config.allow_private, f"{host}:{port}"], url


def _domains(config: SourcesConfig, seeds: list[str]) -> list[str]:
    """Hosts that may be crawled: the given ones and the documentation site's, else the seeds'."""
    normal = [url for seed in seeds if (url := normal_url(seed)) is not None]
    hosts = [host_and_port(url)[0] for url in normal]
    if config.allowed_domains:
        hosts = [domain.lower() for domain in config.allowed_domains] + hosts[len(config.seeds) :]
    return sorted(set(hosts))


def _run_child(
    config: SourcesConfig, out: Path, seeds: list[str], allow_private: list[str], *, only_look: bool = False
) -> None:
    """Run `crawl_process` to its end, showing its progress. Raises InputError for what the user can fix."""
    job = {
        "config": config.model_dump(),
        "out": str(out),
        "seeds": seeds,
        "domains": _domains(config, seeds),
        "allow_private": allow_private,
        "dry_run": only_look,
    }
    out.mkdir(parents=True, exist_ok=True)
    answer: dict[str, Any] = {}
    with (
        (out / LOG_FILE).open("ab") as errors,
        log.progress("crawl", config.max_pages or None) as bar,
        ChildProcess(stderr=errors) as child,
    ):
        started, first = time.monotonic(), None
        for answer in child.ask("sources.crawl_process:crawl_task", job):
            if "stored" in answer:
                first = answer["stored"] if first is None else first
                speed = (answer["stored"] - first) / max(time.monotonic() - started, 0.001)
                bar.update(answer["stored"], f"pages, {answer['queued']} queued, {speed:.0f} pages/s")
    if "done" in answer:
        return
    if answer.get("error") == "TinyllamaError":
        raise RuntimeError(f"the crawl failed: {answer['message'].strip()}; {out / LOG_FILE} has the traceback")
    if "error" in answer:
        raise InputError(answer["message"])
    raise RuntimeError(f"the crawl process {how_it_ended(child.close())}; see {out / LOG_FILE}")
