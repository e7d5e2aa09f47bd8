"""A real web server for the documentation of the installed Python packages: the web site that the quickstart crawls.

`python -m tinyllama.demo_site.python_docs --port N` serves it on 127.0.0.1 and prints its URL when it is ready.
"""

import argparse
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tinyllama import log
from tinyllama.demo_site.docs_gather import ALLOW_LIST, gather_in_process
from tinyllama.demo_site.docs_pages import DocumentationSite
from tinyllama.errors import InputError

_PORTS_TRIED = 100
_PATIENCE_SECONDS = 5.0  # a server whose crawl was killed may need a moment to notice and free the port


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5 the kernel drops connections under a burst
    daemon_threads = True


@contextmanager
def documentation_site(port: int, *, exact_port: bool = False, allow: tuple[str, ...] = ()) -> Iterator[str]:
    """Serve the documentation from a process of its own while the block runs; yields `http://127.0.0.1:PORT/`.

    A busy port gives way to the next free one above it, with a warning, unless `exact_port`: then InputError.
    `allow` takes the place of the whole allow-list. The server also ends when this process dies.
    """
    command = [sys.executable, "-m", "tinyllama.demo_site.python_docs", "--port", str(port), "--end-with-stdin"]
    command += ["--exact-port"] if exact_port else []
    command += ["--allow", *allow] if allow else []
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    try:
        url = server.stdout.readline().strip()
        if not url:
            message = server.stderr.read().strip().splitlines() or ["no message"]
            raise InputError(message[-1])
        if url != _url(port):
            log.warn(
                f"sources.documentation_port: {port} is taken, the site is at {url}; page URLs, and so document ids "
                "and the split, differ from those of a run with the usual port"
            )
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield url
    finally:
        server.stdin.close()
        server.kill()
        server.wait()
        server.stdout.close()


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
            return  # five thousand lines that nobody reads

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


def _end_with_stdin() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held here, would be fatal at an ordinary exit
        pass
    os._exit(0)


def main() -> None:
    """The server process."""
    parser = argparse.ArgumentParser(description="Serve the documentation of the installed Python packages.")
    parser.add_argument("--port", type=int, default=8642)
    parser.add_argument("--exact-port", action="store_true", help="fail when the port is taken")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin closes (a parent's death)")
    parser.add_argument("--allow", nargs="*", help="modules to document, in place of the whole allow-list")
    arguments = parser.parse_args()
    if arguments.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        site = DocumentationSite(gather_in_process(arguments.allow or ALLOW_LIST))
        server = make_server(site, arguments.port, exact_port=arguments.exact_port)
    except InputError as error:
        sys.exit(str(error))
    print(_url(server.server_address[1]), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
