"""The parent of the crawl process and of the site's: what they are given, what is made of their answers, how they end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyllama.demo_site import docstring_markup, python_docs
from tinyllama.demo_site.docstring_html import docstring_html
from tinyllama.errors import InputError
from tinyllama.sources import crawl as crawl_module
from tinyllama.sources.crawl import _run_child
from tinyllama.sources.document import Document, document_id
from tinyllama.sources.sources_config import SourcesConfig

CONFIG = SourcesConfig(seeds=["http://a.org/x"], max_pages=9)


class Child:
    """In place of the process: its answers, and what it was given."""

    answers: list[dict[str, Any]]
    started: list["Child"]

    def __init__(self, **options: Any) -> None:
        self.options, self.asked, self.closed = options, [], 0
        Child.started.append(self)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, function: str, task: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((function, json.loads(json.dumps(task))))
        yield from Child.answers

    def close(self) -> int:
        self.closed += 1
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
    monkeypatch.setattr(crawl_module, "ChildProcess", Child)
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
        ((function, job),) = child.asked
        assert function == "sources.crawl_process:crawl_task"
        assert job == {
            "config": CONFIG.model_dump(), "out": str(out), "seeds": ["http://A.org/x"], "domains": ["a.org"],
            "allow_private": ["b.org:1"], "dry_run": look,
        }  # fmt: skip
        assert child.options["stderr"].name == str(out / "crawl.log")
        assert child.closed == 1
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
        ([{"stored": 1, "queued": 1}, {"error": "InputError", "message": "bad input"}], InputError, "^bad input$"),
        ([{"error": "TinyllamaError", "message": "Odd\n"}], RuntimeError, "failed: Odd; .*crawl.log has the traceback"),
        ([{"stored": 1, "queued": 1}], RuntimeError, "the crawl process was killed by SIGKILL; see .*crawl.log"),
        ([], RuntimeError, "was killed by SIGKILL"),
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
    assert Child.started[-1].closed >= 1
    assert seen[0] == ("crawl", 9)


# -- the site's process


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"exact_port": False, "allow": list(python_docs.ALLOW_LIST)}),
        ({"exact_port": True, "allow": ("json", "os")}, {"exact_port": True, "allow": ["json", "os"]}),
    ],
)
def test_the_site_is_served_by_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    monkeypatch.setattr(python_docs, "ChildProcess", Child)
    monkeypatch.setattr(Child, "started", [], raising=False)
    for url, warned in (("http://127.0.0.1:70/", False), ("http://127.0.0.1:71/", True)):
        monkeypatch.setattr(Child, "answers", [{"url": url}, {"never": "read"}], raising=False)
        with python_docs.documentation_site(70, **options) as found:
            assert found == url
        child = Child.started[-1]
        assert child.asked == [("demo_site.python_docs:serve_task", {"port": 70, **expected})]
        assert child.options["environment"] == {
            "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        assert child.closed == 1
        assert ("documentation_port: 70 is taken" in capsys.readouterr().err) is warned
    for answers, message in (
        ([{"error": "InputError", "message": "why"}], "^why$"),
        ([], "site was killed by SIGKILL$"),
    ):
        monkeypatch.setattr(Child, "answers", answers, raising=False)
        with pytest.raises(InputError, match=message), python_docs.documentation_site(70, **options):
            pass
        assert Child.started[-1].closed >= 1


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
