"""A docstring as HTML: reStructuredText with numpydoc's sections, read by docutils, written by a small writer here.

Docutils' own HTML writer spends most of its time on templates and transforms that a page of this site does not need.
What is not valid reStructuredText comes out as plain paragraphs and preformatted blocks, never as an error box.
"""

import re
from collections.abc import Callable
from html import escape

from docutils import nodes
from docutils.utils import Reporter

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
    pieces = []
    for title, body in split_sections(docstring):
        if title:
            pieces.append(f"<h{heading_level}>{escape(title)}</h{heading_level}>")
        if not body.strip():
            continue
        if title == "See Also":
            pieces.append(_see_also_html(body, link))
        else:
            pieces.append(_body_html(body, link, heading_level + 1))
    return "\n".join(pieces)


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


def plain_html(text: str) -> str:
    """Text that is no reStructuredText: blocks between blank lines; what is indented or aligned stays as it is."""
    pieces = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        as_it_is = any(line.startswith((" ", "\t", ">>>")) or re.search(r"\S {3,}\S", line) for line in lines)
        if as_it_is:
            pieces.append(f"<pre>{escape(block)}</pre>")
        elif block.strip():
            pieces.append(f"<p>{escape(block)}</p>")
    return "\n".join(pieces)


def _body_html(body: str, link: Link, heading_level: int) -> str:
    worst = 0

    def observe(message: nodes.system_message) -> None:
        nonlocal worst
        worst = max(worst, message["level"])

    try:
        document = parse(body, observe)
    except Exception:  # docutils fails in many ways on text that was never meant for it
        return plain_html(body)
    if worst >= Reporter.SEVERE_LEVEL:
        return plain_html(body)
    return _Writer(document, link, heading_level).html()


def _see_also_html(body: str, link: Link) -> str:
    """numpydoc's See Also: `name : what it does` or `name, name`, an indented line goes on with the one before."""
    items: list[str] = []
    for line in body.splitlines():
        if line[:1].isspace() and items:
            items[-1] += f" {line.strip()}"
        elif line.strip():
            items.append(line.strip())
    pieces = []
    for item in items:
        match = _SEE_ALSO.match(item)
        if match is None:
            pieces.append(f"<li>{escape(item)}</li>")
            continue
        names = [re.sub(r"^:\w+:|[`~]", "", name.strip()) for name in match["names"].split(",") if name.strip()]
        text = f": {escape(match['text'])}" if match["text"] else ""
        pieces.append(f"<li>{', '.join(_name_html(name, name, link) for name in names)}{text}</li>")
    return f"<ul>{''.join(pieces)}</ul>"


def _name_html(name: str, shown: str, link: Link) -> str:
    address = link(name)
    code = f"<code>{escape(shown)}</code>"
    return f'<a href="{escape(address)}">{code}</a>' if address else code


class _Writer:
    """Writes the nodes of one parsed body. Nodes without an entry in the tables are written as their children."""

    TAGS = {  # noqa: RUF012
        "paragraph": "p", "emphasis": "em", "strong": "strong", "bullet_list": "ul", "enumerated_list": "ol",
        "list_item": "li", "definition_list": "dl", "definition": "dd", "block_quote": "blockquote", "field_list": "dl",
        "field_name": "dt", "field_body": "dd", "table": "table", "thead": "thead", "tbody": "tbody", "row": "tr",
        "entry": "td", "subscript": "sub", "superscript": "sup", "attribution": "p",
        "option_list": "dl", "option_group": "dt", "description": "dd", "math": "code",
        "topic": "div", "line_block": "div", "line": "div", "caption": "p", "sidebar": "div",
    }  # fmt: skip
    LEFT_OUT = frozenset(
        ("comment", "target", "substitution_definition", "colspec", "image", "raw", "pending", "meta", "decoration")
    )
    VERBATIM = frozenset(("literal_block", "doctest_block", "math_block"))

    def __init__(self, document: nodes.document, link: Link, heading_level: int) -> None:
        self._document = document
        self._link = link
        self._level = heading_level
        # `text`_ points to `.. _text: address` anywhere in the body.
        self._targets = {
            name: target["refuri"]
            for target in document.findall(nodes.target)
            for name in target["names"]
            if "refuri" in target
        }

    def html(self) -> str:
        """The whole body."""
        return self._children(self._document)

    def _children(self, node: nodes.Element) -> str:
        return "".join(self._write(child) for child in node.children)

    def _write(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.Text):
            return escape(str(node), quote=False)
        assert isinstance(node, nodes.Element)
        kind = node.tagname
        if kind in self.LEFT_OUT:
            return ""
        special = getattr(self, f"_{kind}", None)
        if special is not None:
            return special(node)
        if kind in self.VERBATIM:
            return f"<pre>{escape(node.astext(), quote=False)}</pre>\n"
        if isinstance(node, nodes.Admonition):
            title = "" if kind == "admonition" else f"<p><strong>{kind.capitalize()}</strong></p>"
            return f'<div class="{kind}">{title}{self._children(node)}</div>\n'
        tag = self.TAGS.get(kind)
        inner = self._children(node)
        if tag is None:
            return inner
        return f"<{tag}>{inner}</{tag}>{'' if isinstance(node, nodes.Inline) else chr(10)}"

    def _system_message(self, node: nodes.Element) -> str:
        # The message is docutils'; the text that it could not place (unknown directive, bad table) is the author's.
        return "".join(f"<pre>{escape(block.astext())}</pre>\n" for block in node.findall(nodes.literal_block))

    def _section(self, node: nodes.Element) -> str:
        self._level += 1
        inner = self._children(node)
        self._level -= 1
        return inner

    def _title(self, node: nodes.Element) -> str:
        if isinstance(node.parent, nodes.section):
            level = min(self._level - 1, 6)
            return f"<h{level}>{self._children(node)}</h{level}>\n"
        return f"<p><strong>{self._children(node)}</strong></p>\n"

    def _rubric(self, node: nodes.Element) -> str:
        return f"<p><strong>{self._children(node)}</strong></p>\n"

    def _term(self, node: nodes.Element) -> str:
        siblings = node.parent.children if node.parent is not None else []
        kinds = [self._children(other) for other in siblings if isinstance(other, nodes.classifier)]
        return f"<dt>{' : '.join([self._children(node), *kinds])}</dt>\n"

    def _classifier(self, node: nodes.Element) -> str:
        return ""  # written with its term

    def _definition_list(self, node: nodes.Element) -> str:
        terms = [
            item.children[0].astext() for item in node.children if isinstance(item, nodes.Element) and item.children
        ]
        if all(len(term.split()) <= _LONGEST_TERM_WORDS or " : " in term for term in terms):
            return f"<dl>{self._children(node)}</dl>\n"
        # Sentences with a hanging indent, which docutils takes for terms and definitions.
        return "".join(self._hanging_paragraph(item) for item in node.findall(nodes.definition_list_item))

    def _hanging_paragraph(self, item: nodes.Element) -> str:
        heads = [self._children(child) for child in item.children if isinstance(child, nodes.term)]
        heads += [f": {self._children(child)}" for child in item.children if isinstance(child, nodes.classifier)]
        bodies = [child for child in item.children if isinstance(child, nodes.definition)]
        inner = [block for body in bodies for block in body.children]
        first = inner[0] if inner else None
        if isinstance(first, nodes.paragraph):
            heads.append(self._children(first))
            inner = inner[1:]
        return f"<p>{' '.join(heads)}</p>\n" + "".join(self._write(block) for block in inner)

    def _title_reference(self, node: nodes.Element) -> str:
        name = node.astext()  # numpydoc's plain `name`
        return _name_html(name, name, self._link)

    def _literal(self, node: nodes.Element) -> str:
        text = node.astext()
        if "name" not in node.get("classes", ()):
            return f"<code>{escape(text)}</code>"
        target = node.get("target", text)
        shown = text.rsplit(".", 1)[-1] if text.startswith("~") else text
        return _name_html(target.lstrip("~!"), shown.lstrip("~!"), self._link)

    def _reference(self, node: nodes.Element) -> str:
        address = node.get("refuri") or self._targets.get(node.get("refname", ""), "")
        if address.startswith(("http://", "https://")):
            return f'<a href="{escape(address)}">{self._children(node)}</a>'
        # No target: `coef_` is a name that only looks like a reference.
        raw = node.rawsource
        return escape(raw if raw and not raw.startswith("`") else node.astext(), quote=False)

    def _footnote_reference(self, node: nodes.Element) -> str:
        return f"[{escape(node.astext())}]"

    _citation_reference = _footnote_reference

    def _footnote(self, node: nodes.Element) -> str:
        label = node.children[0] if node.children else None
        if not isinstance(label, nodes.label):
            return self._children(node)
        rest = [child.children if isinstance(child, nodes.paragraph) else [child] for child in node.children[1:]]
        text = " ".join("".join(self._write(child) for child in children) for children in rest)
        return f"<p>[{escape(label.astext())}] {text}</p>\n"

    _citation = _footnote

    def _line(self, node: nodes.Element) -> str:
        return f"{self._children(node)}<br>\n"

    def _substitution_reference(self, node: nodes.Element) -> str:
        return f"|{escape(node.astext())}|"

    def _transition(self, node: nodes.Element) -> str:
        return "<hr>\n"
