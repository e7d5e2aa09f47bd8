import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_web import WORDS, Answer, TinyWeb, page, tiny_web
from warcio.archiveiterator import ArchiveIterator

from tinyllama.errors import InputError, RecipeError
from tinyllama.sources.crawl import crawl, dry_run
from tinyllama.sources.frontier import Frontier
from tinyllama.sources.sources_config import SourcesConfig
from tinyllama.sources.warc import read_warc


def config_for(web: TinyWeb, **values: Any) -> SourcesConfig:
    defaults = {"seeds": [web.url], "allow_private": [web.place], "delay_seconds": 0.0, "concurrency_per_host": 4}
    return SourcesConfig(**{**defaults, **values})


def stored(out: Path) -> set[tuple[str, str]]:
    """(URL, payload digest) of every response, each digest checked by warcio."""
    found = []
    for path in sorted(out.glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):  # pyright: ignore[reportArgumentType]
                if record.rec_type == "response":
                    record.content_stream().read()
                    headers = record.rec_headers
                    found.append((headers["WARC-Target-URI"], headers["WARC-Payload-Digest"]))
    assert len(found) == len(set(found)), "a page was written twice"
    return set(found)


def fates(out: Path) -> Mapping[str, tuple[str, str]]:
    frontier = Frontier(out)
    try:
        return frontier.outcomes()
    finally:
        frontier.close()


def site(pages: int) -> dict[str, Answer | bytes]:
    """A page at `/` with links to all others, each of which links to the next."""
    answers: dict[str, Answer | bytes] = {"/": page(*(f"/{number}" for number in range(pages)))}
    for number in range(pages):
        answers[f"/{number}"] = page(f"/{(number + 1) % pages}", text=f"Page {number}. {WORDS * 4}")
    return answers


def test_everything_left_out_is_counted_by_its_reason(tmp_path: Path):
    answers: dict[str, Answer | bytes] = {
        "/robots.txt": Answer(b"User-agent: *\nDisallow: /secret\n", content_type="text/plain"),
        "/": page("/good", "/short", "/secret/a", "/missing", "/image", "/big", "/moved", "http://other.invalid/x"),
        "/good": page("/good#part", "/./good", text=WORDS * 6),
        "/short": page("/behind-short", text="Too short."),
        "/behind-short": page(text=WORDS * 7),
        "/secret/a": page(),
        "/image": Answer(b"\x89PNG" * 100, content_type="image/png"),
        "/big": page(text=WORDS * 500),
        "/moved": Answer(status=301, location="/target"),
        "/target": page(text=WORDS * 8),
    }
    with tiny_web(answers) as web:
        summary = crawl(config_for(web, max_page_bytes=20_000), tmp_path)
    assert summary["left_out"] == {
        "robots": 1, "too_short": 1, "http_404": 1, "not_html": 1, "too_large": 1, "redirected": 1, "domain": 1,
    }  # fmt: skip
    assert {url.removeprefix(web.url) for url, _ in stored(tmp_path)} == {"", "good", "behind-short", "target"}
    assert summary["pages_stored"] == 4
    bodies = [answers[path] for path in ("/", "/good", "/behind-short", "/target")]
    assert summary["bytes_stored"] == sum(len(body) for body in bodies if isinstance(body, bytes))
    assert "/secret/a" not in web.asked
    assert web.asked.count("/good") == 1


def test_the_user_agent_of_the_config_is_the_one_robots_txt_judges(tmp_path: Path):
    answers: dict[str, Answer | bytes] = {
        "/robots.txt": Answer(
            b"User-agent: known-bot\nDisallow: /\n\nUser-agent: *\nAllow: /\n", content_type="text/plain"
        ),
        "/": page(),
    }
    with tiny_web(answers) as web:
        assert crawl(config_for(web), tmp_path / "other")["pages_stored"] == 1
        with pytest.raises(InputError, match="robots: 1"):
            crawl(config_for(web, user_agent="known-bot"), tmp_path / "known")


def test_a_robots_txt_that_fails_forbids_everything(tmp_path: Path):
    with (
        tiny_web({"/robots.txt": Answer(b"down", 503), "/": page()}) as web,
        pytest.raises(InputError, match="robots: 1"),
    ):
        crawl(config_for(web), tmp_path)


def test_private_addresses_are_refused_in_every_form(tmp_path: Path):
    with tiny_web({"/": page()}) as web:
        port = web.port
        seeds = [
            f"http://{host}:{port}/"
            for host in ("127.0.0.1", "localhost", "0x7f.1", "[::1]", "[::ffff:7f00:1]", "0.0.0.0")
        ]
        with pytest.raises(InputError, match=f"private_address: {len(seeds)}"):
            crawl(config_for(web, seeds=seeds, allow_private=[]), tmp_path)
        assert web.asked == []


def test_redirects_and_robots_txt_cannot_lead_to_a_private_address(tmp_path: Path):
    with tiny_web({"/": page(), "/robots.txt": b""}) as inner:
        answers: dict[str, Answer | bytes] = {
            "/robots.txt": Answer(status=302, location=f"{inner.url}robots.txt"),
            "/": page("/away"),
            "/away": Answer(status=302, location=inner.url),
        }
        with tiny_web(answers) as outer:
            summary = crawl(config_for(outer), tmp_path)
        assert inner.asked == []
        assert summary["left_out"] == {"redirected": 1, "private_address": 1}
        assert fates(tmp_path)[inner.url] == ("left_out", "private_address")


def test_only_the_named_port_of_a_private_host_is_allowed(tmp_path: Path):
    with tiny_web({"/": page()}) as inner, tiny_web({"/": page(inner.url)}) as outer:
        summary = crawl(config_for(outer), tmp_path)
        assert inner.asked == []
    assert summary["left_out"] == {"private_address": 1}


def test_endless_redirects_end(tmp_path: Path):
    answers: dict[str, Answer | bytes] = {f"/r{n}": Answer(status=302, location=f"/r{n + 1}") for n in range(50)}
    with tiny_web({"/": page("/r0"), **answers}) as web:
        summary = crawl(config_for(web), tmp_path)
    assert summary["left_out"] == {"redirected": 5, "too_many_redirects": 1}


def test_a_slow_page_is_given_up(tmp_path: Path):
    with tiny_web({"/": page("/slow", "/fast"), "/slow": Answer(page(), delay_seconds=3.0), "/fast": page()}) as web:
        summary = crawl(config_for(web, timeout_seconds=0.3), tmp_path)
    assert summary["left_out"] == {"timeout": 1}
    assert summary["pages_stored"] == 2


def crawl_until_killed(config: SourcesConfig, out: Path, web: TinyWeb, requests: int) -> None:
    """Crawl in another process and SIGKILL it after so many more requests."""
    code = "import sys; from pathlib import Path; from tinyllama.sources.crawl import crawl, SourcesConfig;"
    code += "crawl(SourcesConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    before = len(web.asked)
    process = subprocess.Popen([sys.executable, "-c", code, config.model_dump_json(), str(out)])
    while process.poll() is None and len(web.asked) < before + requests:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the crawl had ended before the kill"


@pytest.mark.parametrize(("max_pages", "kills"), [(0, (10, 90, 30)), (100, (80,))])
def test_a_killed_crawl_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path, max_pages: int, kills: tuple[int, ...]):
    with tiny_web(site(150), delay_seconds=0.01) as web:
        config = config_for(web, max_pages=max_pages, warc_bytes=20_000)
        undisturbed = crawl(config, tmp_path / "undisturbed")
        killed = tmp_path / "killed"
        for requests in kills:
            crawl_until_killed(config, killed, web, requests)
        states = [state for state, _ in fates(killed).values()]
        assert 0 < states.count("stored") < len(states), "the kills came before or after all the work"
        resumed = crawl(config, killed)
    assert stored(killed) == stored(tmp_path / "undisturbed")
    assert resumed["pages_stored"] == undisturbed["pages_stored"] == (max_pages or 151)
    assert resumed["left_out"] == undisturbed["left_out"]
    assert len(list(killed.glob("*.warc.gz"))) > 1


def test_a_cut_off_record_of_a_killed_crawl_is_removed(tmp_path: Path):
    with tiny_web(site(20)) as web:
        crawl(config_for(web, max_pages=10), tmp_path)
        before = stored(tmp_path)
        last = max(tmp_path.glob("*.warc.gz"))
        with last.open("ab") as file:
            file.write(b"\x1f\x8b\x08half a member")
        (tmp_path / "00007.warc.gz").write_bytes(b"a file that was never committed")
        assert crawl(config_for(web, max_pages=10), tmp_path)["pages_stored"] == 10
    assert stored(tmp_path) == before


def test_a_warc_file_that_lost_bytes_is_reported(tmp_path: Path):
    with tiny_web(site(5)) as web:
        crawl(config_for(web), tmp_path)
        path = tmp_path / "00000.warc.gz"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(InputError, match=r"00000.warc.gz: \d+ bytes, but the frontier records"):
            crawl(config_for(web), tmp_path)


def test_a_folder_of_another_crawl_is_refused(tmp_path: Path):
    with tiny_web(site(3)) as web:
        crawl(config_for(web), tmp_path)
        crawl(config_for(web, delay_seconds=0.001), tmp_path)  # how it is reached may change
        with pytest.raises(InputError, match="other settings"):
            crawl(config_for(web, min_page_chars=10), tmp_path)


def test_warc_files_are_read_the_same_by_warcio_and_by_us(tmp_path: Path):
    with tiny_web(site(8)) as web:
        crawl(config_for(web), tmp_path)
    ours = {(page.url, page.status) for page in read_warc(tmp_path / "00000.warc.gz")}
    assert ours == {(url, 200) for url, _ in stored(tmp_path)}
    body = next(page for page in read_warc(tmp_path / "00000.warc.gz") if page.url.endswith("/3"))
    assert body.html == site(8)["/3"]


def test_requests_to_one_host_keep_to_the_limit(tmp_path: Path):
    with tiny_web(site(30), delay_seconds=0.01) as web:
        started = time.monotonic()
        crawl(config_for(web, concurrency_per_host=1), tmp_path)
        # One after the other: 31 pages and robots.txt, 10 ms each at least. (A sleep bounds it from below, not a speed.)
        assert time.monotonic() - started > 32 * 0.01


def test_dry_run_fetches_nothing_but_robots_txt():
    answers: dict[str, Answer | bytes] = {
        "/robots.txt": Answer(b"User-agent: *\nDisallow: /no\n", content_type="text/plain"),
        "/yes": page(), "/no": page(),
    }  # fmt: skip
    with tiny_web(answers) as web:
        private = "http://127.0.0.2/"
        found = dry_run(config_for(web, seeds=[f"{web.url}yes", f"{web.url}no", private]))
        assert set(web.asked) == {"/robots.txt"}
    assert found["seeds"] == {f"{web.url}yes": "allowed", f"{web.url}no": "robots", private: "private_address"}
    assert found["domains"] == ["127.0.0.1", "127.0.0.2"]
    assert json.dumps(found)


def test_no_seeds_is_an_error_in_one_line(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"^sources.seeds: empty[^\n]*$"):
        crawl(SourcesConfig(), tmp_path)


def test_a_malformed_allow_private_entry_is_an_error_in_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"allow_private: 'localhost' is not HOST:PORT[^\n]*$"):
        crawl(SourcesConfig(seeds=["http://localhost/"], allow_private=["localhost"]), tmp_path)
