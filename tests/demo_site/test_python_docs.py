import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tinyllama.demo_site.docs_gather import gather
from tinyllama.demo_site.docs_pages import DocumentationSite
from tinyllama.demo_site.python_docs import documentation_site
from tinyllama.errors import InputError

SUBSET = ("json", "contextlib", "argparse", "topics")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture(scope="module")
def site() -> DocumentationSite:
    return DocumentationSite(gather(SUBSET))


def reachable(site: DocumentationSite) -> dict[str, bytes]:
    """Every page that links lead to from the top page, fragments and the stylesheet aside."""
    found: dict[str, bytes] = {}
    queue = ["/"]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        reply = site.reply(path)
        assert reply.status == 200, path
        found[path] = reply.body
        if reply.content_type.startswith("text/html"):
            queue += re.findall(r'href="(/[^"#]*)"', reply.body.decode())
    return found


def test_two_gatherings_give_the_same_bytes(site: DocumentationSite):
    again = DocumentationSite(gather(SUBSET))
    assert reachable(site) == reachable(again)


@pytest.mark.full
def test_two_gatherings_of_everything_are_the_same():
    code = "from tinyllama.demo_site.docs_gather import gather; print(hash(repr(gather())))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    first, second = (subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second != b""


def test_every_entry_has_a_page_that_links_lead_to_and_no_link_is_broken(site: DocumentationSite):
    pages = [path for path in reachable(site) if path.startswith("/reference/")]
    assert len(pages) == len(site) + 1  # and the list of topics
    assert "/reference/contextlib/ExitStack.html" in pages
    assert "/reference/topics/lambda.html" in pages


def test_no_memory_address_is_shown(site: DocumentationSite):
    assert not [path for path, body in reachable(site).items() if b" at 0x" in body]


def test_where_python_lies_is_not_shown():
    """platform.architecture's default is the running executable."""
    page = DocumentationSite(gather(("platform",))).reply("/reference/platform/architecture.html").body
    assert b"executable=sys.executable" in page
    assert sys.executable.encode() not in page


def test_a_reexported_object_has_one_page():
    names = [entry.name for entry in gather(("json", "json.decoder"))]
    assert "json.decoder.JSONDecoder" in names
    assert "json.JSONDecoder" not in names


def test_the_site_is_served_over_http_with_robots_and_404():
    with documentation_site(free_port(), allow=SUBSET) as url:
        status, kind, body = fetch(f"{url}reference/json/dumps.html")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert "<h1>json.dumps</h1>" in body
        assert "<h2>" in fetch(f"{url}reference/topics/lambda.html")[2]
        status, kind, body = fetch(f"{url}robots.txt")
        assert (status, kind) == (200, "text/plain; charset=utf-8")
        for forbidden in re.findall(r"Disallow: (\S+)", body):
            assert f'href="{forbidden}' in fetch(f"{url}reference/json/dumps.html")[2]
        assert fetch(f"{url}search?q=dumps")[0] == 200
        assert "skipkeys" in fetch(f"{url}_sources/json/dumps.txt")[2]
        assert fetch(f"{url}no/such/page")[0] == 404
    with pytest.raises(urllib.error.URLError):
        fetch(url)


def test_a_busy_port_gives_way_with_a_warning_or_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tinyllama.demo_site.python_docs._PATIENCE_SECONDS", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with documentation_site(port, allow=("json",)) as url:
            assert not url.endswith(f":{port}/")
        assert "is taken" in capsys.readouterr().err
        with pytest.raises(InputError, match="is taken"), documentation_site(port, exact_port=True, allow=("json",)):
            pass


def test_the_server_dies_with_its_parent():
    port = free_port()
    code = (
        "import time; from tinyllama.demo_site.python_docs import documentation_site\n"
        f"with documentation_site({port}, allow=('json',)): print('up', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.05)
    pytest.fail("the server outlived its parent")
