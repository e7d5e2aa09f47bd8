import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.demo_site.docstring_html import docstring_html, split_sections

NUMPYDOC = """Sum of two numbers.

Parameters
----------
a_ : int
    The first, see `other`.
*args : list
    All others.

See Also
--------
other : Does something else,
    and more.

Notes
-----
.. versionadded:: 1.2

Uses :math:`a + b` [1]_ and :func:`~pkg.other`::

    a + b

Examples
--------
>>> add(1, 2)
3
"""


def html(text: str) -> str:
    found = docstring_html(text, lambda name: "/other.html" if name.endswith("other") else None)
    return re.sub(r' class="[^"]*"', "", found)


def test_numpydoc_sections_become_headings_lists_code_and_links():
    found = html(NUMPYDOC)
    for piece in (
        "<p>Sum of two numbers.</p>",
        "<h2>Parameters</h2>",
        "<dt>a_ : int</dt>",
        '<a href="/other.html"><code>other</code></a>',
        "<dt>*args : list</dt>",
        '<li><a href="/other.html"><code>other</code></a>: Does something else, and more.</li>',
        "New in version 1.2",
        "<code>a + b</code> [1]",
        "<pre>a + b</pre>",
        "<pre>&gt;&gt;&gt; add(1, 2)\n3</pre>",
    ):
        assert piece in found, piece


def test_text_that_is_no_rst_keeps_all_its_words_and_shows_no_error():
    text = "Usage: tool [-x]\n   -x  do it\n odd indent `open\n\n.. nosuchthing:: here\n   inside it\n\n=== ==\na b\n=== =="
    found = html(text)
    for word in ("Usage:", "do it", "odd indent", "open", "inside it"):
        assert word in found
    assert "Unknown directive" not in found


@pytest.mark.parametrize(
    "text", [".. raw:: html\n\n   <script>x</script>", ".. include:: /etc/passwd", "`a <javascript:x>`_"]
)
def test_a_docstring_cannot_inject_markup_or_read_files(text: str):
    found = html(text)
    assert "<script" not in found
    assert "root:" not in found
    assert 'href="javascript' not in found


def test_sections_are_split_at_underlined_titles():
    assert split_sections("Intro\n\n====\nTop\n====\nbody\n\nSub\n---\nmore") == [
        ("", "Intro\n\n"),
        ("Top", "\nbody\n\n"),
        ("Sub", "\nmore"),
    ]


@given(st.text(max_size=200))
def test_any_text_becomes_html(text: str):
    assert isinstance(html(text), str)
