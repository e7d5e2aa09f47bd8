"""Docstrings in their markup, node by node: what each becomes as HTML, written out by hand."""

import re
from typing import Any

import pytest

from tinyllama.demo_site.docstring_html import docstring_html, split_sections

CODE_BEFORE = ".. code-block:: python\n   :linenos:\n\n   x = 1 < 2\n\n   y"


def html(text: str, level: int = 2) -> str:
    return bare(docstring_html(text, lambda name: f"/{name}" if name.startswith("known") else None, level))


def bare(text: str) -> str:
    """Without what differs between versions of docutils and shows nothing: attributes other than href, line ends."""
    text = re.sub(r' (?:class|id|start|aria-level)="[^"]*"', "", text)
    return re.sub(r"\n*(</?(?:p|ul|ol|li|dl|dt|dd|div|blockquote|pre|hr|h\d|t\w+|section)\b[^>]*>)\n*", r"\1", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One & *two* **three** ``four<5``.",
         "<p>One &amp; <em>two</em> <strong>three</strong> <code>four&lt;5</code>.</p>\n"),
        ("* a\n* b", "<ul><li><p>a</p>\n</li>\n<li><p>b</p>\n</li>\n</ul>\n"),
        ("1. a\n2. b", "<ol><li><p>a</p>\n</li>\n<li><p>b</p>\n</li>\n</ol>\n"),
        ("name\n    What it is.", "<dl><dt>name</dt>\n<dd><p>What it is.</p>\n</dd>\n</dl>\n"),
        ("x : int : more\n    The x.", "<dl><dt>x : int : more</dt>\n<dd><p>The x.</p>\n</dd>\n</dl>\n"),
        ("one two three four five six seven\n    Goes on.",
         "<dl><dt>one two three four five six seven</dt>\n<dd><p>Goes on.</p>\n</dd>\n</dl>\n"),
        ("one two three four five six seven eight\n    goes on.\n\n    More.",
         "<p>one two three four five six seven eight goes on.</p>\n<p>More.</p>\n"),
        ("one two three four five six seven eight\n    * item",
         "<p>one two three four five six seven eight</p>\n<ul><li><p>item</p>\n</li>\n</ul>\n"),
        ("short\n    First.\n\none two three four five six seven eight\n    last.",
         "<p>short First.</p>\n<p>one two three four five six seven eight last.</p>\n"),
        ("`known.name` and `other`", '<p><a href="/known.name"><code>known.name</code></a> and <code>other</code></p>\n'),
        (":func:`known.f` :py:class:`~known.a.B` :meth:`!other` :obj:`shown <known.x>`",
         '<p><a href="/known.f"><code>known.f</code></a> <a href="/known.a.B"><code>B</code></a> <code>other</code> '
         '<a href="/known.x"><code>shown</code></a></p>\n'),
        (":ref:`the words <target>` :term:`plain` :std:term:`too`",
         "<p><span>the words</span> <span>plain</span> <span>too</span></p>"),
        (":math:`a < b`", "<p><code>a &lt; b</code></p>\n"),
        ("H :sub:`2` :sup:`3`", "<p>H <sub>2</sub> <sup>3</sup></p>\n"),
        ("`text <http://a.org/?a&b>`_ `ftp <ftp://a.org>`_", '<p><a href="http://a.org/?a&amp;b">text</a> ftp</p>\n'),
        ("See `text`_.\n\n.. _text: http://a.org/", '<p>See <a href="http://a.org/">text</a>.</p>\n'),
        ("The coef_ of <it>", "<p>The coef_ of &lt;it&gt;</p>\n"),
        ("See [1]_ and [Ab2]_.\n\n.. [1] First & last.\n\n   Second.\n.. [Ab2] Third.",
         "<p>See [1] and [Ab2].</p>\n<p>[1] First &amp; last. Second.</p>\n<p>[Ab2] Third.</p>\n"),
        (".. [1] First.\n\n   * item", "<p>[1] First. <ul><li><p>item</p>\n</li>\n</ul>\n</p>\n"),
        ("| one\n| two", "<div><div>one</div><div>two</div></div>"),
        ("above\n\n-----\n\nbelow", "<p>above</p><hr /><p>below</p>"),
        ("|name| here", "<p>|name| here</p>\n"),
        ("Code::\n\n    a < 'b'\n", "<p>Code:</p>\n<pre>a &lt; 'b'</pre>\n"),
        (">>> 1 < 2\nTrue", "<pre>&gt;&gt;&gt; 1 &lt; 2\nTrue</pre>\n"),
        (CODE_BEFORE, "<pre>x = 1 &lt; 2\n\ny</pre>\n"),
        (".. math::\n\n   a < b", "<pre>a &lt; b</pre>\n"),
        (".. note:: Mind it.", '<div class="note"><p><strong>Note</strong></p><p>Mind it.</p>\n</div>\n'),
        (".. versionadded:: 1.2 Of *late*.\n\n   More.",
         '<div class="admonition"><p><strong>New in version 1.2</strong></p>\n<p>Of <em>late</em>.</p>\n'
         "<p>More.</p>\n</div>\n"),
        (".. deprecated:: 3.0", '<div class="admonition"><p><strong>Deprecated since version 3.0</strong></p>\n</div>\n'),
        (".. versionchanged:: 2\n\n   Now.",
         '<div class="admonition"><p><strong>Changed in version 2</strong></p>\n<p>Now.</p>\n</div>\n'),
        (".. seealso:: other things",
         '<div class="admonition"><p><strong>See also</strong></p>\n<p>other things</p>\n</div>\n'),
        (".. legacy::\n\n   Old.", '<div class="admonition"><p><strong>Legacy</strong></p>\n<p>Old.</p>\n</div>\n'),
        (".. autosummary::\n   :toctree: x\n\n   known.f  does it\n\n   other",
         '<ul><li><p><a href="/known.f"><code>known.f</code></a>  does it</p>\n</li>\n'
         '<li><p><code>other</code> </p>\n</li>\n</ul>\n'),
        (".. toctree::\n\n   one\n\nkept", "<p>kept</p>\n"),
        (".. plot:: a b c\n   :include-source:\n\n   gone\n\nkept", "<p>kept</p>\n"),
        (".. currentmodule:: numpy\n\nkept", "<p>kept</p>\n"),
        (f".. index:: {'word ' * 101}\n\nkept", "<p>kept</p>\n"),
        (".. code-block:: python and more\n\n   x", "<pre>x</pre>\n"),
        (".. a comment\n\nkept", "<p>kept</p>\n"),
        (".. rubric:: Words", "<p>Words</p>"),
        (".. topic:: Title\n\n   body", "<p><strong>Title</strong></p><p>body</p>"),
        (":field: body", "<dl><dt>field</dt>\n<dd><p>body</p>\n</dd>\n</dl>\n"),
        ("    quoted", "<blockquote><p>quoted</p>\n</blockquote>\n"),
        ("=== ===\na   b\n=== ===\nc   d\n=== ===", "<td><p>c</p>\n</td>\n<td><p>d</p>\n</td>\n"),
        (".. unknown:: x\n\n   kept < words", "kept &lt; words"),
    ],
)  # fmt: skip
def test_what_each_node_becomes(text: str, expected: str) -> None:
    found = html(text)
    whole = "<table>" not in found and ".. unknown" not in text
    assert found == bare(expected) if whole else bare(expected) in found


def test_sections_have_headings_of_their_level_and_a_see_also_has_links() -> None:
    text = (
        "First.\n\nNotes\n-----\nThe notes.\n\nEmpty\n-----\n\nSee Also\n--------\nknown.a, other : Does <it>,\n"
        "    and more.\n:func:`~known.b`\n?? odd line ??\n"
    )
    assert html(text, 3) == bare(
        "<p>First.</p>\n\n<h3>Notes</h3>\n<p>The notes.</p>\n\n<h3>Empty</h3>\n<h3>See Also</h3>\n"
        '<ul><li><a href="/known.a"><code>known.a</code></a>, <code>other</code>: Does &lt;it&gt;, and more.</li>'
        '<li><a href="/known.b"><code>known.b</code></a></li><li>?? odd line ??</li></ul>'
    )


def test_sections_inside_a_body_are_one_level_deeper_and_end_at_six() -> None:
    inner = "x\n\nFirst one\n+++++++++\n\nbody\n\nSecond\n::::::\n\nmore\n\nThird\n++++++++\n\nlast"
    for level, (first, second) in {2: (3, 4), 4: (5, 6), 5: (6, 6)}.items():
        found = html(inner, level)
        assert f"<h{first}>First one</h{first}>" in found
        assert f"<h{second}>Second</h{second}>" in found
        assert f"<h{first}>Third</h{first}>" in found


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("Title\n-----\nbody", [("Title", "\nbody")]),
        ("Title\n--\nbody", [("", "Title\n--\nbody")]),
        ("A title of\n-------\nbody", [("A title of", "\nbody")]),
        ("a b c d e fgh\n---------\nbody", [("", "a b c d e fgh\n---------\nbody")]),
        ("a b c d e fgh\n----------\nbody", [("a b c d e fgh", "\nbody")]),
        ("a b c defghijkl\n---\nbody", [("a b c defghijkl", "\nbody")]),
        ("a b c d efghijkl\n---\nbody", [("", "a b c d efghijkl\n---\nbody")]),
        ("a b c d efghijkl\n---\nX\n---\nbody", [("", "a b c d efghijkl\n---\n"), ("X", "\nbody")]),
        ("\n \nX\n===", [("X", "")]),
        ("", []),
    ],
)
def test_a_title_is_a_line_with_a_rule_below(text: str, sections: list[tuple[str, str]]) -> None:
    assert split_sections(text) == sections


def test_a_body_that_is_no_markup_becomes_preformatted_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyllama.demo_site import docstring_html as module

    text = "Words.\n\n    kept  as it is"
    for level, plain in ((4, True), (3, False), (5, True)):

        def parse(text: str, observer: Any, level: int = level, real: Any = module.parse) -> Any:
            observer({"level": level})
            observer({"level": 1})
            return real("Parsed.", observer)

        monkeypatch.setattr(module, "parse", parse)
        assert html(text) == ("<pre>Words.\n\n    kept  as it is</pre>" if plain else "<p>Parsed.</p>")
        monkeypatch.undo()

    def fails(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(module, "parse", fails)
    assert html(text) == "<pre>Words.\n\n    kept  as it is</pre>"


def test_long_lines_are_parsed_and_nothing_is_read_or_run() -> None:
    assert html("*a* " + "x" * 99_000).startswith("<p><em>a</em> xxx")
    assert "root:" not in html(".. include:: /etc/passwd\n\nkept")
    assert "<b>" not in html(".. raw:: html\n\n   <b>x</b>")
    assert "<span" not in html(".. code:: python\n\n   def f(): pass")
