"""The parent of the crawl process and of the site's: what they are given, what is made of their answers, how they end."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinyllama.demo_site import docstring_markup, python_docs
from tinyllama.demo_site.docstring_html import docstring_html
from tinyllama.errors import InputError
from tinyllama.sources import crawl as crawl_module
from tinyllama.sources import crawl_process
from tinyllama.sources.crawl import _run_child
from tinyllama.sources.document import Document, document_id
from tinyllama.sources.sources_config import SourcesConfig

CONFIG = SourcesConfig(seeds=["http://a.org/x"], max_pages=9)


class Child:
    """In place of the process: its answers, and what it was given."""

    answers: list[dict[str, Any]]
    started: list["Child"]

    def __init__(self, command: list[str], **pipes: Any) -> None:
        self.command, self.pipes, self.killed, self.given = command, pipes, 0, ""
        lines = "".join(json.dumps(answer) + "\n" for answer in Child.answers)
        self.stdin: Any = SimpleNamespace(write=self._take, flush=lambda: None)
        self.stdout: Any = io.StringIO(lines)
        Child.started.append(self)

    def _take(self, text: str) -> None:
        if not Child.answers:
            raise BrokenPipeError
        self.given += text

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None: ...

    def kill(self) -> None:
        self.killed += 1

    def wait(self) -> int:
        return -9


class Bar:
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, done: int, words: str) -> None:
        self.seen.append((done, words))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the progress line was told."""
    found: list[Any] = []
    clock = iter([100.0, 102.0, 104.0, 105.0, 106.0])
    monkeypatch.setattr(crawl_module.subprocess, "Popen", Child)
    monkeypatch.setattr(Child, "started", [], raising=False)
    monkeypatch.setattr(crawl_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(crawl_module.log, "progress", lambda *words: found.append(words) or Bar(found))
    return found


def run(monkeypatch: pytest.MonkeyPatch, out: Path, answers: list[dict[str, Any]], **options: Any) -> Child:
    monkeypatch.setattr(Child, "answers", answers, raising=False)
    _run_child(options.pop("config", CONFIG), out, ["http://A.org/x"], ["b.org:1"], **options)
    return Child.started[-1]


def test_the_process_is_given_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[Any]) -> None:
    out = tmp_path / "new"
    for look in (False, True):
        child = run(monkeypatch, out, [{"done": True}], only_look=look)
        assert json.loads(child.given) == {
            "config": CONFIG.model_dump(), "out": str(out), "seeds": ["http://A.org/x"], "domains": ["a.org"],
            "allow_private": ["b.org:1"], "dry_run": look,
        }  # fmt: skip
        assert child.command[-2:] == ["-m", "tinyllama.sources.crawl_process"]
        assert child.pipes["text"] is True
        assert child.pipes["stderr"].name == str(out / "crawl.log")
        assert child.killed == 1
    assert seen == [("crawl", 9)] * 2


def test_progress_is_counted_from_where_this_part_of_the_crawl_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[Any]
) -> None:
    answers = [{"stored": 50, "queued": 7}, {"stored": 62, "queued": 9}, {"stored": 100, "queued": 0}, {"done": True}]
    run(monkeypatch, tmp_path, answers, config=CONFIG.model_copy(update={"max_pages": 0}))
    assert seen == [
        ("crawl", None), (50, "pages, 7 queued, 0 pages/s"), (62, "pages, 9 queued, 3 pages/s"),
        (100, "pages, 0 queued, 10 pages/s"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        ([{"stored": 1, "queued": 1}, {"error": "bad input"}], InputError, "^bad input$"),
        ([{"stored": 1, "queued": 1}], RuntimeError, "ended with code -9; .*crawl.log says why"),
        ([], RuntimeError, "ended with code -9"),
    ],
)
def test_a_process_that_does_not_say_done_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[Any],
    answers: list[dict[str, Any]],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        run(monkeypatch, tmp_path, answers)
    assert Child.started[-1].killed == 1
    assert seen[0] == ("crawl", 9)


def test_both_processes_end_with_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, code in ((crawl_process, 1), (python_docs, 0)):
        rest = [b"x", b"y", b""]
        ended: list[int] = []
        monkeypatch.setattr(module.os, "read", lambda number, size, rest=rest: rest.pop(0))
        monkeypatch.setattr(module.os, "_exit", ended.append)
        module._end_with_stdin()
        assert (ended, rest) == ([code], [])
        monkeypatch.undo()


# -- the site's process


class Server:
    """In place of the site's process: what it prints."""

    said, errors = "", ""
    started: list["Server"]

    def __init__(self, command: list[str], **pipes: Any) -> None:
        self.command, self.ended = command, []
        self.stdin = SimpleNamespace(close=lambda: self.ended.append("stdin"))
        self.stdout, self.stderr = io.StringIO(Server.said), io.StringIO(Server.errors)
        Server.started.append(self)

    def kill(self) -> None:
        self.ended.append("kill")

    def wait(self) -> None:
        self.ended.append("wait")


@pytest.mark.parametrize(
    ("options", "words"),
    [({}, []), ({"exact_port": True}, ["--exact-port"]), ({"allow": ("json", "os")}, ["--allow", "json", "os"])],
)
def test_the_site_is_served_by_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: dict[str, Any], words: list[str]
) -> None:
    monkeypatch.setattr(python_docs.subprocess, "Popen", Server)
    monkeypatch.setattr(Server, "started", [], raising=False)
    for url, warned in (("http://127.0.0.1:70/", False), ("http://127.0.0.1:71/", True)):
        monkeypatch.setattr(Server, "said", f"{url}\nmore\n")
        with python_docs.documentation_site(70, **options) as found:
            assert found == url
        server = Server.started[-1]
        assert server.command[1:] == [
            "-m",
            "tinyllama.demo_site.python_docs",
            "--port",
            "70",
            "--end-with-stdin",
            *words,
        ]
        assert server.ended == ["stdin", "kill", "wait"]
        assert ("documentation_port: 70 is taken" in capsys.readouterr().err) is warned
    monkeypatch.setattr(Server, "said", "")
    for errors, message in (("first\nlast\n", "^last$"), ("", "^no message$")):
        monkeypatch.setattr(Server, "errors", errors)
        with pytest.raises(InputError, match=message), python_docs.documentation_site(70, **options):
            pass
        assert Server.started[-1].ended == ["stdin", "kill", "wait"]


@pytest.mark.parametrize(
    ("words", "port", "exact", "allow"),
    [
        ([], 8642, False, python_docs.ALLOW_LIST), (["--port", "9", "--exact-port"], 9, True, python_docs.ALLOW_LIST),
        (["--allow", "json", "os", "--end-with-stdin"], 8642, False, ["json", "os"]),
    ],
)  # fmt: skip
def test_the_words_of_the_site_s_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    port: int,
    exact: bool,
    allow: Any,
) -> None:
    made: list[Any] = []
    watched: list[Any] = []
    server = SimpleNamespace(server_address=("127.0.0.1", port + 1), serve_forever=lambda: made.append("served"))
    monkeypatch.setattr(python_docs.sys, "argv", ["x", *words])
    monkeypatch.setattr(python_docs, "gather_in_process", lambda names: made.append(names) or [])
    monkeypatch.setattr(python_docs, "_end_with_stdin", lambda: watched.append(True))
    monkeypatch.setattr(
        python_docs,
        "make_server",
        lambda site, port, *, exact_port: made.append((len(site), port, exact_port)) or server,
    )
    python_docs.main()
    assert made == [allow, (0, port, exact), "served"]
    assert capsys.readouterr().out == f"http://127.0.0.1:{port + 1}/\n"
    assert bool(watched) is ("--end-with-stdin" in words)


def test_a_site_that_cannot_be_served_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(names: Any) -> Any:
        raise InputError("one line")

    monkeypatch.setattr(python_docs.sys, "argv", ["x"])
    monkeypatch.setattr(python_docs, "gather_in_process", fails)
    with pytest.raises(SystemExit, match=r"^one line$"):
        python_docs.main()


# -- small ones


def test_complaints_of_the_parser_reach_the_observer_and_headings_begin_at_two() -> None:
    worst: list[int] = []
    docstring_markup.parse("======\nTitle\n\ntext", lambda message: worst.append(message["level"]))
    assert worst == [3]
    assert docstring_html("T\n---\n\nS\n+++\n\nx", lambda name: None).startswith("<h2>T</h2>")


def test_an_id_is_of_source_and_text_apart() -> None:
    assert document_id("a", "b") == "59b271ae1bbcb1d3"  # sha256 of a, a zero byte, b
    assert document_id("ab", "c") != document_id("a", "bc")
    assert document_id("a", "b") != document_id("b", "a")
    assert document_id("a", "\ud800") == document_id("a", "\\ud800")
    plain = Document("i", "t", "s")
    assert (plain.kind, plain.domain, plain.language, plain.licence, plain.fetched_at) == ("web", "", "", "", "")
