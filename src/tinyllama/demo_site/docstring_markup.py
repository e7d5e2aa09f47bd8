"""The reStructuredText that scientific docstrings are written in: docutils plus Sphinx's common directives and roles.

Docutils knows neither `.. versionadded::` nor `:func:`. Here they become plain nodes; what only steers a documentation
builder is dropped. File insertion and raw HTML are off: a docstring cannot read files or inject markup.
"""

import re
from collections.abc import Callable
from typing import Any

from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Directive, Parser, directives, roles
from docutils.utils import new_document
from docutils.writers.html5_polyglot import Writer

_NAME_ROLES = """
any attr class const data exc func keyword meth method mod obj option program pep envvar file command
"""
_WORDS_ROLES = "abbr arxiv doc doi dfn eq numref ref term user issue pr"
_DOMAINS = ("py", "math", "std", "c", "external+neps", "external+python")
_IGNORED_DIRECTIVES = """
currentmodule module moduleauthor sectionauthor automodule autoclass automethod autofunction toctree index
testsetup testcleanup highlight plot tabularcolumns minigallery
"""
_NOTES = {
    "versionadded": "New in version",
    "versionchanged": "Changed in version",
    "versionremoved": "Removed in version",
    "deprecated": "Deprecated since version",
    "legacy": "Legacy",
    "seealso": "See also",
}
_CODE_BLOCKS = ("code-block", "sourcecode", "ipython", "doctest", "testcode")


class _Ignored(Directive):
    has_content, optional_arguments, final_argument_whitespace = True, 100, True

    def run(self) -> list[nodes.Node]:
        return []


class _Note(Directive):
    """A version note or a see-also box: a first line in bold, then the content."""

    has_content, optional_arguments, final_argument_whitespace = True, 1, True

    def run(self) -> list[nodes.Node]:
        version, _, rest = (self.arguments[0] if self.arguments else "").partition(" ")
        label = _NOTES[self.name]
        if "version" in label:
            label = f"{label} {version}"
        else:
            rest = " ".join([version, rest]).strip()
        box = nodes.admonition("", nodes.title("", label))
        children, messages = self.state.inline_text(rest, self.lineno) if rest.strip() else ([], [])
        if children:
            box += nodes.paragraph(rest, "", *children)
        self.state.nested_parse(self.content, self.content_offset, box)
        return [box, *messages]


class _CodeBlock(Directive):
    has_content, optional_arguments, final_argument_whitespace = True, 1, True
    option_spec = dict.fromkeys(("linenos", "caption", "name", "emphasize-lines", "dedent"), directives.unchanged)

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        return [nodes.literal_block(text, text)]


class _Summary(Directive):
    """Autosummary: a list of names."""

    has_content = True
    option_spec = dict.fromkeys(
        ("toctree", "template", "nosignatures", "recursive", "signatures"), directives.unchanged
    )

    def run(self) -> list[nodes.Node]:
        entries = nodes.bullet_list()
        for line in self.content:
            if name := line.strip():
                word, _, rest = name.partition(" ")
                name_node = nodes.title_reference(word, word)
                entries += nodes.list_item("", nodes.paragraph("", "", name_node, nodes.Text(f" {rest}")))
        return [entries]


def _name_role(role: str, rawtext: str, text: str, *_: Any) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """A name to link: `text`, `~package.text` or `text <target>`."""
    shown, target = _split_target(text)
    shown = shown.rsplit(".", 1)[-1] if shown.startswith("~") else shown
    return [nodes.title_reference(rawtext, shown.lstrip("~!"), target=target.lstrip("~!"))], []


def _words_role(role: str, rawtext: str, text: str, *_: Any) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """Plain words: `text` or `text <target>`."""
    return [nodes.inline(rawtext, _split_target(text)[0])], []


def _split_target(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.+?)\s*<([^>]+)>", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, text)


def _register() -> None:
    names = dict.fromkeys(_IGNORED_DIRECTIVES.split(), _Ignored) | dict.fromkeys(_NOTES, _Note)
    names |= dict.fromkeys(_CODE_BLOCKS, _CodeBlock) | {"autosummary": _Summary}
    for name, directive in names.items():
        directives.register_directive(name, directive)
    for role, known in ((_name_role, _NAME_ROLES), (_words_role, _WORDS_ROLES)):
        for name in known.split():
            for full in (name, *(f"{domain}:{name}" for domain in _DOMAINS)):
                roles.register_local_role(full, role)  # pyright: ignore[reportArgumentType] (its type forbids plain text)


_register()
_SETTINGS = get_default_settings(Parser(), Writer())
_SETTINGS.stylesheet_path = []
_SETTINGS.compact_lists = _SETTINGS.compact_field_lists = False  # a class for style sheets that is costly to find
_SETTINGS.report_level = _SETTINGS.halt_level = 5
_SETTINGS.file_insertion_enabled = False
_SETTINGS.raw_enabled = False
_SETTINGS.syntax_highlight = "none"
_SETTINGS.line_length_limit = 100_000


def parse(text: str, observer: Callable[[nodes.system_message], None]) -> nodes.document:
    """The node tree of `text`, no transforms applied; every complaint of the parser goes to `observer`."""
    document = new_document("docstring", _SETTINGS)
    document.reporter.attach_observer(observer)
    Parser().parse(text, document)
    return document
