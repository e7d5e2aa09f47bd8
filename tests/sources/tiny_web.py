"""A small web server for the crawler's tests: paths to answers, and a record of what was asked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = "The quick brown fox jumps over the lazy dog and then it sleeps for a while in the warm sun. "


def page(*links: str, text: str = WORDS * 5) -> bytes:
    """An HTML page with a paragraph and links."""
    anchors = "".join(f'<a href="{link}">a link</a>' for link in links)
    return f"<!DOCTYPE html><html><body><p>{text}</p>{anchors}</body></html>".encode()


@dataclass
class Answer:
    """What a path gives."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    location: str = ""
    delay_seconds: float = 0.0


@dataclass
class TinyWeb:
    """A running server: its port and every path asked for, in order."""

    port: int
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def tiny_web(answers: dict[str, Answer | bytes], delay_seconds: float = 0.0) -> Iterator[TinyWeb]:
    """Serve `answers` on a free port of 127.0.0.1; other paths are 404."""
    web = TinyWeb(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.asked.append(self.path)
            answer = answers.get(self.path, Answer(b"nothing here", 404))
            if isinstance(answer, bytes):
                answer = Answer(answer)
            time.sleep(answer.delay_seconds or delay_seconds)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            if answer.location:
                self.send_header("Location", answer.location)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        request_queue_size = 64
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            return  # a killed crawler leaves its connections open

    server = Server(("127.0.0.1", 0), Handler)
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
