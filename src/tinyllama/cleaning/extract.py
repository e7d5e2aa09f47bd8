"""From an HTML page to its main text, by resiliparse, in child processes that a bad page may kill.

The parser is C code that takes quadratic time on some pages (100,000 nested elements, or as many attributes), and Python
cannot interrupt it. So a child has a limit of processor time for each page, at which the kernel ends it; the page gets the
reason `html_too_hard`, and a new child extracts the next page.
"""

import re
import threading
from typing import Any, Self

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree

from tinyllama.workers.child_process import ChildProcess
from tinyllama.workers.worker_process import Progress

TOO_HARD, NO_TEXT = "html_too_hard", "html_no_text"
_MEMORY_BYTES = 4 << 30
_CODE_START, _CODE_END = re.compile(r"<pre\b", re.IGNORECASE), re.compile(r"</pre\s{0,8}>", re.IGNORECASE)


def main_text(html: str) -> str:
    """The main content of a page as text: paragraphs, headings, lists and code, code with its line breaks.

    Resiliparse's rules remove navigation, footers and link lists. An empty string when nothing remains.
    """
    # The library puts a blank line only after paragraphs; an empty one on either side separates a block of code.
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

    The library treats any list near the body as navigation. One element only: each change costs time in proportion
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


class ExtractPool:
    """A child process for each thread that asks; a context manager that ends them all."""

    def __init__(self, page_cpu_seconds: float) -> None:
        self._page_cpu_seconds = page_cpu_seconds
        self._of_thread: dict[int, ChildProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._of_thread.values():
            child.close(patience_seconds=0)

    def text_of(self, html: str) -> tuple[str, str]:
        """(text, "") or ("", reason): `html_too_hard`, `html_no_text`."""
        thread = threading.get_ident()
        if thread not in self._of_thread:
            self._of_thread[thread] = ChildProcess(memory_bytes=_MEMORY_BYTES)
        task = {"html": html, "cpu_seconds": self._page_cpu_seconds}
        answer = self._of_thread[thread].last_answer("cleaning.extract:page_task", task)
        if "done" not in answer:
            self._of_thread.pop(thread).close(patience_seconds=0)
            return "", TOO_HARD
        return (answer["done"], "") if answer["done"].strip() else ("", NO_TEXT)


def page_task(task: dict[str, Any], progress: Progress) -> str:
    """Task: the main text of the page `html`, within `cpu_seconds` of processor time."""
    html = task["html"].encode("utf-8", "replace").decode()
    progress.limit(task["cpu_seconds"])
    return main_text(html)
