"""Untrusted texts stay text in what a template prints: nothing in them is markup, ends an attribute, or cannot be shown."""

from typing import Any

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from tinyllama.report.templates import environment


def printed(value: Any, expression: str = "value") -> str:
    return environment.from_string(f"{{{{ {expression} }}}}").render(value=value)


def test_markup_and_both_quotes_are_escaped():
    assert printed("""<a href="b" id='c'>&amp;""") == "&lt;a href=&#34;b&#34; id=&#39;c&#39;&gt;&amp;amp;"
    assert [printed(value) for value in (None, 3.5, ["<"])] == ["None", "3.5", "[&#39;&lt;&#39;]"]
    assert printed("<b>", "value|shortened(2)") == "&lt;b …"


def test_template_code_in_a_text_is_only_text():
    for code in ("{{ 7 * 7 }}", "{% raw %}", "{# gone #}", "{{ value }}"):
        assert printed(code) == code


def test_markup_of_a_macro_is_final_and_its_arguments_are_escaped():
    source = "{% macro bold(text) %}<b>{{ text }}</b>{% endmacro %}{{ bold(value) }}"
    assert environment.from_string(source).render(value="<i>") == "<b>&lt;i&gt;</b>"
    assert printed(Markup("<hr>")) == "<hr>"


def test_a_name_that_a_template_misspells_is_an_error():
    with pytest.raises(UndefinedError):
        printed("x", "valeu")


@pytest.mark.parametrize("character", [*"\x00\x08\x0b\x0d\x1f\x7f\x80\x9f\ud800\udbff\udfff\ufffe\uffff"])
def test_what_no_page_can_show_is_replaced(character: str):
    assert printed(f"a{character}b") == "a\ufffdb"


@pytest.mark.parametrize("character", [*"\t\n ~\xa0\ud7ff\ue000\ufffd\U0001f600"])
def test_what_a_page_can_show_stays(character: str):
    assert printed(f"a{character}b") == f"a{character}b"


def test_a_text_is_shortened_before_it_is_escaped():
    assert printed("&" * 4000, "value|shortened") == "&amp;" * 4000
    assert printed("&" * 4001, "value|shortened") == "&amp;" * 4000 + " …"
    assert printed("abc", "value|shortened(3)") == "abc"
    assert printed("abcd", "value|shortened(3)") == "abc …"
    assert printed("\x00bcd", "value|shortened(3)") == "\ufffdbc …"
