"""Which objects are documented, under which name, with what text: from modules made up here."""

import inspect
import sys
from functools import lru_cache
from types import ModuleType
from typing import Any

import pytest

from tinyllama.demo_site import docs_gather, python_docs
from tinyllama.demo_site.docs_gather import Docstring, Entry, gather
from tinyllama.demo_site.docs_pages import DocumentationSite
from tinyllama.demo_site.python_docs import make_server
from tinyllama.errors import InputError

LONG = "It says in twelve words or more what the thing called here does."  # 13 words
EDGE = "one two three four five six seven eight nine ten eleven twelve"


def function(name: str, module: str, doc: str | None = LONG) -> Any:
    def made(a: int, b: int = 2) -> None:
        raise NotImplementedError

    made.__name__, made.__module__, made.__doc__ = name, module, doc
    return made


def module_of(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name, f"Module {name}.")
    vars(made).update(members)
    return made


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    class Shape:
        """A shape."""

        class Inner:
            """Not a method."""

        def area(self) -> None:
            """The area of the shape, in the unit of its sides squared."""

        @property
        def sides(self) -> int:
            """How many sides."""
            return 0

        @classmethod
        def unit(cls) -> None:
            """The shape whose side is one."""

        @staticmethod
        def known() -> None:
            """All shapes that are known."""

        def silent(self) -> None: ...

        def _hidden(self) -> None:
            """Not shown."""

        number = 7

    Shape.__module__ = "zz.deep"
    both = function("both", "zz.deep")
    stray = function("stray", "elsewhere")
    modules = {
        "zz": module_of("zz", cached=lru_cache(function("cached", "zz")), both=both,
                        Shape=Shape, own=function("own", "zz"), other=stray, _hid=function("_hid", "zz"),
                        short=function("short", "zz", "Too short."), number=3, edge=function("edge", "zz", EDGE),
                        under=function("under", "edge", EDGE.removesuffix(" twelve"))),
        "zz.deep": module_of("zz.deep", both=both, Shape=Shape, native=function("native", "_zz.x")),
        "zz.list": module_of("zz.list", __all__=["stray", "both", "missing", 5, "_private"], stray=stray, both=both,
                             unlisted=function("unlisted", "zz.list"), _private=function("_private", "zz.list")),
    }  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules


@pytest.mark.usefixtures("made_up")
def test_each_object_has_one_place() -> None:
    names = [(entry.name, entry.kind) for entry in gather(("zz.list", "zz.deep", "zz", "zz.missing"))]
    assert names == [
        ("zz", "module"), ("zz.cached", "function"), ("zz.deep", "module"), ("zz.deep.Shape", "class"),
        ("zz.deep.both", "function"), ("zz.deep.native", "function"), ("zz.edge", "function"),
        ("zz.list", "module"), ("zz.list.stray", "function"),
        ("zz.own", "function"),
    ]  # fmt: skip
    alone = {entry.name: entry.module for entry in gather(("zz",))}
    assert alone == dict.fromkeys(("zz", "zz.Shape", "zz.both", "zz.cached", "zz.edge", "zz.own"), "zz")


@pytest.mark.usefixtures("made_up")
def test_an_object_defined_elsewhere_stands_at_the_shallowest_place() -> None:
    place = {entry.name for entry in gather(("zz", "zz.list")) if entry.name.endswith("both")}
    assert place == {"zz.both"}
    assert {entry.name for entry in gather(("zz.list",))} == {"zz.list", "zz.list.both", "zz.list.stray"}


@pytest.mark.usefixtures("made_up")
def test_a_class_has_the_methods_that_it_defines_itself() -> None:
    (shape,) = [entry for entry in gather(("zz.deep",)) if entry.kind == "class"]
    assert shape == Entry(
        "zz.deep.Shape", "class", "zz.deep",
        (
            Docstring("", "Shape()", "A shape."),
            Docstring("area", "area(self) -> None", "The area of the shape, in the unit of its sides squared."),
            Docstring("known", "known() -> None", "All shapes that are known."),
            Docstring("sides", "", "How many sides."),
            Docstring("unit", "unit(cls) -> None", "The shape whose side is one."),
        ),
    )  # fmt: skip


def test_texts_are_clean_and_the_same_everywhere() -> None:
    holder = function("holder", "zz", "First \x07line.\n\n      more\x0c at 0x7f00AB.\n    tab here " + chr(0xD800))
    assert docs_gather._docstring(holder) == "First line.\n\n  more.\ntab here ?"
    assert docs_gather._docstring(function("bare", "zz", None)) == ""

    def shows(path: str = sys.executable, item: object = inspect.Parameter.empty) -> None: ...

    assert docs_gather._signature("shows", shows).startswith("shows(path: str = sys.executable, item")
    assert docs_gather._signature("odd", 3) == "odd(...)"


def test_the_language_reference_is_there_when_asked_for() -> None:
    topics = [entry for entry in gather(("topics",)) if entry.name == "topics.if"]
    assert [(entry.kind, entry.module) for entry in topics] == [("topic", "topics")]
    assert "suite" in topics[0].docstrings[0].text
    assert not [entry for entry in gather(("keyword",)) if entry.kind == "topic"]


def test_public_submodules_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["zz.a", "zz._b", "zz.tests", "zz.core.c", "zz.d.e"]
    package = module_of("zz", __path__=["somewhere"])
    monkeypatch.setitem(sys.modules, "zz", package)
    found: list[Any] = []

    def walk(path: list[str], prefix: str) -> list[Any]:
        found.append((path, prefix))
        return [type("Info", (), {"name": name}) for name in names]

    monkeypatch.setattr(docs_gather.pkgutil, "walk_packages", walk)
    assert list(docs_gather._submodules("zz")) == ["zz", "zz.a", "zz.d.e"]
    assert found == [(["somewhere"], "zz.")]
    assert list(docs_gather._submodules("no_such_package")) == []


def test_samples_in_docstrings_have_a_seed() -> None:
    import numpy as np

    plain = np.random.default_rng
    with docs_gather._seeded_examples():
        first, again, other = (np.random.default_rng(*seed).random() for seed in ((), (0,), (1,)))
    assert first == again != other
    assert np.random.default_rng is plain


def test_the_site_s_process_gathers_and_says_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    server = type(
        "Served", (), {"server_address": ("127.0.0.1", 78), "serve_forever": lambda self: seen.append("served")}
    )

    def make(site: DocumentationSite, port: int, *, exact_port: bool) -> Any:
        seen.append((len(site), port, exact_port))
        return server()

    monkeypatch.setattr(python_docs, "gather", lambda names: seen.append(names) or [])
    monkeypatch.setattr(python_docs, "make_server", make)
    progress: Any = type("Said", (), {"say": seen.append})
    python_docs.serve_task({"port": 77, "exact_port": True, "allow": ["x"]}, progress)
    assert seen == [["x"], (0, 77, True), {"url": "http://127.0.0.1:78/"}, "served"]
    for error, words in ((ValueError("bad"), "ValueError: bad"), (KeyError("k"), "KeyError: 'k'")):

        def fails(names: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(python_docs, "gather", fails)
        with pytest.raises(InputError, match=f"^documentation of the installed packages: gathering failed: {words}$"):
            python_docs.serve_task({"port": 77, "exact_port": True, "allow": ["x"]}, progress)


class FakeServer:
    """In place of the server: the ports of `taken` are."""

    taken: frozenset[int] = frozenset()
    tried: list[int]

    def __init__(self, place: tuple[str, int], handler: Any) -> None:
        import errno

        assert place[0] == "127.0.0.1"
        FakeServer.tried.append(place[1])
        if place[1] == 1:
            raise OSError(errno.EACCES, "not yours")
        if place[1] in FakeServer.taken:
            raise OSError(errno.EADDRINUSE, "taken")
        self.handler = handler


@pytest.mark.parametrize(
    ("port", "taken", "exact", "tried"),
    [(50, {50, 51}, False, 3), (50, set(range(50, 149)), False, 100), (50, set(range(50, 150)), False, -100),
     (65535, {65535}, False, -1), (50, {50}, True, -3), (50, set(), True, 1)],
)  # fmt: skip
def test_a_hundred_ports_are_tried_or_one_again_and_again(
    monkeypatch: pytest.MonkeyPatch, port: int, taken: set[int], exact: bool, tried: int
) -> None:
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(python_docs, "_Server", FakeServer)
    monkeypatch.setattr(python_docs.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(python_docs.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(FakeServer, "taken", frozenset(taken))
    monkeypatch.setattr(FakeServer, "tried", [], raising=False)
    site = DocumentationSite([])
    if tried < 0:
        with pytest.raises(InputError, match=f"documentation_port: {port} is taken"):
            make_server(site, port, exact_port=exact)
    else:
        make_server(site, port, exact_port=exact)
    assert len(FakeServer.tried) == abs(tried)
    assert FakeServer.tried == ([port] * abs(tried) if exact else list(range(port, port + abs(tried))))


def test_other_errors_of_a_port_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_docs, "_Server", FakeServer)
    monkeypatch.setattr(FakeServer, "tried", [], raising=False)
    with pytest.raises(OSError, match="not yours"):
        make_server(DocumentationSite([]), 1)


def test_head_and_get_give_the_same_lengths() -> None:
    import http.client
    import threading

    server = make_server(DocumentationSite([Entry("m", "module", "m", (Docstring("", "", "The module."),))]), 23456)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        lengths = []
        for method in ("HEAD", "GET", "HEAD", "GET"):  # over one connection
            connection.request(method, "/reference/m/index.html")
            reply = connection.getresponse()
            body = reply.read()
            lengths.append((reply.status, reply.version, int(reply.headers["Content-Length"]), len(body)))
        assert {row[:3] for row in lengths} == {(200, 11, lengths[1][3])}
        assert [bool(row[3]) for row in lengths] == [False, True, False, True]
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        connection.close()
    finally:
        server.shutdown()
        server.server_close()
    assert (server.request_queue_size, server.daemon_threads) == (128, True)
