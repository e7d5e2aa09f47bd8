"""The documentation site from a few entries made by hand: addresses, lists, neighbours, links, search."""

import re

import pytest

from tinyllama.demo_site.docs_gather import Docstring, Entry
from tinyllama.demo_site.docs_pages import DocumentationSite

ENTRIES = [
    Entry("pkg", "module", "pkg", (Docstring("", "", "The package. See `add` and `Class`."),)),
    Entry("pkg.Class", "class", "pkg", (
        Docstring("", "Class(a<b)", "A class.\n\nIts own `add`, `sub.deep()`, `json.dumps` & `nothing`."),
        Docstring("run", "run(x)", "Runs.\n\nNotes\n-----\nBelow."), Docstring("size", "", "The size"))),
    Entry("pkg.add", "function", "pkg", (Docstring("", "add(a, b)", "Adds two numbers.\nMore."),)),
    Entry("pkg.bare", "function", "pkg", (Docstring("", "", "No full stop"),)),
    Entry("pkg.sub", "module", "pkg.sub", (Docstring("", "", ""),)),
    Entry("pkg.sub.deep", "function", "pkg.sub", (Docstring("", "deep()", "Uses `add` and `deep`."),)),
    Entry("lone.f<g", "function", "lone", (Docstring("", "", "Its module has no page, `add`."),)),
    Entry("json.dumps", "function", "json", (Docstring("", "", "Text."),)),
    Entry("topics.if", "topic", "topics", (Docstring("", "", "The if statement."),)),
]  # fmt: skip


@pytest.fixture(scope="module")
def site() -> DocumentationSite:
    return DocumentationSite(ENTRIES)


def body(site: DocumentationSite, path: str, status: int = 200, kind: str = "text/html") -> str:
    reply = site.reply(path)
    assert (reply.status, reply.content_type) == (status, f"{kind}; charset=utf-8")
    return reply.body.decode()


def links(text: str) -> list[str]:
    return re.findall(r'href="([^"]*)"', text)


def part(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0]


def test_the_fixed_pages(site: DocumentationSite) -> None:
    assert len(site) == 9
    robots = body(site, "/robots.txt", kind="text/plain")
    assert robots == "User-agent: *\nDisallow: /search\nDisallow: /_sources/\n"
    assert "font" in body(site, "/site.css", kind="text/css")
    assert "Page not found" in body(site, "/reference/pkg/none.html", 404)
    top = part(body(site, "/"), "<main>", "</main>")
    assert links(top) == ["/reference/pkg/index.html", "/reference/pkg.sub/index.html", "/reference/topics/index.html"]
    assert ">pkg.sub</a>" in top
    without = DocumentationSite(ENTRIES[:3])
    assert "topics" not in body(without, "/")
    body(without, "/reference/topics/index.html", 404)


def test_a_modules_page_lists_what_it_has_with_a_summary(site: DocumentationSite) -> None:
    main = part(body(site, "/reference/pkg/index.html"), "<article>", "</article>")
    assert main.index("<h1>pkg</h1>") < main.index("The package.") < main.index("<h2>Classes</h2>")
    classes, functions = main.split("<h2>Classes</h2>")[1].split("<h2>Functions</h2>")
    assert classes.strip() == (
        '<ul class="index"><li><a href="/reference/pkg/Class.html">Class</a> – A class.</li></ul>'
    )
    assert functions.strip() == (
        '<ul class="index"><li><a href="/reference/pkg/add.html">add</a> – Adds two numbers.</li>'
        '<li><a href="/reference/pkg/bare.html">bare</a></li></ul>'
    )
    assert "Topics" not in main
    topics = body(site, "/reference/topics/index.html")
    assert "<h1>Topics</h1><h2>Topics</h2>" in topics
    assert '<li><a href="/reference/topics/if.html">if</a> – The if statement.</li>' in topics
    assert "<h1>if</h1>" in body(site, "/reference/topics/if.html")


def test_a_class_has_its_signature_and_its_methods(site: DocumentationSite) -> None:
    main = part(body(site, "/reference/pkg/Class.html"), "<article>", "</article>")
    assert "<h1>pkg.Class</h1>" in main
    assert '<pre class="signature">Class(a&lt;b)</pre>' in main
    methods = main.split("<h2>Methods</h2>")[1]
    assert '<h3 id="run">run</h3>\n<pre class="signature">run(x)</pre>' in methods
    assert "<h4>Notes</h4>" in methods
    assert methods.count('class="signature"') == 1
    assert methods.index("Runs.") < methods.index('<h3 id="size">size</h3>') < methods.index("The size")
    function = body(site, "/reference/pkg/add.html")
    assert "Methods" not in function
    assert "<h2>Classes" not in function


def test_names_link_to_what_stands_beside_them_in_their_package_or_by_full_name(site: DocumentationSite) -> None:
    main = part(body(site, "/reference/pkg/Class.html"), "<article>", "</article>")
    assert links(main) == ["/reference/pkg/add.html", "/reference/pkg.sub/deep.html", "/reference/json/dumps.html"]
    assert "<code>nothing</code>" in main
    deep = part(body(site, "/reference/pkg.sub/deep.html"), "<article>", "</article>")
    assert links(deep) == ["/reference/pkg/add.html", "/reference/pkg.sub/deep.html"]
    assert links(part(body(site, "/reference/lone/f%3Cg.html"), "<article>", "</article>")) == []


def test_the_trail_the_sidebar_the_neighbours_and_the_source_of_a_page(site: DocumentationSite) -> None:
    page = body(site, "/reference/pkg/add.html")
    trail = part(page, 'class="breadcrumbs">', "</nav>")
    assert trail == '<a href="/">Home</a> » <a href="/reference/pkg/index.html">pkg</a> » pkg.add'
    assert links(part(page, '<aside class="sidebar">', "</aside>")) == [
        "/reference/pkg/Class.html", "/reference/pkg/add.html", "/reference/pkg/bare.html",
    ]  # fmt: skip
    related = part(page, '<nav class="related">', "</nav>")
    assert related == (
        '<a rel="prev" href="/reference/pkg/Class.html">Previous</a> | '
        '<a rel="next" href="/reference/pkg/bare.html">Next</a>'
    )
    assert part(page, "<footer>", "</footer>") == '<a href="/_sources/pkg/add.txt">Show source</a>'
    first = part(body(site, "/reference/pkg/index.html"), '<nav class="related">', "</nav>")
    assert (first.count("<a "), 'rel="next"' in first) == (1, True)
    last = part(body(site, "/reference/topics/if.html"), '<nav class="related">', "</nav>")
    assert (last.count("<a "), 'rel="prev"' in last) == (1, True)
    lone = body(site, "/reference/lone/f%3Cg.html")
    assert part(lone, 'class="breadcrumbs">', "</nav>") == '<a href="/">Home</a> »  » lone.f&lt;g'
    assert "<title>lone.f&lt;g – " in lone
    topics = body(site, "/reference/topics/index.html")
    assert part(topics, '<nav class="related">', "</nav>") == part(topics, "<footer>", "</footer>") == ""


def test_the_sidebar_shows_eight_names_on_each_side() -> None:
    many = [Entry(f"m.f{n:02d}", "function", "m", (Docstring("", "", "Text."),)) for n in range(30)]
    site = DocumentationSite(many)
    for here, first, last in ((0, 0, 8), (7, 0, 15), (8, 0, 16), (9, 1, 17), (20, 12, 28), (29, 21, 29)):
        sidebar = part(body(site, f"/reference/m/f{here:02d}.html"), '<aside class="sidebar">', "</aside>")
        assert links(sidebar) == [f"/reference/m/f{n:02d}.html" for n in range(first, last + 1)]


def test_sources_and_search(site: DocumentationSite) -> None:
    source = body(site, "/_sources/pkg/Class.txt", kind="text/plain")
    assert source.startswith("A class.\n\nIts own")
    assert source.endswith("`nothing`.\n\nRuns.\n\nNotes\n-----\nBelow.\n\nThe size")
    body(site, "/_sources/pkg/none.txt", 404)
    found = part(body(site, "/search?q=PKG+e"), "<main>", "</main>")
    assert links(found) == ["/reference/pkg/bare.html", "/reference/pkg.sub/deep.html"]
    assert "<h1>Search: PKG e</h1>" in found
    assert links(part(body(site, "/search?q="), "<main>", "</main>")) == []
    assert links(part(body(site, "/search?q=%3Cnone"), "<main>", "</main>")) == []
    many = DocumentationSite([Entry(f"m.f{n}", "function", "m", (Docstring("", "", "Text."),)) for n in range(105)])
    assert len(links(part(body(many, "/search?q=f"), "<main>", "</main>"))) == 100
