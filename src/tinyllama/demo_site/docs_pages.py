"""The documentation web site as paths and pages: entries in, HTML out.

/                               every module and topic
/reference/MODULE/index.html    a module: its own text and a list of what it has
/reference/MODULE/NAME.html     one function, class or topic
/_sources/MODULE/NAME.txt       the docstring as written    forbidden by robots.txt
/search?q=WORDS                 titles that hold the words  forbidden by robots.txt
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tinyllama.demo_site.docs_gather import TOPICS, Docstring, Entry
from tinyllama.demo_site.docstring_html import docstring_html

SITE_NAME = "Python library documentation"
ROBOTS_TXT = "User-agent: *\nDisallow: /search\nDisallow: /_sources/\n"
STYLE_CSS = """body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:auto;padding:0 1rem}
header,footer,.breadcrumbs,.related{padding:.5rem 0;border-bottom:1px solid #ddd}.layout{display:flex;gap:2rem}
aside{flex:0 0 14rem;font-size:.9rem}main{min-width:0;flex:1}pre{background:#f6f6f6;padding:.7rem;overflow:auto}
table{border-collapse:collapse}td{border:1px solid #ddd;padding:.2rem .5rem}
"""
_NEIGHBOURS = 8  # names shown in the sidebar on each side of the page's own


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answers: status, content type, body."""

    status: int
    content_type: str
    body: bytes


class DocumentationSite:
    """Renders the page of a request path when asked; the same entries give the same bytes."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = {_address(entry): entry for entry in entries}
        self._by_name = {entry.name: address for address, entry in self._entries.items()}
        self._members: dict[str, list[str]] = defaultdict(list)
        for address, entry in self._entries.items():
            if entry.kind != "module":
                self._members[entry.module].append(address)
        self._modules = {entry.name: address for address, entry in self._entries.items() if entry.kind == "module"}
        if TOPICS in self._members:
            self._modules[TOPICS] = f"/reference/{TOPICS}/index.html"
        self._order = list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def reply(self, target: str) -> Reply:
        """The answer to `GET target`; unknown paths give a 404 page."""
        parts = urlsplit(target)
        path = unquote(parts.path)
        fixed = {"/robots.txt": ("text/plain", ROBOTS_TXT), "/site.css": ("text/css", STYLE_CSS)}
        if path in fixed:
            kind, text = fixed[path]
            return Reply(200, f"{kind}; charset=utf-8", text.encode())
        if path == "/":
            return _html(200, self._top_page())
        if path == "/search":
            return _html(200, self._search_page(parse_qs(parts.query).get("q", [""])[0]))
        if path == self._modules.get(TOPICS):
            return _html(200, self._page(TOPICS, TOPICS, path, "<h1>Topics</h1>" + self._member_lists(TOPICS)))
        if path.startswith("/_sources/") and (entry := self._entries.get(_page_of_source(path))):
            source = "\n\n".join(docstring.text for docstring in entry.docstrings)
            return Reply(200, "text/plain; charset=utf-8", source.encode())
        if entry := self._entries.get(path):
            return _html(200, self._entry_page(path, entry))
        return _html(404, _document("Page not found", "<main><h1>Page not found</h1></main>"))

    def _entry_page(self, address: str, entry: Entry) -> str:
        own, *methods = entry.docstrings
        html = [f"<h1>{escape(entry.name.removeprefix(f'{TOPICS}.'))}</h1>", *self._docstring(own, entry, 2)]
        if entry.kind == "module":
            html.append(self._member_lists(entry.name))
        if methods:
            html.append("<h2>Methods</h2>")
        for method in methods:
            html.append(f'<h3 id="{escape(method.heading)}">{escape(method.heading)}</h3>')
            html += self._docstring(method, entry, 4)
        return self._page(entry.name, entry.module, address, "\n".join(html))

    def _docstring(self, docstring: Docstring, entry: Entry, heading_level: int) -> Iterator[str]:
        if docstring.signature:
            yield f'<pre class="signature">{escape(docstring.signature)}</pre>'
        yield docstring_html(docstring.text, lambda name: self._link(name, entry), heading_level)

    def _link(self, name: str, entry: Entry) -> str | None:
        """The address that a name means on the page of `entry`: beside it, in its package, or by its full name."""
        for full in (f"{entry.module}.{name}", f"{entry.module.split('.')[0]}.{name}", name):
            address = self._by_name.get(full.removesuffix("()"))
            if address is not None:
                return quote(address)
        return None

    def _member_lists(self, module: str) -> str:
        lists = []
        for kind, title in (("class", "Classes"), ("function", "Functions"), ("topic", "Topics")):
            members = [address for address in self._members[module] if self._entries[address].kind == kind]
            if members:
                items = "".join(f"<li>{self._anchor(address)}{self._summary(address)}</li>" for address in members)
                lists.append(f'<h2>{title}</h2><ul class="index">{items}</ul>')
        return "\n".join(lists)

    def _anchor(self, address: str) -> str:
        entry = self._entries[address]
        short = entry.name if entry.kind == "module" else entry.name.removeprefix(f"{entry.module}.")
        return f'<a href="{quote(address)}">{escape(short)}</a>'

    def _summary(self, address: str) -> str:
        lines = self._entries[address].docstrings[0].text.splitlines()
        first = lines[0].strip() if lines else ""
        return f" – {escape(first)}" if first.endswith(".") else ""

    def _page(self, title: str, module: str, address: str, content: str) -> str:
        members = self._members[module]
        here = members.index(address) if address in members else 0
        near = members[max(0, here - _NEIGHBOURS) : here + _NEIGHBOURS + 1]
        sidebar = "".join(f"<li>{self._anchor(member)}</li>" for member in near)
        module_link = (
            f'<a href="{quote(self._modules[module])}">{escape(module)}</a>' if module in self._modules else ""
        )
        source = ""
        if address in self._entries:
            path = address.removeprefix("/reference").removesuffix(".html")
            source = f'<a href="/_sources{quote(path)}.txt">Show source</a>'
        return _document(
            title,
            f'<nav class="breadcrumbs"><a href="/">Home</a> » {module_link} » {escape(title)}</nav>\n'
            f'<div class="layout"><aside class="sidebar"><nav><h4>{escape(module)}</h4><ul>{sidebar}</ul></nav></aside>'
            f"<main><article>\n{content}\n</article></main></div>\n"
            f'<nav class="related">{self._related(address)}</nav>\n'
            f"<footer>{source}</footer>",
        )

    def _related(self, address: str) -> str:
        if address not in self._entries:
            return ""
        number = self._order.index(address)
        links = []
        if number > 0:
            links.append(f'<a rel="prev" href="{quote(self._order[number - 1])}">Previous</a>')
        if number + 1 < len(self._order):
            links.append(f'<a rel="next" href="{quote(self._order[number + 1])}">Next</a>')
        return " | ".join(links)

    def _top_page(self) -> str:
        items = "".join(
            f'<li><a href="{quote(self._modules[name])}">{escape(name)}</a></li>' for name in sorted(self._modules)
        )
        return _document(SITE_NAME, f"<main><h1>{SITE_NAME}</h1><h2>Modules</h2><ul>{items}</ul></main>")

    def _search_page(self, words: str) -> str:
        wanted = words.lower().split()
        found = [
            address
            for name, address in self._by_name.items()
            if wanted and all(word in name.lower() for word in wanted)
        ]
        items = "".join(f"<li>{self._anchor(address)}</li>" for address in found[:100])
        return _document("Search", f"<main><h1>Search: {escape(words)}</h1><ul>{items}</ul></main>")


def _address(entry: Entry) -> str:
    name = "index" if entry.kind == "module" else entry.name.removeprefix(f"{entry.module}.")
    return f"/reference/{entry.module}/{name}.html"


def _page_of_source(path: str) -> str:
    return "/reference" + path.removeprefix("/_sources").removesuffix(".txt") + ".html"


def _document(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)} – {SITE_NAME}</title>'
        '<link rel="stylesheet" href="/site.css"></head>\n<body>\n'
        f'<header><nav class="top"><a href="/">{SITE_NAME}</a> <form action="/search"><input name="q"></form> '
        '<a href="/search">Search</a></nav></header>\n'
        f"{body}\n</body>\n</html>\n"
    )


def _html(status: int, text: str) -> Reply:
    return Reply(status, "text/html; charset=utf-8", text.encode())
