"""A web server for the documentation of the installed Python packages: the web site that the quickstart crawls."""

import errno
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tinyllama import log
from tinyllama.demo_site.docs_gather import ALLOW_LIST, gather
from tinyllama.demo_site.docs_pages import DocumentationSite
from tinyllama.errors import InputError
from tinyllama.workers.child_process import ChildProcess, how_it_ended
from tinyllama.workers.worker_process import Progress

_PORTS_TRIED = 100
_PATIENCE_SECONDS = 5.0  # a server whose crawl was killed may need a moment to notice and free the port
# A fixed hash seed keeps the order of sets in signatures; one thread of BLAS.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5 the kernel drops connections under a burst
    daemon_threads = True


@contextmanager
def documentation_site(port: int, *, exact_port: bool = False, allow: tuple[str, ...] = ()) -> Iterator[str]:
    """Serve the documentation from a child process while the block runs; yields `http://127.0.0.1:PORT/`.

    When the port is taken, the next free one above it is used, with a warning; InputError if `exact_port`. `allow` names
    the modules to document in place of the whole allow-list.
    """
    task = {"port": port, "exact_port": exact_port, "allow": allow or ALLOW_LIST}
    with ChildProcess(environment=_ENVIRONMENT, stderr=subprocess.DEVNULL) as child:
        answer = next(child.ask("demo_site.python_docs:serve_task", task), {})
        if "url" not in answer:
            raise InputError(answer.get("message") or f"the documentation site {how_it_ended(child.close())}")
        if answer["url"] != _url(port):
            log.warn(
                f"sources.documentation_port: {port} is taken, the site is at {answer['url']}; page URLs, and so document "
                "ids and the split, differ from those of a run with the usual port"
            )
        yield answer["url"]


def serve_task(task: dict[str, Any], progress: Progress) -> None:
    """Task: gather the documentation of the modules `allow`, say the `url`, serve it until the process is killed."""
    try:
        entries = gather(task["allow"])
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"documentation of the installed packages: gathering failed: {reason}") from error
    server = make_server(DocumentationSite(entries), task["port"], exact_port=task["exact_port"])
    progress.say({"url": _url(server.server_address[1])})
    server.serve_forever()


def make_server(site: DocumentationSite, port: int, *, exact_port: bool = False) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, bound to `port` or, unless `exact_port`, to the first free one above it."""
    lock = threading.Lock()  # docutils is not thread-safe, and one interpreter renders no faster with two threads

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        server_version, sys_version = "documentation", ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            with lock:
                reply = site.reply(self.path)
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if with_body:
                self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            return  # thousands of lines that nobody reads

    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        candidates = range(port, port + 1 if exact_port else min(port + _PORTS_TRIED, 65536))
        for candidate in candidates:
            try:
                return _Server(("127.0.0.1", candidate), Handler)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        if not exact_port or time.monotonic() > deadline:
            raise InputError(f"sources.documentation_port: {port} is taken; end the program that listens there")
        time.sleep(0.1)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/"
