"""A docstring as HTML: split into numpydoc's sections, each parsed and written by docutils.

Docutils' transforms, which resolve references, are not run: names are linked by this site, and what only Sphinx could
resolve would become an error box. `_simplify` turns such nodes into text and links before docutils' writer sees them.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from html import escape
from typing import Any

from docutils import nodes
from docutils.utils import Reporter
from docutils.writers.html5_polyglot import HTMLTranslator

from tinyllama.demo_site.docstring_markup import parse

Link = Callable[[str], str | None]
"""From a name as an author wrote it (`numpy.add`, `add`) to its page's address, if it has one."""

# A numpydoc or reStructuredText title at the margin: one line, underlined by one repeated character.
_TITLE = re.compile(
    r"^(?:([=*#~^-])\1{2,} *\n)? ?(?P<title>\S[^\n]{0,90}?) *\n(?P<line>([=*#~^\"-])\4{2,}) *$", re.MULTILINE
)
_SEE_ALSO = re.compile(r"^(?P<names>[\w.~:`, ]+?)(?: +: *(?P<text>.*))?$", re.DOTALL)

_LONGEST_TERM_WORDS = 7


def docstring_html(docstring: str, link: Link, heading_level: int = 2) -> str:
    """HTML of one docstring; its sections get headings of `heading_level`, which ends at 6."""
    html = []
    for title, body in split_sections(docstring):
        if title:
            html.append(f"<h{heading_level}>{escape(title)}</h{heading_level}>")
        if not body.strip():
            continue
        if title == "See Also":
            html.append(_see_also_html(body, link))
        else:
            html.append(_body_html(body, link, heading_level + 1))
    return "\n".join(html)


def split_sections(docstring: str) -> list[tuple[str, str]]:
    """(title, body) of each titled section; the text before the first title has an empty one."""
    found, title, start = [], "", 0
    for match in _TITLE.finditer(docstring):
        if len(match["line"]) < len(match["title"]) - 3 and match["title"].strip().count(" ") > 3:
            continue  # a rule under a sentence, not a title
        found.append((title, docstring[start : match.start()]))
        title, start = match["title"].strip(), match.end()
    found.append((title, docstring[start:]))
    return [(title, body) for title, body in found if title or body.strip()]


def _body_html(body: str, link: Link, heading_level: int) -> str:
    worst = 0

    def observe(message: nodes.system_message) -> None:
        nonlocal worst
        worst = max(worst, message["level"])

    with suppress(Exception):  # docutils fails in many ways on text that was never meant for it
        document = parse(body, observe)
        if worst < Reporter.SEVERE_LEVEL:
            _simplify(document, link)
            writer = HTMLTranslator(document)
            writer.initial_header_level = heading_level
            for block in document.children:
                block.walkabout(writer)
            return "".join(writer.body)
    return f"<pre>{escape(body)}</pre>"


def _see_also_html(body: str, link: Link) -> str:
    """numpydoc's See Also: `name : what it does` or `name, name`; an indented line continues the line before."""
    items: list[str] = []
    for line in body.splitlines():
        if line[:1].isspace() and items:
            items[-1] += f" {line.strip()}"
        elif line.strip():
            items.append(line.strip())
    html = []
    for item in items:
        match = _SEE_ALSO.match(item)
        if match is None:
            html.append(f"<li>{escape(item)}</li>")
            continue
        names = [re.sub(r"^:\w+:|[`~]", "", name.strip()) for name in match["names"].split(",") if name.strip()]
        text = f": {escape(match['text'])}" if match["text"] else ""
        html.append(f"<li>{', '.join(_name_html(name, link) for name in names)}{text}</li>")
    return f"<ul>{''.join(html)}</ul>"


def _name_html(name: str, link: Link) -> str:
    address = link(name)
    code = f"<code>{escape(name)}</code>"
    return f'<a href="{escape(address)}">{code}</a>' if address else code


def _simplify(document: nodes.document, link: Link) -> None:
    """Replace, innermost first, every node that docutils' writer cannot write without transforms, or not as text."""
    # `text`_ points to `.. _text: address` anywhere in the body.
    targets = {
        name: target["refuri"]
        for target in document.findall(nodes.target)
        for name in target["names"]
        if "refuri" in target
    }
    for node in reversed(list(document.findall(nodes.Element))):
        new = _replacement(node, link, targets)
        if new is not None and node.parent is not None:
            node.parent.replace(node, new)


def _replacement(node: nodes.Element, link: Link, targets: dict[str, str]) -> Sequence[nodes.Node] | None:
    """The nodes to write in place of `node`, whose children are simplified already; None: `node` as it now is."""
    match node:
        case nodes.Invisible() | nodes.image() | nodes.system_message():
            # The message is docutils'; the text that it could not place (unknown directive, bad table) is the author's.
            return [nodes.generated("", "", *node.findall(nodes.literal_block))]
        case nodes.title_reference():
            return [_name_node(node, link)]
        case nodes.literal() | nodes.math():
            return [nodes.literal("", node.astext(), classes=["code"])]
        case nodes.math_block() | nodes.doctest_block():
            return [nodes.literal_block("", node.astext())]
        case nodes.reference():
            return _reference(node, targets)
        case nodes.footnote_reference() | nodes.citation_reference():
            return [nodes.Text(f"[{node.astext()}]")]
        case nodes.substitution_reference():
            return [nodes.Text(f"|{node.astext()}|")]
        case nodes.footnote() | nodes.citation():
            return _footnote(node)
        case nodes.definition_list():
            return _definition_list(node)
        case nodes.field_list():
            fields = [(nodes.term("", "", *name), nodes.definition("", *body)) for name, body in _elements(node)]
            return [nodes.definition_list("", *(nodes.definition_list_item("", *field) for field in fields))]
        case nodes.title() if not isinstance(node.parent, nodes.section):
            return [nodes.paragraph("", "", nodes.strong("", "", *node.children))]
        case nodes.Admonition():
            named = [] if isinstance(node, nodes.admonition) else [nodes.strong("", node.tagname.capitalize())]
            title = [nodes.paragraph("", "", name) for name in named]
            return [nodes.container("", *title, *node.children, classes=[node.tagname])]
        case nodes.problematic() | nodes.topic() | nodes.sidebar() | nodes.figure() | nodes.legend():
            return node.children
        case nodes.caption() | nodes.attribution():
            return [nodes.paragraph("", "", *node.children)]
    return None


def _name_node(node: nodes.Element, link: Link) -> nodes.Node:
    """A name in code type, linked to its page: numpydoc's plain `name` or one of Sphinx's roles."""
    name = node.astext()
    code = nodes.literal("", name, classes=["code"])
    address = link(node.get("target", name))
    return nodes.reference("", "", code, refuri=address) if address else code


def _reference(node: nodes.Element, targets: dict[str, str]) -> Sequence[nodes.Node] | None:
    address = node.get("refuri") or targets.get(node.get("refname", ""), "")
    if address.startswith(("http://", "https://")):
        node["refuri"] = address
        return None
    # No target: `coef_` is a name that only looks like a reference.
    raw = node.rawsource
    return [nodes.Text(raw if raw and not raw.startswith("`") else node.astext())]


def _footnote(node: nodes.Element) -> Sequence[nodes.Node]:
    label, *blocks = node.children
    if not isinstance(label, nodes.label):
        return node.children
    paragraph = nodes.paragraph("", f"[{label.astext()}]")
    for block in blocks:
        paragraph += [nodes.Text(" "), *(block.children if isinstance(block, nodes.paragraph) else [block])]
    return [paragraph]


def _definition_list(node: nodes.Element) -> Sequence[nodes.Node] | None:
    items = _elements(node)
    terms = [item[0].astext() for item in items]
    for item in items:
        term, *classifiers, _ = item.children
        for classifier in classifiers:
            term += [nodes.Text(" : "), *classifier.children]
            item.remove(classifier)
    if all(len(term.split()) <= _LONGEST_TERM_WORDS or " : " in term for term in terms):
        return None
    # Sentences with a hanging indent, which docutils takes for terms and definitions.
    return [block for item in items for block in _hanging_paragraph(*item.children)]


def _elements(node: nodes.Element) -> list[Any]:
    """The children of a list, which are elements, each with children of its own; docutils' types do not say so."""
    return [*node.children]


def _hanging_paragraph(term: nodes.Element, definition: nodes.Element) -> list[nodes.Node]:
    first, rest = nodes.paragraph("", "", *term.children), definition.children
    if rest and isinstance(rest[0], nodes.paragraph):
        first += [nodes.Text(" "), *rest[0].children]
        rest = rest[1:]
    return [first, *rest]
