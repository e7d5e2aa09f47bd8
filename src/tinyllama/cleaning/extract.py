"""From an HTML page to its main text, by resiliparse, in worker processes that may be killed by a bad page.

The parser is C code: some pages make it quadratic (100,000 nested elements, as many attributes), and Python cannot
interrupt it. So a worker sets itself a limit of processor time before each page and the kernel ends it; the page gets
the reason `html_too_hard` and a new worker goes on with the next. Workers are plain subprocesses that speak lengths and
bytes over pipes, so that any program may call this, without a guarded main module.
"""

import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, Self

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree

TOO_HARD, NO_TEXT = "html_too_hard", "html_no_text"
_WORKER_MEMORY_BYTES = 4 << 30
_CODE_START, _CODE_END = re.compile(r"<pre\b", re.IGNORECASE), re.compile(r"</pre\s{0,8}>", re.IGNORECASE)
_LENGTH = struct.Struct("<Q")


def main_text(html: str) -> str:
    """The main content of a page as text: paragraphs, headings, lists and code, code with its line breaks.

    Navigation, footers and link lists are left out by resiliparse's rules. An empty string when nothing is left.
    """
    # The library ends only paragraphs with a blank line; an empty one on either side sets a block of code apart.
    html = _CODE_END.sub("</pre><p></p>", _CODE_START.sub("<p></p><pre", html))
    tree = HTMLTree.parse(html)
    body = tree.body
    if body is None:
        return ""
    _sink_main_content(tree, body)
    text = extract_plain_text(tree, main_content=True, preserve_formatting=True, alt_texts=False, comments=False)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def _sink_main_content(tree: HTMLTree, body: ElementNode) -> None:
    """Nest the element that a page declares as its main content deeper, so that its lists count as content.

    The library takes any list near the body for navigation. One element only: each change costs time in proportion
    to the nodes that Python holds, so changing many would be quadratic.
    """
    main = next(iter(body.get_elements_by_tag_name("main")), None)
    if main is None:
        main = next(iter(body.get_elements_by_tag_name("article")), None)
    if main is not None:
        _wrap(tree, main, "div")
        _wrap(tree, main, "div")


def _wrap(tree: HTMLTree, element: ElementNode, tag: str) -> None:
    wrapper = tree.create_element(tag)
    assert isinstance(wrapper, ElementNode)
    assert element.parent is not None
    element.parent.insert_before(wrapper, element)
    wrapper.append_child(element)


class ExtractWorker:
    """One subprocess that turns pages into text; starts at the first page, and again after a page that ended it."""

    def __init__(self, page_cpu_seconds: float) -> None:
        self._page_cpu_seconds = page_cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def text_of(self, html: str) -> tuple[str, str]:
        """(text, "") or ("", reason): `html_too_hard`, `html_no_text`."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, html)
            text = _receive(process.stdout)
        except BrokenPipeError:
            text = None
        if text is None:
            self.close()
            return "", TOO_HARD
        return (text, "") if text.strip() else ("", NO_TEXT)

    def close(self) -> None:
        """End the subprocess."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tinyllama.cleaning.extract", str(self._page_cpu_seconds)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class ExtractPool:
    """A worker for each thread that asks; a context manager that ends them all."""

    def __init__(self, page_cpu_seconds: float) -> None:
        self._page_cpu_seconds = page_cpu_seconds
        self._of_thread = threading.local()
        self._workers: list[ExtractWorker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()

    def text_of(self, html: str) -> tuple[str, str]:
        """What the calling thread's own worker answers; see `ExtractWorker.text_of`."""
        worker = getattr(self._of_thread, "worker", None)
        if worker is None:
            worker = self._of_thread.worker = ExtractWorker(self._page_cpu_seconds)
            self._workers.append(worker)
        return worker.text_of(html)


def _send(pipe: IO[bytes], text: str) -> None:
    payload = text.encode("utf-8", "replace")
    pipe.write(_LENGTH.pack(len(payload)) + payload)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> str | None:
    """One message, or None at the end of the stream."""
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    payload = pipe.read(length)
    return payload.decode("utf-8") if len(payload) == length else None


def serve(page_cpu_seconds: float) -> None:
    """A worker's life: pages on stdin, texts on stdout, until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_MEMORY_BYTES, _WORKER_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, even inside C code
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    while (html := _receive(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, page_cpu_seconds)
        text = main_text(html)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, text)


if __name__ == "__main__":
    serve(float(sys.argv[1]))
